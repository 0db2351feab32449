"""Labelled pairs of query and passage, for classifiers: one file of JSON lines a language.

A folder holds files ``NAME.jsonl`` or ``NAME.jsonl.gz`` of rows ``{"_id", "query", "passage",
"label", "lang"}``; where rows have no "lang", a folder of several files takes it from their names.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from polyrank.errors import ConfigError, DataError
from polyrank.evaluation.beir import CORPUS_FILES
from polyrank.evaluation.rows import JsonRow, read_lines

LabelNumbers = NDArray[np.intp]

_FORM = 'rows {"_id", "query", "passage", "label"} in files NAME.jsonl or NAME.jsonl.gz'
_KEYS = '"query", "passage" and "label"'


@dataclass(frozen=True, slots=True)
class LabelledPair:
    """A pair of texts and its true label.

    Attributes:
        query: The query.
        passage: The passage.
        label: The label.
        language: BCP 47 tag, or "all" where the set names no languages.
    """

    query: str
    passage: str
    label: str
    language: str


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """Labelled pairs of one or more languages.

    Attributes:
        name: Name of its folder.
        pairs: The pairs, language by language.
    """

    name: str
    pairs: tuple[LabelledPair, ...]

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages, sorted."""
        return tuple(sorted({pair.language for pair in self.pairs}))

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that occur, sorted."""
        return tuple(sorted({pair.label for pair in self.pairs}))

    def sample(
        self, languages: Collection[str] | None, max_pairs: int | None, seed: int
    ) -> "LabelledSet":
        """Return the pairs of some languages, or a random sample of them.

        Args:
            languages: Languages to keep; None keeps all.
            max_pairs: Pairs a language at most; None keeps all. Languages with equally many are
                sampled at the same places, so that parallel sets stay parallel.
            seed: Of the sample.

        Returns:
            The pairs, language by language.

        Raises:
            ConfigError: If a language does not occur.
        """
        if absent := sorted(set(languages or ()) - set(self.languages)):
            raise ConfigError(
                f"{self.name} has no rows in {', '.join(absent)}. "
                f"It has {', '.join(self.languages)}."
            )
        kept: list[LabelledPair] = []
        for language in self.languages:
            if languages is None or language in languages:
                pairs = [pair for pair in self.pairs if pair.language == language]
                places = np.arange(len(pairs))
                if max_pairs is not None and max_pairs < len(pairs):
                    generator = np.random.default_rng(seed)
                    places = np.sort(generator.choice(len(pairs), max_pairs, replace=False))
                kept += [pairs[i] for i in places]
        return LabelledSet(self.name, tuple(kept))


def is_labelled(folder: Path) -> bool:
    """Return whether a folder holds labelled pairs: JSON lines, and no corpus."""
    return not any((folder / name).is_file() for name in CORPUS_FILES) and bool(_files(folder))


def load_labelled(folder: Path) -> LabelledSet:
    """Read a set of labelled pairs.

    Args:
        folder: Its folder.

    Returns:
        The set, in the order of files and rows.

    Raises:
        DataError: If there is no such file, or a row is broken or lacks a key.
    """
    files = _files(folder)
    pairs = [
        _pair(JsonRow(path, number, line), path.name.split(".")[0] if len(files) > 1 else "all")
        for path in files
        for number, line in read_lines(path)
    ]
    if not pairs:
        raise DataError(f"{folder} holds no labelled rows. A labelled set has {_FORM}.")
    return LabelledSet(folder.resolve().name, tuple(pairs))


def _files(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.jsonl"), *folder.glob("*.jsonl.gz")])


def _pair(row: JsonRow, language: str) -> LabelledPair:
    query, passage, label = (row.text(key, needed=_KEYS) for key in ("query", "passage", "label"))
    if not query.strip() or not label:
        raise row.error("the query or the label is empty", "Fill it in or remove the row.")
    return LabelledPair(query, passage, label, row.text("lang", "") or language)


def macro_f1(true: LabelNumbers, predicted: LabelNumbers) -> float:
    """Return the mean F1 over the labels that are true or predicted somewhere.

    Args:
        true: Number of each pair's true label, shape (num_pairs,), at least one.
        predicted: Number of the predicted one, shape (num_pairs,).

    Returns:
        0 to 1.
    """
    scores = []
    for label in np.union1d(true, predicted):
        hits = np.count_nonzero((true == label) & (predicted == label))
        scores.append(2 * hits / (np.count_nonzero(true == label) + (predicted == label).sum()))
    return float(np.mean(scores))
