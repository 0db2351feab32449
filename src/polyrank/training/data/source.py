"""Training data in one form: passages in one or several languages, and which answer which query.

Knows nothing of files; `polyrank.training.data.reading` makes these.
"""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

UNNAMED = ""
"""Language of texts whose source names none."""


@dataclass(frozen=True, slots=True)
class SourcePassage:
    """A piece of text that may answer a query.

    Attributes:
        versions: The same content by language.
        group: The article, page or document that it belongs to.
    """

    versions: Mapping[str, str]
    group: str


@dataclass(frozen=True, slots=True)
class Example:
    """A query with what answers it.

    Attributes:
        queries: The same query by language.
        positives: Positions of the passages that answer it; empty where none does.
        group: Group whose other passages are neutral; "" where there is none.
        negatives: Positions of passages given as irrelevant.
        neutrals: Positions of passages given as on the topic without answering.
        scores: Given scores by position of the passage.
    """

    queries: Mapping[str, str]
    positives: tuple[int, ...]
    group: str = ""
    negatives: tuple[int, ...] = ()
    neutrals: tuple[int, ...] = ()
    scores: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingSource:
    """Passages and examples of one file or folder.

    Attributes:
        name: Name of the file or folder.
        layout: How it was laid out.
        passages: All passages; examples name them by position.
        examples: All examples.
        sha256: Hash over the files that were read.
        weight: Share of the lists, relative to other sources; None goes by the number of examples.
        is_translation: Whether query and passage are the same text, so that their languages
            must differ.
    """

    name: str
    layout: str
    passages: tuple[SourcePassage, ...] = field(repr=False)
    examples: tuple[Example, ...] = field(repr=False)
    sha256: str
    weight: float | None = None
    is_translation: bool = False

    @cached_property
    def by_language(self) -> Mapping[str, NDArray[np.intp]]:
        """Positions of the passages that have a version in each language, ascending."""
        found: dict[str, list[int]] = {}
        for position, passage in enumerate(self.passages):
            for language in passage.versions:
                found.setdefault(language, []).append(position)
        return {language: np.array(rows, np.intp) for language, rows in sorted(found.items())}

    @cached_property
    def by_group(self) -> Mapping[str, tuple[int, ...]]:
        """Positions of the passages of each group."""
        found: dict[str, list[int]] = {}
        for position, passage in enumerate(self.passages):
            found.setdefault(passage.group, []).append(position)
        return {group: tuple(rows) for group, rows in found.items()}

    @cached_property
    def is_parallel(self) -> bool:
        """Whether passages have versions in several languages."""
        return any(len(passage.versions) > 1 for passage in self.passages)

    @cached_property
    def pivot(self) -> str:
        """The language that most passages have a version in, the first by name of several."""
        return max(self.by_language, key=lambda language: len(self.by_language[language]))

    def neutral_positions(self, example: Example) -> tuple[int, ...]:
        """Return the passages that are on the topic and do not answer, by structure or as given."""
        group = self.by_group.get(example.group, ()) if example.group else ()
        answers = set(example.positives)
        return tuple(dict.fromkeys((*example.neutrals, *(p for p in group if p not in answers))))


@lru_cache(maxsize=1 << 16)
def text_key(text: str) -> str:
    """Return a text reduced to its letters and digits, for comparing texts.

    Args:
        text: Any text.

    Returns:
        The key; a text without letters and digits is its own key.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(filter(str.isalnum, folded)) or text
