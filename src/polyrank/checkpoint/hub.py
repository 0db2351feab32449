"""Where checkpoints come from: a local folder, the Hub's cache, the Hub, or the default model.

The only part of loading that touches the network or the environment. The Hub's own switches
(HF_HOME, HF_HUB_OFFLINE, HF_TOKEN, HF_ENDPOINT) are respected because huggingface_hub reads them.
"""

import builtins
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from polyrank.checkpoint.layouts import CONFIG_FILE, HUB_PATTERNS, PICKLE_FILES
from polyrank.errors import CheckpointError, CheckpointNotFoundError, UnsafeWeightsError

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
CACHE_VARIABLE = "POLYRANK_CACHE"
DEFAULT_MODEL = "polyrank-small"
BASE_MODEL = "multilingual-e5-small-q4"

_NOT_A_MODEL = (
    "{name!r} is neither a folder on this machine nor a Hub id such as BAAI/bge-reranker-v2-m3."
)
_UNREACHABLE = (
    "{name} is not, or not whole, in the Hub's cache, and could not be downloaded: offline, or the "
    "Hub did not answer ({reason}). Download it where there is a connection with "
    "`hf download {name}`, copy the folder here and name its path."
)
_FAILED = (
    "{name} could not be downloaded from the Hub: {reason}. Look to the connection, proxy settings "
    "and free disk space, then try again: what has been downloaded is kept."
)

HUB_ERRORS: Mapping[str, tuple[type[CheckpointError], str]] = {
    "GatedRepoError": (
        CheckpointNotFoundError,
        "{name} needs you to accept its terms on the Hub and to log in with `hf auth login`.",
    ),
    "DisabledRepoError": (
        CheckpointNotFoundError,
        "the Hub has disabled {name}; choose another model.",
    ),
    "RevisionNotFoundError": (
        CheckpointNotFoundError,
        "{name} has no revision {revision!r} on the Hub; its page lists branches, tags and "
        "commits under 'Files and versions'.",
    ),
    "RepositoryNotFoundError": (
        CheckpointNotFoundError,
        "there is no model {name} on the Hub, or it is private and you are not logged in "
        "(`hf auth login`). A folder on this machine would need its path.",
    ),
    "LocalEntryNotFoundError": (CheckpointNotFoundError, _UNREACHABLE),
    "OfflineModeIsEnabled": (CheckpointNotFoundError, _UNREACHABLE),
    "RevisionResolutionError": (CheckpointNotFoundError, _UNREACHABLE),
    "HFValidationError": (CheckpointNotFoundError, _NOT_A_MODEL),
    "HfHubHTTPError": (CheckpointError, _FAILED),
    "EntryNotFoundError": (CheckpointError, _FAILED),
    "XetDownloadError": (CheckpointError, _FAILED),
    "XetError": (CheckpointError, _FAILED),
    "CorruptedCacheException": (CheckpointError, _FAILED),
    # the HTTP library's: httpx2, httpx or requests, by the version of huggingface_hub
    "HTTPError": (CheckpointError, _FAILED),
    "InvalidURL": (CheckpointError, _FAILED),
    # full disk, no permission
    "OSError": (CheckpointError, _FAILED),
    # an answer that is not the Hub's, as from the log-in page of a hotel's network
    "ValueError": (CheckpointError, _FAILED),
    "LookupError": (CheckpointError, _FAILED),
    # hf_xet's only way to say that a download failed (huggingface_hub issue 3036)
    "RuntimeError": (CheckpointError, _FAILED),
}
"""Errors of a download by class name, and what they become. The class nearest to the raised
one decides. By name, since importing this module must not load huggingface_hub, and since its
versions differ in the classes they have."""

_TIMEOUTS = {"TimeoutException", "Timeout"}  # of httpx2 and httpx, and of requests


def cache_folder() -> Path:
    """Return polyrank's own cache folder, which may not exist yet.

    ``POLYRANK_CACHE`` if set, else ``polyrank`` in ``XDG_CACHE_HOME`` or ``~/.cache``.
    """
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "polyrank"


def default_model_folder() -> Path:
    """Return the folder of the model used when the caller names none: it ships with polyrank.

    Returns:
        A folder inside the package.

    Raises:
        CheckpointNotFoundError: If it was left out of the install.
    """
    folder = Path(__file__).resolve().parents[1] / "models" / DEFAULT_MODEL
    if not (folder / CONFIG_FILE).is_file():
        raise CheckpointNotFoundError(
            f"this install of polyrank lacks its default model, {folder}. Install polyrank again, "
            "or name a model: a local folder or a Hub id such as BAAI/bge-reranker-v2-m3."
        )
    return folder


