"""Checkpoint folders in the making: whether there is room for one, and what is copied."""

import shutil
from collections.abc import Collection
from pathlib import Path

from polyrank.checkpoint.layouts import CALIBRATION_FILE, GATE_FILE, HUB_PATTERNS
from polyrank.errors import ConfigError

MEASURED = (GATE_FILE, CALIBRATION_FILE)
"""Files that speak of the weights that they lie beside."""

COPIED = (*HUB_PATTERNS, "special_tokens_map.json", "README.md", "LICENSE*", "NOTICE*")


def check_free(output: Path) -> None:
    """Raise unless a folder can be made under a name.

    Args:
        output: The folder.

    Raises:
        ConfigError: If something has that name already.
    """
    if output.exists():
        raise ConfigError(f"{output} exists already. Choose another --output, or remove it first.")


def copy_rest(source: Path, folder: Path, left_out: Collection[Path]) -> None:
    """Copy what belongs to a checkpoint, but for its weights and what was measured on them.

    Args:
        source: The checkpoint's folder.
        folder: The folder to copy into.
        left_out: Resolved paths of the files that are written anew.
    """
    for pattern in COPIED:
        for path in sorted(source.glob(pattern)):
            is_index = path.name.endswith(".index.json")
            if path.resolve() in left_out or is_index or path.name in MEASURED:
                continue
            target = folder / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.is_file() and not target.exists():
                shutil.copyfile(path, target)
