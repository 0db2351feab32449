"""Writing of an int8 folder from a float checkpoint.

The layout is that of `docs/reference/checkpoint-format.md`.

The steps are the ones that the native encoder would take when it quantises at load: same
multipliers, same bits.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from polyrank._files import replacing
from polyrank.checkpoint.body import LAYER
from polyrank.checkpoint.building import copy_rest
from polyrank.checkpoint.files import MAX_PLAIN_BYTES, compress_json, read_object
from polyrank.checkpoint.formats.int4 import unpack_int4
from polyrank.checkpoint.formats.mixed import MixedTable
from polyrank.checkpoint.formats.panels import pack_panels
from polyrank.checkpoint.formats.quantization import (
    POSITION_TABLE,
    SCHEMES,
    VERSION,
    WORD_TABLE,
    multiplier_name,
    scale_name,
)
from polyrank.checkpoint.layouts import (
    COMPRESSED_TOKENIZER_FILE,
    CONFIG_FILE,
    QUANTIZATION_KEY,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
)
from polyrank.checkpoint.reader import Checkpoint
from polyrank.checkpoint.saving import save_aligned
from polyrank.checkpoint.spec import LinearType, TableType
from polyrank.compress.quantize.blocks import quantize_blocks
from polyrank.compress.quantize.multipliers import InputRows, choose_multipliers
from polyrank.encoder.checks import check_weights
from polyrank.encoder.native_linears import LINEARS
from polyrank.errors import CapabilityError, ConfigError
from polyrank.types import Float16Array, Float32Array, UInt8Array

_BLOCK_ROWS = 8192

Int8Array = NDArray[np.int8]


def quantize_rows(
    matrix: Float32Array, multipliers: Float32Array | None = None
) -> tuple[Int8Array, Float32Array]:
    """Return the int8 steps of a matrix, each row with a scale of its own, symmetric about 0.

    Args:
        matrix: Weights, shape (num_rows, num_columns).
        multipliers: Factors of the inputs, by which the columns are divided, shape
            (num_columns,).

    Returns:
        Steps from -127 to 127, and the value of a step of each row, shape (num_rows,), such
        that the matrix is about ``steps * scales[:, None] * multipliers``.
    """
    steps = np.empty(matrix.shape, np.int8)
    scales = np.empty(len(matrix), np.float32)
    for start in range(0, len(matrix), _BLOCK_ROWS):
        block = np.asarray(matrix[start : start + _BLOCK_ROWS], np.float32)
        if multipliers is not None:
            block = block / multipliers
        most = np.abs(block).max(axis=1)
        inverse = np.divide(np.float32(127), most, out=np.zeros_like(most), where=most > 0)
        scales[start : start + _BLOCK_ROWS] = most / np.float32(127)
        steps[start : start + _BLOCK_ROWS] = np.rint(block * inverse[:, None])
    return steps, scales


def write_int8(
    checkpoint: Checkpoint,
    inputs: InputRows | Float32Array,
    folder: Path,
    *,
    linears: LinearType = "int8",
    embeddings: TableType = "float16",
    mixed: MixedTable | None = None,
    is_tokenizer_compressed: bool = False,
    calibration: str = "",
) -> None:
    """Write a checkpoint whose linear layers compute in int8 into an empty folder.

    Args:
        checkpoint: A float checkpoint.
        inputs: What linear layers are given: rows, which multipliers are fitted to, or the largest
            magnitudes as `NativeEncoder.measure_inputs` gives them.
        folder: An existing folder; the weights become one file.
        linears: What linear layers are stored as: "int8", used where it is mapped, or "int4", 4-bit
            blocks, half the size, from which int8 is made at load.
        embeddings: Type of the table of word embeddings.
        mixed: The table itself where `embeddings` is "mixed"; see
            `polyrank.compress.vocabulary.table`.
        is_tokenizer_compressed: Whether tokenizer.json is stored as tokenizer.json.gz.
        calibration: What the inputs were recorded on, in words, for config.json.

    Raises:
        ConfigError: If the checkpoint is int8 already, or `mixed` is missing or not asked for.
        CapabilityError: If embeddings or 4-bit weights have values beyond float16.
        CorruptWeightsError: If weights hold NaN or infinity.
    """
    if checkpoint.spec.quantization is not None:
        raise ConfigError(
            f"{checkpoint.spec.name} is int8 already. Name the float checkpoint it was made of."
        )
    if (mixed is not None) != (embeddings == "mixed"):
        raise ConfigError('a mixed table is given with embeddings="mixed", and only then')
    source, body_folder = checkpoint.spec.folder, checkpoint.weights.folder
    anew = {path.resolve() for path in checkpoint.weights.paths}
    if is_tokenizer_compressed:
        anew |= {(place / TOKENIZER_FILE).resolve() for place in (source, body_folder)}
        _compress_tokenizer(checkpoint, folder)
    copy_rest(source, folder, anew)
    target = folder / body_folder.relative_to(source)
    target.mkdir(parents=True, exist_ok=True)
    tensors = dict(_tensors(checkpoint, inputs, linears, embeddings, mixed))
    with replacing(target / WEIGHTS_FILE) as path:  # as readable as other files
        save_aligned(tensors, path)
    config = read_object(body_folder / CONFIG_FILE)
    config[QUANTIZATION_KEY] = {
        "version": VERSION,
        "scheme": next(scheme for scheme, kind in SCHEMES.items() if kind == linears),
        "embeddings": embeddings,
        "multipliers": "fitted" if isinstance(inputs, InputRows) else "formula",
        "calibration": calibration,
    }
    text = json.dumps(config, ensure_ascii=False, indent=2)
    (target / CONFIG_FILE).write_text(text + "\n", "utf8")


def _compress_tokenizer(checkpoint: Checkpoint, folder: Path) -> None:
    path = folder / checkpoint.tokenizer_file.relative_to(checkpoint.spec.folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = read_object(checkpoint.tokenizer_file, MAX_PLAIN_BYTES)
    path.with_name(COMPRESSED_TOKENIZER_FILE).write_bytes(compress_json(content))


def _tensors(
    checkpoint: Checkpoint,
    inputs: InputRows | Float32Array,
    linears: LinearType,
    embeddings: TableType,
    mixed: MixedTable | None,
) -> Iterator[tuple[str, NDArray[np.generic]]]:
    stored = checkpoint.body_tensors[WORD_TABLE].name
    done = {stored}
    if mixed is not None:
        yield from mixed.tensors(stored).items()
    else:
        yield from _word_table(checkpoint, embeddings)
    for layer in range(checkpoint.spec.body.num_layers):
        for number, parts in enumerate(LINEARS.values()):
            names = [f"{LAYER.format(layer)}{part}.weight" for part in parts]
            done |= {checkpoint.body_tensors[name].name for name in names}
            matrices = [checkpoint.body_float32(name) for name in names]
            check_weights(checkpoint, names, matrices)
            blocks: list[tuple[UInt8Array, Float16Array]] = []
            if linears == "int4":
                blocks = _blocks(checkpoint, names, matrices)
                matrices = [unpack_int4(*block) for block in blocks]
            multipliers = choose_multipliers(inputs, layer, number, matrices)
            for i, name in enumerate(names):
                stored = checkpoint.body_tensors[name].name
                if blocks:
                    yield stored, blocks[i][0]
                    yield scale_name(stored), blocks[i][1]
                else:
                    steps, scales = quantize_rows(matrices[i], multipliers)
                    yield stored, pack_panels(steps)
                    yield scale_name(stored), scales
                yield multiplier_name(stored), multipliers
    weights = checkpoint.weights
    if mixed is not None:  # where bytes are counted, positions are worth half of theirs
        places = checkpoint.body_tensors[POSITION_TABLE].name
        done.add(places)
        values = weights.get_float32(places)
        fits = np.abs(values).max() <= np.finfo(np.float16).max
        yield places, np.ascontiguousarray(values, np.float16 if fits else np.float32)
    for name in weights:
        # whole numbers, such as the position_ids of old checkpoints, are no weights
        if name not in done and weights.is_float(name):
            yield name, np.ascontiguousarray(weights.get_float32(name))


def _blocks(
    checkpoint: Checkpoint, names: list[str], matrices: list[Float32Array]
) -> list[tuple[UInt8Array, Float16Array]]:
    """Return matrices that read the same input as 4-bit blocks."""
    if max(np.abs(matrix).max() for matrix in matrices) > np.finfo(np.float16).max:
        raise CapabilityError(
            f"{names[0]!r} of {checkpoint.spec.name}, or one that reads the same input, is wider "
            "than the scales of 4-bit blocks hold. Choose --weights int8."
        )
    return [quantize_blocks(matrix) for matrix in matrices]


def _word_table(
    checkpoint: Checkpoint, embeddings: TableType
) -> Iterator[tuple[str, NDArray[np.generic]]]:
    stored = checkpoint.body_tensors[WORD_TABLE].name
    table = checkpoint.body_float32(WORD_TABLE)
    check_weights(checkpoint, [WORD_TABLE], [table])
    if embeddings == "int8":
        steps, scales = quantize_rows(table)
        yield stored, steps
        yield scale_name(stored), scales
        return
    limit = np.float32 if embeddings == "float32" else np.float16
    if np.abs(table).max() > np.finfo(limit).max:
        raise CapabilityError(
            f"the word embeddings of {checkpoint.spec.name} are wider than {embeddings} holds. "
            "Choose --embeddings float32 or int8."
        )
    if embeddings == "int4":
        packed, block_scales = quantize_blocks(table)
        yield stored, packed
        yield scale_name(stored), block_scales
        return
    yield stored, np.ascontiguousarray(table, embeddings)