def base_model_folder() -> Path:
    """Return the folder of the float model that the default one is made of.

    Returns:
        The one built into polyrank's cache.

    Raises:
        CheckpointNotFoundError: If it was not built.
    """
    folder = cache_folder() / "models" / BASE_MODEL
    if not (folder / CONFIG_FILE).is_file():
        raise CheckpointNotFoundError(
            f"the base model is not at {folder}. Build it once from a checkout of polyrank with "
            "`make model`."
        )
    return folder


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
        CheckpointError: If a download fails half-way.
    """
    if model is None:
        folder = default_model_folder()
        return folder, folder.name
    name = os.fspath(model)
    path = _local(name)
    if path is not None and path.is_dir():
        return path, path.name
    if path is not None or not HUB_ID.fullmatch(name):
        raise CheckpointNotFoundError(_NOT_A_MODEL.format(name=name))
    return _download(name, revision, cache_dir, local_files_only), name


def resolve_float(
    model: str | os.PathLike[str] | None, *, revision: str | None = None
) -> tuple[Path, str]:
    """Return the folder of a model to train or to compress, and the name to call it by.

    Args:
        model: As for `resolve`, but None is the base model: the default one is int8.
        revision: Branch, tag or commit on the Hub.

    Returns:
        Folder and name.

    Raises:
        CheckpointNotFoundError: If there is no such model, or the base model was not built.
        UnsafeWeightsError: If the Hub has its weights only as a pickle.
        CheckpointError: If a download fails half-way.
    """
    return resolve(base_model_folder() if model is None else model, revision=revision)


def _local(name: str) -> Path | None:
    """Return the absolute path of a file or folder that exists, else None."""
    try:
        # an empty name would be the working folder
        return Path(name).expanduser().resolve(strict=True) if name else None
    except (OSError, ValueError, RuntimeError):
        return None  # absent, too long, with a null character, or of an unknown user


def _download(
    name: str,
    revision: str | None,
    cache_dir: str | os.PathLike[str] | None,
    local_files_only: bool,
) -> Path:
    # imported here: it takes 0.3 s, and local folders do not need it
    from huggingface_hub import snapshot_download

    only_cache = "only the cache was to be used" if local_files_only else _silence(name, revision)
    try:
        folder = Path(
            snapshot_download(
                name,
                revision=revision,
                cache_dir=None if cache_dir is None else Path(cache_dir),
                local_files_only=only_cache is not None,
                allow_patterns=list(HUB_PATTERNS),
            )
        )
        if only_cache is None and not _has_weights(folder):
            _refuse_without_weights(name, revision)
    except _foreign_errors() as exc:
        raise _translate(exc, name, revision, only_cache) from exc
    return folder


def _silence(name: str, revision: str | None) -> str | None:
    """Say that the Hub does not answer in time, if so.

    snapshot_download sets no limit for its first request: behind a firewall that drops packets
    even a cached model would wait for minutes. Errors other than silence are left to it.
    """
    from huggingface_hub import HfApi, constants

    timeout_s = constants.HF_HUB_ETAG_TIMEOUT
    try:
        HfApi().model_info(name, revision=revision, timeout=timeout_s)
    except _foreign_errors() as exc:
        if not _TIMEOUTS.isdisjoint(cls.__name__ for cls in type(exc).__mro__):
            return f"no answer within {timeout_s} s"
    return None


def _foreign_errors() -> tuple[type[Exception], ...]:
    """Return the classes that `HUB_ERRORS` names, as far as the installed libraries have them."""
    from huggingface_hub import errors

    http_library = sys.modules[errors.HfHubHTTPError.__bases__[0].__module__]
    classes = (
        getattr(home, name, None)
        for home in (errors, http_library, builtins)
        for name in HUB_ERRORS
    )
    return tuple(found for found in classes if isinstance(found, type))


def _translate(
    exc: Exception, name: str, revision: str | None, only_cache: str | None
) -> CheckpointError:
    made, message = next(
        HUB_ERRORS[cls.__name__] for cls in type(exc).__mro__ if cls.__name__ in HUB_ERRORS
    )
    said = str(exc.__cause__ or only_cache or exc).strip() or type(exc).__name__
    reason = said.splitlines()[0].rstrip(".: ")
    return made(message.format(name=name, revision=revision or "main", reason=reason))


def _has_weights(folder: Path) -> bool:
    # old sentence-transformers folders keep the body in 0_Transformer
    return any(any(folder.glob(pattern)) for pattern in ("*.safetensors*", "0_*/*.safetensors*"))


def _refuse_without_weights(name: str, revision: str | None) -> None:
    from huggingface_hub import HfApi

    files = HfApi().list_repo_files(name, revision=revision)
    pickles = [file for file in files if file.rsplit("/", 1)[-1] in PICKLE_FILES]
    if pickles:
        raise UnsafeWeightsError(
            f"{name} has its weights only as {pickles[0]}, a pickle, which can run foreign code "
            "when opened. Ask for a safetensors version (many repositories have one as a pull "
            'request: revision="refs/pr/N"), or convert it where you trust it with transformers: '
            f"AutoModel.from_pretrained('{name}').save_pretrained(FOLDER), for a reranker or a "
            "classifier with AutoModelForSequenceClassification."
        )
    held = ", ".join(files[:8]) + (" and more" if len(files) > 8 else "")
    raise CheckpointNotFoundError(
        f"{name} has no safetensors weights on the Hub; it holds {held or 'nothing'}. "
        "Choose a repository that has model.safetensors."
    )
