"""Counting of the pieces that texts use, by language."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from polyrank.compress.vocabulary.corpus import CorpusText
from polyrank.compress.vocabulary.pieces import BoolArray, Float64Array, Int64Array
from polyrank.errors import DataError
from polyrank.text.tokenizer import Tokenizer

MAX_HELD_OUT = 2_000  # texts a language
_TEXTS_PER_CALL = 1024
_IDS_PER_MERGE = 1 << 20


@dataclass(frozen=True, slots=True)
class PieceCounts:
    """How often each language uses each piece: a sparse matrix, an entry for each pair met.

    Attributes:
        languages: Languages, sorted.
        owners: Language of each entry, shape (num_entries,), values in [0, num_languages).
        ids: Piece of each entry, shape (num_entries,), values in [0, num_ids).
        counts: Times that the piece was met, shape (num_entries,).
        num_ids: Ids of the vocabulary.
    """

    languages: tuple[str, ...]
    owners: Int64Array = field(repr=False)
    ids: Int64Array = field(repr=False)
    counts: Int64Array = field(repr=False)
    num_ids: int

    @property
    def totals(self) -> Float64Array:
        """Tokens of each language, shape (num_languages,)."""
        return self.by_language(np.ones(self.num_ids))

    def by_language(self, values: Float64Array | BoolArray) -> Float64Array:
        """Return, for each language, the sum of a value of pieces over its tokens.

        Args:
            values: A value for each piece, shape (num_ids,).

        Returns:
            Shape (num_languages,).
        """
        weights = self.counts * values[self.ids].astype(np.float64)
        sums = np.bincount(self.owners, weights, minlength=len(self.languages))
        return sums.astype(np.float64)

    def by_piece(self, weights: Float64Array) -> Float64Array:
        """Return, for each piece, the weighted sum of its counts over the languages.

        Args:
            weights: A weight for each language, shape (num_languages,).

        Returns:
            Shape (num_ids,).
        """
        sums = np.bincount(self.ids, self.counts * weights[self.owners], minlength=self.num_ids)
        return sums.astype(np.float64)


class _Tally:
    """Counts of one language, merged now and then."""

    def __init__(self) -> None:
        self._parts: list[tuple[Int64Array, Int64Array]] = []
        self._size = 0

    def add(self, ids: Int64Array) -> None:
        self._parts.append((ids, np.ones(len(ids), np.int64)))
        self._size += len(ids)
        if self._size > _IDS_PER_MERGE:
            self._parts, self._size = [self.merged()], 0

    def merged(self) -> tuple[Int64Array, Int64Array]:
        ids = np.concatenate([part[0] for part in self._parts])
        counts = np.concatenate([part[1] for part in self._parts])
        unique, places = np.unique(ids, return_inverse=True)
        totals = np.bincount(places.reshape(-1), counts, minlength=len(unique))
        return unique, totals.astype(np.int64)


def count_pieces(
    tokenizer: Tokenizer, texts: Iterable[CorpusText], num_ids: int
) -> tuple[PieceCounts, dict[str, list[str]]]:
    """Count the pieces of the texts to choose by, and set those held out aside.

    Args:
        tokenizer: The checkpoint's tokenizer.
        texts: Texts with their languages.
        num_ids: Ids of the vocabulary.

    Returns:
        Counts, and the texts held out by language, at most 2,000 each.

    Raises:
        DataError: If there is no text to count.
    """
    tallies: dict[str, _Tally] = {}
    held_out: dict[str, list[str]] = {}
    for block in _blocks(texts):
        for text in block:
            kept = held_out.setdefault(text.language, []) if text.is_held_out else []
            if text.is_held_out and len(kept) < MAX_HELD_OUT:
                kept.append(text.text)
        counted = [text for text in block if not text.is_held_out]
        found = tokenizer.encode([text.text for text in counted])
        for text, ids in zip(counted, found, strict=True):
            tallies.setdefault(text.language, _Tally()).add(ids.astype(np.int64))
    if not tallies:
        raise DataError("the texts are empty: there are no pieces to count.")
    return _matrix(tallies, num_ids), dict(sorted(held_out.items()))


def _blocks(texts: Iterable[CorpusText]) -> Iterator[list[CorpusText]]:
    stream = iter(texts)
    while block := list(islice(stream, _TEXTS_PER_CALL)):
        yield block


def _matrix(tallies: Mapping[str, _Tally], num_ids: int) -> PieceCounts:
    languages = tuple(sorted(tallies))
    merged = [tallies[language].merged() for language in languages]
    return PieceCounts(
        languages,
        np.repeat(np.arange(len(languages)), [len(ids) for ids, _ in merged]),
        np.concatenate([ids for ids, _ in merged]),
        np.concatenate([counts for _, counts in merged]),
        num_ids,
    )
