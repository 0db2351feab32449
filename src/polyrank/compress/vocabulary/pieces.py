"""A tokenizer's vocabulary: its pieces, which of them must stay, and what follows from leaving.

Reads the content of tokenizer.json and writes a new one with fewer pieces. Ids keep their
order, so that the ids of special tokens at the beginning, and with them the padding id that
RoBERTa's positions are counted from, stay what they are.

The promise, by kind of tokenizer, for a text whose pieces are all kept:

- Unigram: the best path stays the best, since its edges stay and no edge is added; the unknown
  piece costs the lowest score of any piece less 10, so a piece of the lowest score stays too.
- WordPiece: the longest match is kept, so it stays the longest. A word that was unknown may
  become readable, where the piece that led into the dead end is gone.
- BPE: a piece stays together with the pieces that it is merged from, so each merge that led to
  the text's pieces is still there, and still the first in rank.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any, Literal, cast
from unicodedata import category, name

import numpy as np
from numpy.typing import NDArray

from polyrank.errors import CapabilityError, CheckpointError

Kind = Literal["Unigram", "WordPiece", "BPE"]
KINDS: tuple[Kind, ...] = ("Unigram", "WordPiece", "BPE")
COMMON = "common"  # digits, punctuation and symbols, which all scripts share
_WORD_START = "▁"

BoolArray = NDArray[np.bool_]
Int64Array = NDArray[np.int64]
Float64Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Pieces of a tokenizer.

    Attributes:
        kind: How it cuts words.
        pieces: Piece of each id; None for ids without one.
        probabilities: How often each piece is to be expected, by the tokenizer's own scores, or
            by Zipf's law of the ids where it has none; sums to 1, 0 for special tokens, shape
            (num_ids,).
        required: Pieces that must stay: special and added tokens, characters, bytes, and one of
            the lowest score, shape (num_ids,).
        unknown_id: Id of the piece for what cannot be read, or None.
        parents: For BPE, the two pieces that a piece is merged from, by id.
    """

    kind: Kind
    pieces: tuple[str | None, ...]
    probabilities: Float64Array = field(repr=False)
    required: BoolArray = field(repr=False)
    unknown_id: int | None
    parents: Mapping[int, tuple[int, int]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.pieces)


def read_vocabulary(content: Mapping[str, Any], more_required: Sequence[int] = ()) -> Vocabulary:
    """Return the vocabulary of a tokenizer.

    Args:
        content: Content of tokenizer.json.
        more_required: Ids that must stay for reasons of the caller's.

    Returns:
        Its pieces.

    Raises:
        CapabilityError: If the tokenizer is of a kind that cannot be trimmed.
        CheckpointError: If the file contradicts itself.
    """
    model = content.get("model") or {}
    kind = _kind(model)
    added = {int(token["id"]): str(token["content"]) for token in content.get("added_tokens") or []}
    pieces = _pieces(model, added)
    unknown_id = _unknown_id(model, pieces)
    special = {*added, *_special_ids(content), *more_required}
    if unknown_id is not None:
        special.add(unknown_id)
    if outside := sorted(i for i in special if not 0 <= i < len(pieces)):
        raise CheckpointError(
            f"tokenizer.json has {len(pieces)} ids, but its files name id {outside[0]} too. "
            "They belong to different checkpoints."
        )
    return Vocabulary(
        kind=kind,
        pieces=pieces,
        probabilities=_probabilities(model, pieces, special),
        required=_required(model, pieces, special),
        unknown_id=unknown_id,
        parents=_parents(model) if kind == "BPE" else {},
    )


def _kind(model: Mapping[str, Any]) -> Kind:
    kind = model.get("type")
    if kind not in KINDS:
        raise CapabilityError(
            f"tokenizer.json is of the kind {kind!r}; {', '.join(KINDS)} can be trimmed."
        )
    if kind == "BPE" and (
        model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
    ):
        raise CapabilityError(
            "tokenizer.json is BPE with marks inside words or at their ends, whose merges cannot "
            "be trimmed yet. RoBERTa's byte-level BPE can."
        )
    return cast(Kind, kind)


def _pieces(model: Mapping[str, Any], added: Mapping[int, str]) -> tuple[str | None, ...]:
    vocab = model["vocab"]
    own = (
        enumerate(piece for piece, _ in vocab)
        if isinstance(vocab, list)
        else ((i, piece) for piece, i in vocab.items())
    )
    by_id = {**added, **dict(own)}
    return tuple(by_id.get(i) for i in range(max(by_id) + 1))


def _unknown_id(model: Mapping[str, Any], pieces: Sequence[str | None]) -> int | None:
    if model["type"] == "Unigram":
        unknown = model.get("unk_id")
        return None if unknown is None else int(unknown)
    token = model.get("unk_token")
    return pieces.index(token) if token in pieces and token is not None else None


def _special_ids(content: Mapping[str, Any]) -> Iterator[int]:
    """Yield the ids that the post-processor and the padding name."""
    for entry in _processors(content.get("post_processor")):
        for token in (entry.get("special_tokens") or {}).values():
            yield from map(int, token["ids"])
        yield from (int(entry[key][1]) for key in ("sep", "cls") if entry.get(key))
    if padding := content.get("padding"):
        yield int(padding["pad_id"])


def _processors(entry: Any) -> Iterator[dict[str, Any]]:
    """Yield a post-processor, or the members of a sequence of them."""
    if not entry:
        return
    yield entry
    for member in entry.get("processors") or []:
        yield from _processors(member)


