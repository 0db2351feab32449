"""Which files of a folder decide an output, what state they are in, and a hash of what they say.

Weights alone do not: a changed pooling, prompt or length limit gives other scores from the same
tensors. The state is for telling in microseconds whether a loaded model is still the folder's; the
hash is for records that outlive the files' times.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from polyrank.checkpoint.files import MAX_PLAIN_BYTES, is_file, read_file, read_object
from polyrank.checkpoint.first_stage import FIRST_STAGE_KEY
from polyrank.checkpoint.layouts import (
    CALIBRATION_FILE,
    COMPRESSED_TOKENIZER_FILE,
    CONFIG_FILE,
    GATE_FILE,
    PROMPTS_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    TRANSFORMER_CONFIG_FILES,
    WEIGHTS_INDEX_FILE,
)
from polyrank.checkpoint.modules import FileState, Modules, file_state

FolderState = tuple[FileState, ...]

_WEIGHTS = "*.safetensors"


def read_state(modules: Modules) -> FolderState:
    """Return the state of every file that decides an output, absent ones among them.

    Args:
        modules: The chain of the folder, with the state that its own file had when it was read.

    Returns:
        Places, sizes, times and numbers on disk; another one after any of the files is replaced.
    """
    tokenizers = (TOKENIZER_FILE, COMPRESSED_TOKENIZER_FILE)
    own = (*tokenizers, TOKENIZER_CONFIG_FILE, *TRANSFORMER_CONFIG_FILES)
    beside = (PROMPTS_FILE, GATE_FILE, CALIBRATION_FILE, *tokenizers)
    paths = {modules.folder / name: None for name in beside}
    paths |= {modules.body_folder / name: None for name in own}
    for folder in (modules.body_folder, *modules.folders):
        paths |= dict.fromkeys((folder / CONFIG_FILE, folder / WEIGHTS_INDEX_FILE))
        paths |= dict.fromkeys(sorted(folder.glob(_WEIGHTS)))
    return (modules.state, *map(file_state, paths))


def folder_state(folder: Path) -> FolderState:
    """Return the state of a folder that may have changed; raises what `Modules` raises."""
    return read_state(Modules(folder))


def settings_fingerprint(modules: Modules, tokenizer_file: Path) -> str:
    """Return a SHA-256 of what decides an output beside the weights of the body.

    It covers config.json, modules.json, the folders of its modules with their weights, prompts,
    length limits and the tokenizer. What first-stage scores count for is left out: it is added to
    logits afterwards, and may be learnt when all else is measured.

    Args:
        modules: The chain of the folder.
        tokenizer_file: The tokenizer that is used.

    Returns:
        64 hexadecimal digits, the same wherever the folder lies.

    Raises:
        CheckpointError: If a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in _settings_files(modules, tokenizer_file):
        if path == modules.body_folder / CONFIG_FILE:
            content = read_object(path)
            content.pop(FIRST_STAGE_KEY, None)
            data = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
        else:
            data = read_file(path, MAX_PLAIN_BYTES)
        name = path.relative_to(modules.folder).as_posix()
        digest.update(f"{name}\n{len(data)}\n".encode())
        digest.update(data)
    return digest.hexdigest()


def _settings_files(modules: Modules, tokenizer_file: Path) -> Iterator[Path]:
    body = modules.body_folder
    names = (CONFIG_FILE, TOKENIZER_CONFIG_FILE, *TRANSFORMER_CONFIG_FILES)
    places = [body / name for name in names]
    places += [modules.path, modules.folder / PROMPTS_FILE, tokenizer_file]
    for folder in modules.folders:
        places += [folder / CONFIG_FILE, *sorted(folder.glob(_WEIGHTS))]
    yield from (path for path in dict.fromkeys(places) if is_file(path))
