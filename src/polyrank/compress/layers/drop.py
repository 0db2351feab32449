"""A checkpoint without some of its layers: what a smaller student starts from.

Reference: Sajjad et al., Computer Speech and Language 77, 2023, arXiv:2004.03844 (dropping layers
of trained transformers).
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from polyrank._files import building, publish
from polyrank.checkpoint.body import LAYER
from polyrank.checkpoint.building import check_free, copy_rest
from polyrank.checkpoint.files import read_object
from polyrank.checkpoint.header import read_header
from polyrank.checkpoint.layouts import CONFIG_FILE, WEIGHTS_FILE
from polyrank.checkpoint.reader import Checkpoint, read_checkpoint
from polyrank.checkpoint.saving import CopiedTensor, copy_tensors
from polyrank.errors import ConfigError

_LAYERS_KEY = "num_hidden_layers"


def spread_layers(num_layers: int, num_kept: int) -> tuple[int, ...]:
    """Return layers to keep, spread evenly, the first and the last among them.

    Args:
        num_layers: Layers of the checkpoint.
        num_kept: How many of them stay, 1 to `num_layers`.

    Returns:
        Their numbers, ascending; of one layer the last.

    Raises:
        ConfigError: If there are not so many.
    """
    if not 1 <= num_kept <= num_layers:
        raise ConfigError(
            f"layers must be 1 to {num_layers}, which the checkpoint has, not {num_kept}"
        )
    if num_kept == 1:
        return (num_layers - 1,)
    places = np.rint(np.linspace(0, num_layers - 1, num_kept)).astype(int)
    return tuple(int(place) for place in places)


def drop_layers(checkpoint: Checkpoint, output: Path, kept: Sequence[int]) -> Checkpoint:
    """Write a checkpoint with some of its layers; all else is copied bit for bit, heads too.

    What was measured on the old weights, a gate's record or a calibration, is left out.

    Args:
        checkpoint: A checkpoint with floating-point weights.
        output: Folder to make, whole or not at all.
        kept: Numbers of the layers that stay, from 0, in the order in which they will run.

    Returns:
        The new checkpoint.

    Raises:
        ConfigError: If there is something of that name already, the checkpoint is quantised, or a
            layer is not there, or named twice.
        OSError: If it cannot be written.
    """
    check_free(output)
    spec = checkpoint.spec
    if spec.quantization is not None:
        raise ConfigError(
            f"{spec.name} is quantised already. Drop layers of the float checkpoint that it was "
            "made of, then quantise the result with `polyrank compress quantize`."
        )
    num_layers = spec.body.num_layers
    if not kept or len(set(kept)) < len(kept) or not set(kept) <= set(range(num_layers)):
        raise ConfigError(
            f"the layers to keep must be different numbers from 0 to {num_layers - 1}, one at "
            f"least, not {list(kept)}"
        )
    with building(output) as folder:
        _write(checkpoint, folder, kept)
        read_checkpoint(folder)  # as whoever loads it will
        publish(folder, output)
    return read_checkpoint(output)


def _write(checkpoint: Checkpoint, folder: Path, kept: Sequence[int]) -> None:
    spec, body = checkpoint.spec, checkpoint.weights.folder
    anew = {path.resolve() for path in checkpoint.weights.paths} | {(body / CONFIG_FILE).resolve()}
    copy_rest(spec.folder, folder, anew)
    target = folder / body.relative_to(spec.folder)
    target.mkdir(parents=True, exist_ok=True)
    config = read_object(body / CONFIG_FILE) | {_LAYERS_KEY: len(kept)}
    text = json.dumps(config, ensure_ascii=False, indent=2)
    (target / CONFIG_FILE).write_text(text + "\n", encoding="utf8")
    before, after = map(re.escape, LAYER.split("{}"))
    pattern = re.compile(rf"({re.escape(spec.body.prefix)}{before})(\d+)({after}.*)")
    new_numbers = {old: new for new, old in enumerate(kept)}
    tensors = []
    for path in checkpoint.weights.paths:
        for info in read_header(path).values():
            found = pattern.fullmatch(info.name)
            if found is None:
                tensors.append(CopiedTensor.of(info))
            elif int(found[2]) in new_numbers:
                name = f"{found[1]}{new_numbers[int(found[2])]}{found[3]}"
                tensors.append(CopiedTensor.of(info, name))
    copy_tensors(tensors, target / WEIGHTS_FILE)