def _probabilities(
    model: Mapping[str, Any], pieces: Sequence[str | None], special: set[int]
) -> Float64Array:
    values = 1.0 / np.arange(1, len(pieces) + 1)
    if model["type"] == "Unigram":
        values[:] = 0
        scores = np.array([score for _, score in model["vocab"]], np.float64)
        values[: len(scores)] = np.exp(scores)
    values[[i for i, piece in enumerate(pieces) if piece is None or i in special]] = 0
    return values / values.sum() if values.any() else values


def _required(
    model: Mapping[str, Any], pieces: Sequence[str | None], special: set[int]
) -> BoolArray:
    prefix = model.get("continuing_subword_prefix") or ""
    required = np.array(
        [piece is not None and _is_basic(piece.removeprefix(prefix)) for piece in pieces], bool
    )
    required[list(special)] = True
    if model["type"] == "Unigram":
        scores = np.array([score for _, score in model["vocab"]], np.float64)
        lowest = np.flatnonzero(scores == scores.min())
        if not required[lowest].any():
            required[lowest[0]] = True
    return required


def _is_basic(piece: str) -> bool:
    """Return whether a piece is a character, or a byte such as <0x0A>."""
    return len(piece) == 1 or (len(piece) == 6 and piece.startswith("<0x") and piece[-1] == ">")


def _parents(model: Mapping[str, Any]) -> dict[int, tuple[int, int]]:
    """Return the last merge on the way from characters to each piece that can be reached."""
    vocab = model["vocab"]
    ranks = {pair: rank for rank, pair in enumerate(_pairs(model["merges"]))}
    parents: dict[int, tuple[int, int]] = {}
    for piece, i in vocab.items():
        parts = list(piece)
        while len(parts) > 2:
            pairs = [(ranks.get(pair, len(ranks)), at) for at, pair in enumerate(pairwise(parts))]
            rank, at = min(pairs)
            if rank == len(ranks):
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if len(parts) == 2 and tuple(parts) in ranks:
            parents[i] = (vocab[parts[0]], vocab[parts[1]])
    return parents


def _pairs(merges: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """Yield merges, which older files write as one text with a blank."""
    for merge in merges:
        first, second = merge.split(" ") if isinstance(merge, str) else merge
        yield first, second


def trimmed_tokenizer(content: Mapping[str, Any], new_ids: Int64Array) -> dict[str, Any]:
    """Return the content of tokenizer.json with the kept pieces alone.

    Args:
        content: Content of the old one.
        new_ids: New id of each old one, -1 for pieces that go, ascending, shape (num_ids,).

    Returns:
        Content of the new one.
    """
    model = dict(content["model"])
    if model["type"] == "Unigram":
        kept = np.flatnonzero(new_ids[: len(model["vocab"])] >= 0)
        model["vocab"] = [model["vocab"][i] for i in kept]
        if model.get("unk_id") is not None:
            model["unk_id"] = int(new_ids[model["unk_id"]])
    else:
        vocab = {piece: int(new_ids[i]) for piece, i in model["vocab"].items()}
        model["vocab"] = {piece: i for piece, i in vocab.items() if i >= 0}
    if model["type"] == "BPE":
        stay = model["vocab"]
        pairs = zip(model["merges"], _pairs(model["merges"]), strict=True)
        model["merges"] = [
            merge for merge, (a, b) in pairs if a in stay and b in stay and a + b in stay
        ]
    return {
        **content,
        "model": model,
        "added_tokens": [
            {**token, "id": int(new_ids[token["id"]])}
            for token in content.get("added_tokens") or []
        ],
        "post_processor": _renumbered(content.get("post_processor"), new_ids),
        "padding": _renumbered_padding(content.get("padding"), new_ids),
    }


def _renumbered(entry: Any, new_ids: Int64Array) -> Any:
    if not entry:
        return entry
    changed = dict(entry)
    if "processors" in entry:
        changed["processors"] = [_renumbered(member, new_ids) for member in entry["processors"]]
    if entry.get("special_tokens"):
        changed["special_tokens"] = {
            key: {**token, "ids": [int(new_ids[i]) for i in token["ids"]]}
            for key, token in entry["special_tokens"].items()
        }
    for key in ("sep", "cls"):
        if entry.get(key):
            changed[key] = [entry[key][0], int(new_ids[entry[key][1]])]
    return changed


def _renumbered_padding(padding: Any, new_ids: Int64Array) -> Any:
    return {**padding, "pad_id": int(new_ids[padding["pad_id"]])} if padding else padding


def scripts_of(pieces: Sequence[str | None]) -> tuple[tuple[str, ...], Int64Array]:
    """Return the script of each piece, that of its first letter.

    Args:
        pieces: Pieces; None counts as common.

    Returns:
        Names of scripts, as Unicode's character names begin, and the number of each piece's
        script among them, shape (num_pieces,).
    """
    found = [_script(piece or "") for piece in pieces]
    names = tuple(sorted(set(found)))
    numbers = {script: number for number, script in enumerate(names)}
    return names, np.array([numbers[script] for script in found], np.int64)


def _script(piece: str) -> str:
    return next((script for char in piece if (script := _script_of_char(char))), COMMON)


@cache
def _script_of_char(char: str) -> str | None:
    if char == _WORD_START or category(char)[0] not in "LM":
        return None
    return name(char, COMMON).split(" ")[0].lower()
