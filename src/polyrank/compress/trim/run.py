"""From a checkpoint to the same one with a smaller vocabulary.

Only the pieces that texts use are kept; see `polyrank.compress.vocabulary.pieces` for what stays
the same and `polyrank.compress.vocabulary.choice` for the choice.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyrank._files import building, publish
from polyrank.checkpoint.building import check_free, copy_rest
from polyrank.checkpoint.files import MAX_PLAIN_BYTES, read_object
from polyrank.checkpoint.layouts import (
    COMPRESSED_TOKENIZER_FILE,
    CONFIG_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
)
from polyrank.checkpoint.reader import Checkpoint, read_checkpoint
from polyrank.compress.trim.coverage import measure_coverage, measure_scripts
from polyrank.compress.trim.record import (
    RECORD_FILE,
    CheckRecord,
    TrimRecord,
    write_trim_record,
)
from polyrank.compress.trim.weights import write_trimmed
from polyrank.compress.vocabulary.choice import ChoiceConfig, choose_pieces
from polyrank.compress.vocabulary.corpus import CorpusConfig, read_texts
from polyrank.compress.vocabulary.counting import count_pieces
from polyrank.compress.vocabulary.pieces import (
    BoolArray,
    Int64Array,
    Vocabulary,
    read_vocabulary,
    trimmed_tokenizer,
)
from polyrank.errors import CheckpointError, ConfigError
from polyrank.progress import StepProgress
from polyrank.text.tokenizer import Tokenizer

_ID_SUFFIX = "_token_id"
_ADDED = "added_tokens_decoder"

RankingCheck = Callable[[Path], CheckRecord]
"""Given the trimmed folder, measures ranking before and after."""


@dataclass(frozen=True, slots=True)
class TrimConfig:
    """Settings of trimming.

    Attributes:
        choice: How many pieces are kept, and by which rule.
        corpus: How texts are read, and which are held out.
        created: Date for the record, as in 2026-01-31.
    """

    choice: ChoiceConfig
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    created: str = ""


@dataclass(frozen=True, slots=True)
class TrimOutcome:
    """What came of trimming.

    Attributes:
        record: The figures.
        record_path: File that holds them.
        folder: The trimmed checkpoint, or None where the check refused it.
    """

    record: TrimRecord
    record_path: Path
    folder: Path | None


def trim_vocabulary(
    checkpoint: Checkpoint,
    output: Path,
    texts: Sequence[Path],
    config: TrimConfig,
    *,
    check: RankingCheck | None = None,
    progress: StepProgress | None = None,
) -> TrimOutcome:
    """Write a checkpoint with the pieces that texts use, and measure what that changes.

    Embeddings of kept pieces and all other weights are copied bit for bit. A text whose pieces
    are all kept gets the same vectors and scores, to the bit.

    Args:
        checkpoint: A checkpoint with floating-point weights.
        output: Folder to make; it appears only when all is done. Where the check refuses it,
            the record lies beside it, under its name with ``.trim.json`` added.
        texts: Files and folders of texts; see `read_texts`.
        config: Settings.
        check: Measures ranking before and after, and may refuse.
        progress: Called as work goes on.

    Returns:
        The figures, and the folder.

    Raises:
        ConfigError: If `output` exists, the checkpoint is int8, or the settings cannot be met.
        CapabilityError: If the tokenizer is of a kind that cannot be trimmed.
        CheckpointError: If the tokenizer contradicts the weights or itself.
        DataError: If the texts cannot be read, or are empty.
    """
    check_free(output)
    vocabulary = open_vocabulary(checkpoint)
    tokenizer = _tokenizer(checkpoint)
    counts, held_out = count_pieces(
        tokenizer, read_texts(texts, config.corpus, progress), len(vocabulary)
    )
    kept = choose_pieces(vocabulary, counts, config.choice)
    with building(output) as folder:
        new_ids = write_trimmed_folder(checkpoint, kept, folder)
        trimmed = read_checkpoint(folder)
        languages = measure_coverage(
            held_out, tokenizer, _tokenizer(trimmed), new_ids, vocabulary.unknown_id, progress
        )
        record = _record(checkpoint, trimmed, vocabulary, kept, config)
        record = replace(record, languages=languages, check=check(folder) if check else None)
        if not record.passed:
            path = output.with_name(f"{output.name}.trim.json")
            write_trim_record(record, path)
            return TrimOutcome(record, path, None)
        write_trim_record(record, folder / RECORD_FILE)
        publish(folder, output)
    return TrimOutcome(record, output / RECORD_FILE, output)


def _record(
    checkpoint: Checkpoint,
    trimmed: Checkpoint,
    vocabulary: Vocabulary,
    kept: NDArray[np.bool_],
    config: TrimConfig,
) -> TrimRecord:
    return TrimRecord(
        model=checkpoint.spec.name,
        created=config.created,
        pieces=sum(piece is not None for piece in vocabulary.pieces),
        pieces_after=int(kept.sum()),
        settings={**asdict(config.choice), **asdict(config.corpus)},
        weights_bytes=(_size(checkpoint.weights.paths), _size(trimmed.weights.paths)),
        tokenizer_bytes=(_size([checkpoint.tokenizer_file]), _size([trimmed.tokenizer_file])),
        languages={},
        scripts=measure_scripts(vocabulary, kept),
    )


def open_vocabulary(checkpoint: Checkpoint) -> Vocabulary:
    """Return the vocabulary of a checkpoint that can be trimmed.

    Args:
        checkpoint: The checkpoint.

    Returns:
        Its pieces; those that its configuration names by id must stay.

    Raises:
        ConfigError: If the checkpoint is int8.
        CapabilityError: If the tokenizer is of a kind that cannot be trimmed.
        CheckpointError: If the tokenizer has ids that the table of embeddings has no row for.
    """
    spec = checkpoint.spec
    if spec.quantization is not None:
        raise ConfigError(
            f"{spec.name} is quantised already. Trim the float checkpoint that it was made of, "
            "then quantise the result with `polyrank compress quantize`."
        )
    config = read_object(checkpoint.weights.folder / CONFIG_FILE)
    named = {*_named_ids(config), *map(int, _added_tokens(checkpoint))}
    # RoBERTa's positions are counted from the padding id, which must not move
    named |= set(range(spec.body.position_offset))
    vocabulary = read_vocabulary(
        read_object(checkpoint.tokenizer_file, MAX_PLAIN_BYTES), sorted(named)
    )
    if len(vocabulary) > spec.body.vocab_size:
        raise CheckpointError(
            f"{checkpoint.tokenizer_file} has {len(vocabulary):,} ids, but the weights have "
            f"{spec.body.vocab_size:,} rows. The two files belong to different checkpoints."
        )
    return vocabulary


def _named_ids(config: Mapping[str, Any]) -> Iterator[int]:
    for key, value in config.items():
        if key.endswith(_ID_SUFFIX):
            yield from (i for i in _as_list(value) if type(i) is int and i >= 0)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _added_tokens(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what tokenizer_config.json says of added tokens, by their ids as texts."""
    path = checkpoint.tokenizer_file.with_name(TOKENIZER_CONFIG_FILE)
    return (read_object(path) if path.is_file() else {}).get(_ADDED) or {}


