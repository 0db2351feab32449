"""Making, keeping and finding again of mixed tables of word embeddings.

A float folder may hold `polyrank_table.safetensors`, the mixed table that its word embeddings are
the values of. A model that was trained on such a folder, its embeddings frozen, is then quantised
with that very table and without a second loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from polyrank._files import building, publish, replacing
from polyrank.checkpoint.building import check_free, copy_rest
from polyrank.checkpoint.formats.mixed import (
    CODED_TIERS,
    CodedTier,
    MixedTable,
    locate_mixed,
    pack_tiers,
    read_mixed,
    unpack_mixed,
)
from polyrank.checkpoint.formats.quantization import WORD_TABLE
from polyrank.checkpoint.header import read_header
from polyrank.checkpoint.layouts import TABLE_FILE, WEIGHTS_FILE
from polyrank.checkpoint.reader import Checkpoint
from polyrank.checkpoint.saving import save_aligned
from polyrank.checkpoint.weights import Weights
from polyrank.compress.quantize.blocks import quantize_blocks
from polyrank.compress.trim.run import open_vocabulary
from polyrank.compress.vocabulary.choice import piece_worth
from polyrank.compress.vocabulary.codes import learn_codewords, nearest, sample_rows
from polyrank.compress.vocabulary.corpus import CorpusConfig, read_texts
from polyrank.compress.vocabulary.counting import count_pieces
from polyrank.compress.vocabulary.tiers import LARGE_PARTS, PartSizes, TierChoice, choose_tiers
from polyrank.encoder.checks import check_weights
from polyrank.errors import CapabilityError, CheckpointNotFoundError, ConfigError
from polyrank.progress import StepProgress
from polyrank.text.tokenizer import Tokenizer
from polyrank.types import Float16Array, Float32Array, UInt8Array

DEFAULT_MEGABYTES = 19.2

_SHARES = (0.2, 0.05, 0.75)  # see `piece_worth`: the texts know less than the tokenizer does
# Rare pieces count for more than their share: what is searched is told apart by them, and other
# texts have other rare pieces. Vectors and rankings lose less (docs/experiments.md).
_WORTH_EXPONENT = 0.85


@dataclass(frozen=True, slots=True)
class TableConfig:
    """Settings of a mixed table.

    Attributes:
        megabytes: What it may take, in millions of bytes.
        corpus: How texts are read; those held out are not counted.

    Raises:
        ConfigError: If `megabytes` is not above 0.
    """

    megabytes: float = DEFAULT_MEGABYTES
    corpus: CorpusConfig = field(default_factory=lambda: CorpusConfig(held_out=0.0))

    def __post_init__(self) -> None:
        if not self.megabytes > 0:
            raise ConfigError(f"the table must be allowed more than {self.megabytes} MB")


@dataclass(frozen=True, slots=True)
class TableFigures:
    """What a mixed table came to.

    Attributes:
        num_rows: Rows of each tier.
        size_bytes: All its tensors.
        error: Squared error relative to the variance of the rows, all rows alike.
    """

    num_rows: tuple[int, ...]
    size_bytes: int
    error: float


def make_table(
    checkpoint: Checkpoint,
    texts: Sequence[Path],
    config: TableConfig,
    progress: StepProgress | None = None,
) -> MixedTable:
    """Compress the word embeddings of a checkpoint, the pieces that texts use least most.

    Pieces are weighed as `polyrank compress trim` weighs them, but mostly by the tokenizer's own
    probabilities, and to the power 0.85. Special tokens, and the pieces of the checkpoint's
    prompts, which no text holds and every sequence does, are of tier 0.

    Args:
        checkpoint: A float checkpoint.
        texts: Files and folders of texts; see `read_texts`.
        config: Settings.
        progress: Called as work goes on, with the steps "texts" and "codebooks".

    Returns:
        The table.

    Raises:
        ConfigError: If the checkpoint is int8, or the size cannot be had.
        CapabilityError: If values are beyond float16, or the tokenizer is of another kind.
        CorruptWeightsError: If the embeddings hold NaN or infinity.
        DataError: If the texts cannot be read, or are empty.
    """
    table = _float_table(checkpoint)
    tiers, part_sizes = _tiers(checkpoint, texts, config, progress)
    return compress_rows(table, tiers, config.corpus.seed, progress, part_sizes)


def _tiers(
    checkpoint: Checkpoint,
    texts: Sequence[Path],
    config: TableConfig,
    progress: StepProgress | None,
) -> TierChoice:
    vocabulary, body = open_vocabulary(checkpoint), checkpoint.spec.body
    tokenizer = Tokenizer(checkpoint.tokenizer_file, is_lowercased=checkpoint.spec.is_lowercased)
    counts, _ = count_pieces(tokenizer, read_texts(texts, config.corpus, progress), len(vocabulary))
    worth = np.zeros(body.vocab_size)  # the table may have rows that no piece is of
    worth[: len(vocabulary)] = piece_worth(vocabulary, counts, _SHARES) ** _WORTH_EXPONENT
    worth /= worth.sum()
    pinned = np.zeros(body.vocab_size, bool)
    pinned[: len(vocabulary)] = vocabulary.required & (vocabulary.probabilities == 0)
    for ids in tokenizer.encode([*checkpoint.spec.prompts.by_name.values()]):
        pinned[ids] = True
    return choose_tiers(worth, pinned, body.hidden_size, int(config.megabytes * 1e6))


def compress_rows(
    table: Float32Array,
    tiers: UInt8Array,
    seed: int = 0,
    progress: StepProgress | None = None,
    part_sizes: PartSizes = LARGE_PARTS,
) -> MixedTable:
    """Return a table with each row in a given tier.

    Args:
        table: Finite values that float16 can hold, shape (num_rows, width), width a multiple of
            32.
        tiers: Tier of each row, shape (num_rows,), values 0 to 3.
        seed: Of the samples that codebooks are learnt from.
        progress: Called with the step "codebooks".
        part_sizes: Values that a code stands for, in tiers 1 to 3; divisors of the width.

    Returns:
        The mixed table.
    """
    width = table.shape[1]
    counter = _Counter(1 + sum(width // values for values in part_sizes), progress)
    generator = np.random.default_rng(seed)
    rest = np.flatnonzero(tiers)
    coarse = learn_codewords(table[rest[sample_rows(len(rest), generator)]], generator)
    counter.step()
    first, second, third = (
        _coded_tier(table[tiers == number], coarse, values, generator, counter)
        for number, values in zip(CODED_TIERS, part_sizes, strict=True)
    )
    blocks, scales = quantize_blocks(table[tiers == 0])
    return MixedTable(len(table), blocks, scales, pack_tiers(tiers), coarse, (first, second, third))


class _Counter:
    """Reports codebooks that are done."""

    def __init__(self, total: int, progress: StepProgress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def step(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress("codebooks", self._done, self._total)


def _coded_tier(
    rows: Float32Array,
    coarse: Float16Array,
    values: int,
    generator: np.random.Generator,
    counter: _Counter,
) -> CodedTier:
    wide = coarse.astype(np.float32)
    chosen = nearest(rows, wide)
    rows = rows - wide[chosen]
    sample = sample_rows(len(rows), generator)
    codes, words = [chosen], []
    for start in range(0, rows.shape[1], values):
        part = np.ascontiguousarray(rows[:, start : start + values])
        words.append(learn_codewords(part[sample], generator))
        codes.append(nearest(part, words[-1].astype(np.float32)))
        counter.step()
    return CodedTier(np.stack(codes, axis=1), np.stack(words))


def measure_table(table: MixedTable, exact: Float32Array) -> TableFigures:
    """Return what a mixed table takes and loses.

    Args:
        table: The table.
        exact: What it was made of, shape (num_rows, width).

    Returns:
        Rows, bytes and error.
    """
    error = np.square(unpack_mixed(table) - exact).sum(dtype=np.float64)
    variance = np.square(exact - exact.mean(axis=0)).sum(dtype=np.float64)
    return TableFigures(
        num_rows=tuple(np.bincount(table.tiers, minlength=1 + len(CODED_TIERS)).tolist()),
        size_bytes=sum(array.nbytes for array in table.tensors("").values()),
        error=float(error / variance) if variance else 0.0,
    )


def write_table_folder(checkpoint: Checkpoint, table: MixedTable, output: Path) -> None:
    """Write a float32 checkpoint whose word embeddings are the values of a mixed table.

    The table itself lies beside them, for `load_table`.

    Args:
        checkpoint: The float checkpoint that the table was made of.
        table: The table.
        output: Folder to make; it appears only when all is done.

    Raises:
        ConfigError: If `output` exists.
    """
    check_free(output)
    weights, source = checkpoint.weights, checkpoint.spec.folder
    stored = checkpoint.body_tensors[WORD_TABLE].name
    with building(output) as folder:
        copy_rest(source, folder, {path.resolve() for path in weights.paths})
        target = folder / weights.folder.relative_to(source)
        target.mkdir(parents=True, exist_ok=True)
        tensors = {name: weights.get_float32(name) for name in weights if weights.is_float(name)}
        with replacing(target / WEIGHTS_FILE) as path:
            save_aligned({**tensors, stored: unpack_mixed(table)}, path)
        with replacing(folder / TABLE_FILE) as path:
            save_aligned(table.tensors(WORD_TABLE), path)
        publish(folder, output)


def load_table(folder: Path, checkpoint: Checkpoint) -> MixedTable:
    """Return the mixed table that the word embeddings of a checkpoint are the values of.

    Args:
        folder: Folder that holds the table, as `polyrank compress table` writes it.
        checkpoint: A float checkpoint, of that folder or trained from it with frozen embeddings.

    Returns:
        The table, as views of the mapped file.

    Raises:
        CheckpointNotFoundError: If the folder holds no such table.
        MissingWeightError: If the file lacks a tensor.
        CorruptWeightsError: If its tensors contradict each other or the checkpoint's shape.
        ConfigError: If the checkpoint's word embeddings are others.
    """
    path = folder / TABLE_FILE
    if not path.is_file():
        raise CheckpointNotFoundError(
            f"there is no {TABLE_FILE} in {folder}. Name the folder that `polyrank compress table` "
            "wrote, or give --text to make a new table."
        )
    exact = _float_table(checkpoint)
    weights = Weights(read_header(path), folder)
    locate_mixed(WORD_TABLE, WORD_TABLE, exact.shape, weights)
    table = read_mixed(WORD_TABLE, len(exact), weights)
    if others := int((unpack_mixed(table) != exact).any(axis=1).sum()):
        raise ConfigError(
            f"{others:,} of {len(exact):,} word embeddings of {checkpoint.spec.name} are not those "
            f"of {path}: they were trained. Freeze them, or give --text to make a new table."
        )
    return table


def _float_table(checkpoint: Checkpoint) -> Float32Array:
    if checkpoint.spec.quantization is not None:
        raise ConfigError(
            f"{checkpoint.spec.name} is int8 already. Name the float checkpoint it was made of."
        )
    table = checkpoint.body_float32(WORD_TABLE)
    check_weights(checkpoint, [WORD_TABLE], [table])
    if table.shape[1] % 32:
        raise CapabilityError(
            f"mixed tables need rows of a multiple of 32 values; {checkpoint.spec.name} has "
            f"{table.shape[1]}. Choose --embeddings float16 or int8."
        )
    if np.abs(table).max() > np.finfo(np.float16).max / 2:
        raise CapabilityError(
            f"the word embeddings of {checkpoint.spec.name} are wider than float16 holds. "
            "Choose --embeddings float32 or int8."
        )
    return table
