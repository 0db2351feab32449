"""Where checkpoints come from: a local folder, the Hub's cache, the Hub, or the default model.

The only part of loading that touches the network or the environment. The Hub's own switches
(HF_HOME, HF_HUB_OFFLINE, HF_TOKEN, HF_ENDPOINT) are respected because huggingface_hub reads them.
"""

import os
import re
from importlib import resources
from pathlib import Path

from polyrank.checkpoint.layouts import CONFIG_FILE, HUB_PATTERNS, MODULES_FILE, PICKLE_FILES
from polyrank.errors import CheckpointError, CheckpointNotFoundError, UnsafeWeightsError

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
CACHE_VARIABLE = "POLYRANK_CACHE"
DEFAULT_MODEL = "multilingual-e5-small-q4"


def cache_folder() -> Path:
    """Return polyrank's own cache folder, which may not exist yet.

    ``POLYRANK_CACHE`` if set, else ``polyrank`` in ``XDG_CACHE_HOME`` or ``~/.cache``.
    """
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "polyrank"


def default_model_folder() -> Path:
    """Return the folder of the model used when the caller names none.

    Raises:
        CheckpointNotFoundError: If it was neither shipped nor built.
    """
    packaged = Path(str(resources.files("polyrank"))) / "models" / DEFAULT_MODEL
    built = cache_folder() / "models" / DEFAULT_MODEL
    for folder in (packaged, built):
        if (folder / CONFIG_FILE).is_file():
            return folder
    raise CheckpointNotFoundError(
        f"the default model is not at {built}. Build it once from a checkout of polyrank with "
        "`make demo`, or name a model: a local folder or a Hub id such as "
        "BAAI/bge-reranker-v2-m3."
    )


def resolve(
    model: str | os.PathLike[str] | None,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> tuple[Path, str]:
    """Return the folder of a model and the name to call it by, downloading it if need be.

    Args:
        model: Local folder, Hub id, or None for the default model.
        revision: Branch, tag or commit on the Hub.
        cache_dir: The Hub's cache folder, if not the usual one.
        local_files_only: Whether to use only what is in the cache.

    Returns:
        Folder and name.

    Raises:
        CheckpointNotFoundError: If there is no such model, or it is not to be had offline.
        UnsafeWeightsError: If the Hub has its weights only as a pickle.
    """
    if model is None:
        folder = default_model_folder()
        return folder, folder.name
    path = Path(model).expanduser()
    if path.is_dir():
        return path.resolve(), path.resolve().name
    name = str(model)
    if path.exists() or not HUB_ID.fullmatch(name):
        raise CheckpointNotFoundError(
            f"{name!r} is neither a folder on this machine nor a Hub id such as "
            "BAAI/bge-reranker-v2-m3."
        )
    return _download(name, revision, cache_dir, local_files_only), name


def _download(
    name: str,
    revision: str | None,
    cache_dir: str | os.PathLike[str] | None,
    local_files_only: bool,
) -> Path:
    # imported here: it takes 0.3 s, and local folders do not need it
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        folder = Path(
            snapshot_download(
                name,
                revision=revision,
                cache_dir=None if cache_dir is None else Path(cache_dir),
                local_files_only=local_files_only,
                allow_patterns=list(HUB_PATTERNS),
            )
        )
    except GatedRepoError as exc:
        raise CheckpointNotFoundError(
            f"{name} needs you to accept its terms on the Hub and to log in with `hf auth login`."
        ) from exc
    except RevisionNotFoundError as exc:
        raise CheckpointNotFoundError(f"{name} has no revision {revision!r} on the Hub.") from exc
    except RepositoryNotFoundError as exc:
        raise CheckpointNotFoundError(
            f"there is no model {name} on the Hub, or it is private and you are not logged in "
            "(`hf auth login`). A folder on this machine would need its path."
        ) from exc
    except LocalEntryNotFoundError as exc:
        raise CheckpointNotFoundError(
            f"{name} is not in the Hub's cache and could not be downloaded (offline, or the Hub "
            "did not answer). Download it where there is a connection: `hf download "
            f"{name}`, then copy the folder and name its path."
        ) from exc
    except (HfHubHTTPError, HFValidationError, OSError) as exc:
        raise CheckpointError(f"{name} could not be downloaded from the Hub: {exc}") from exc
    _refuse_pickles(name, revision, folder, local_files_only)
    return folder


def _refuse_pickles(name: str, revision: str | None, folder: Path, offline: bool) -> None:
    if offline or (folder / MODULES_FILE).is_file() or any(folder.glob("*.safetensors*")):
        return
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        files = HfApi().list_repo_files(name, revision=revision)
    except (HfHubHTTPError, OSError):
        return  # the reader will say that there are no weights
    pickles = [file for file in files if file in PICKLE_FILES]
    if pickles:
        raise UnsafeWeightsError(
            f"{name} has its weights only as {pickles[0]}, a pickle, which can run foreign code "
            "when opened. Ask for a safetensors version (many repositories have one as a pull "
            'request: revision="refs/pr/N"), or convert it where you trust it with transformers: '
            f"AutoModel.from_pretrained('{name}').save_pretrained(FOLDER)."
        )