def _tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    return Tokenizer(checkpoint.tokenizer_file, is_lowercased=checkpoint.spec.is_lowercased)


def _size(paths: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


def write_trimmed_folder(checkpoint: Checkpoint, kept: BoolArray, folder: Path) -> Int64Array:
    """Write a checkpoint with some of its pieces into an empty folder.

    Args:
        checkpoint: A checkpoint with floating-point weights.
        kept: Which pieces are kept, those that must stay among them, shape (num_ids,).
        folder: An existing folder; the weights become one file.

    Returns:
        New id of each old one, -1 for pieces that went, shape (num_ids,).

    Raises:
        CheckpointError: If the new tokenizer is not what was written.
    """
    rows = np.flatnonzero(kept)
    new_ids = np.full(len(kept), -1, np.int64)
    new_ids[rows] = np.arange(len(rows))
    source, body = checkpoint.spec.folder, checkpoint.weights.folder
    anew = {path.resolve() for path in checkpoint.weights.paths}
    tokenizers = (TOKENIZER_FILE, COMPRESSED_TOKENIZER_FILE)
    anew |= {(place / name).resolve() for place in (source, body) for name in tokenizers}
    anew |= {(body / CONFIG_FILE).resolve()}
    copy_rest(source, folder, anew)
    target = folder / body.relative_to(source)
    target.mkdir(parents=True, exist_ok=True)
    vocab_size = checkpoint.spec.body.vocab_size
    write_trimmed(checkpoint.weights, rows, vocab_size, target / WEIGHTS_FILE)
    _write_json(target / CONFIG_FILE, _trimmed_config(body / CONFIG_FILE, new_ids, len(rows)))
    _write_tokenizer(checkpoint, folder, new_ids)
    return new_ids


def _trimmed_config(path: Path, new_ids: Int64Array, num_pieces: int) -> dict[str, Any]:
    config = read_object(path)
    for key, value in config.items():
        if key.endswith(_ID_SUFFIX):
            moved = [int(new_ids[i]) if type(i) is int and i >= 0 else i for i in _as_list(value)]
            config[key] = moved if isinstance(value, list) else moved[0]
    return {**config, "vocab_size": num_pieces}


def _write_tokenizer(checkpoint: Checkpoint, folder: Path, new_ids: Int64Array) -> None:
    path = folder / checkpoint.tokenizer_file.relative_to(checkpoint.spec.folder)
    path = path.with_name(TOKENIZER_FILE)  # plain, since transformers has to train it
    content = trimmed_tokenizer(read_object(checkpoint.tokenizer_file, MAX_PLAIN_BYTES), new_ids)
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    path.write_text(text, "utf8")
    settings = path.with_name(TOKENIZER_CONFIG_FILE)
    if added := _added_tokens(checkpoint):
        moved = {str(new_ids[int(i)]): token for i, token in added.items()}
        _write_json(settings, {**read_object(settings), _ADDED: moved})
    _check_templates(_tokenizer(checkpoint), Tokenizer(path), new_ids)


def _check_templates(old: Tokenizer, new: Tokenizer, new_ids: Int64Array) -> None:
    """Raise unless a new tokenizer has the ids it should and puts special tokens as the old one."""
    parts = [*zip(old.single.parts, new.single.parts, strict=True)]
    parts += zip(old.pair.parts, new.pair.parts, strict=True)
    is_same = all(np.array_equal(new_ids[before], after) for before, after in parts)
    if not is_same or new.vocab_size != int((new_ids >= 0).sum()):
        raise CheckpointError(
            "the trimmed tokenizer.json numbers its special tokens in another way than it was "
            "written to: its added tokens and its vocabulary contradict each other."
        )


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", "utf8")
