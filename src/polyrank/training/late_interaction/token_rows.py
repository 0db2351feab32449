"""Token rows of training texts, and what is measured on them before anything is fitted.

References: Xie et al., EMNLP 2022, arXiv:2401.05792 (language directions found by singular values
of the languages' means).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyrank.checkpoint.spec import HeadSpec, LateInteractionSpec, MatchFeature
from polyrank.config import TruncationConfig
from polyrank.inference.computations import Window
from polyrank.inference.model import Model
from polyrank.progress import StepProgress
from polyrank.tasks.heads import Head, LateInteraction
from polyrank.tasks.late_interaction import LateInteractionScorer
from polyrank.training.data.sampling import Drawer, RankedList
from polyrank.training.data.schedule import Schedule
from polyrank.training.data.source import TrainingSource
from polyrank.types import Float32Array

FEATURES: tuple[MatchFeature, ...] = (
    "sharp_match",
    "plain_match",
    "least_match",
    "reverse_match",
    "clean_cosine",
    "document_length",
)
"""What the classify head is given."""

RERANK_FEATURES: tuple[MatchFeature, ...] = ("sharp_match", "document_length")
"""What the rerank head is given: the match, less a fixed amount of the length."""

_LISTS_PER_BLOCK = 64
_CENTER_LISTS = 1_000  # at most
_TEXTS_PER_LANGUAGE = 30  # of each source
_LEAST_TEXTS = 5  # of a language in a source
_LEAST_TEXTS_IN_ALL = 100  # of a language; embedders know those with fewer too badly

_Sums = dict[str, tuple[NDArray[np.float64], int]]  # of rows, by language


@dataclass(frozen=True)
class Examples:
    """The pairs of all lists, as numbers.

    Attributes:
        features: `FEATURES` but for the first, shape (num_pairs, num_features - 1).
        matches: Best match of each query token, shape (num_pairs, longest query); 0 beyond it.
        grades: As in `polyrank.training.data.sampling`, shape (num_pairs,).
        is_labelled: Whether the grade is a class too, shape (num_pairs,): not where a negative was
            chosen for its nearness, or comes from a source of one topic, such as the help of a
            program, since it may be on the topic; nor where the texts are translations of each
            other, which answer nothing.
        list_starts: First pair of each list, and the end, shape (num_lists + 1,).
        query_rows: Clean rows of the queries' tokens, shape (total query tokens, hidden_size).
        query_starts: First row of each list's query, and the end, shape (num_lists + 1,).
    """

    features: Float32Array
    matches: Float32Array
    grades: NDArray[np.int64]
    is_labelled: NDArray[np.bool_]
    list_starts: NDArray[np.int64]
    query_rows: Float32Array
    query_starts: NDArray[np.int64]


class RowReader:
    """Reads token rows of texts with a body that stays as it is."""

    def __init__(self, model: Model, max_length: int) -> None:
        self.model = model
        limits = TruncationConfig(min(max_length, model.spec.max_length))
        self._builder = model.computations.builder(Window(limits))
        self.width = model.spec.body.hidden_size

    def scorer(self, center: Float32Array, directions: Float32Array) -> LateInteractionScorer:
        """Return what compares rows, all tokens weighing the same.

        Args:
            center: Shape (hidden_size,).
            directions: Shape (num_directions, hidden_size).

        Returns:
            A scorer that gives all of `FEATURES` but the first.
        """
        late = LateInteractionSpec("", None, None, FEATURES[1:])
        spec = HeadSpec((), late_interaction=late)
        head = Head(spec, (), len(FEATURES) - 1, LateInteraction(center, directions, None))
        return LateInteractionScorer(
            self._builder, head, self.model.computations.head("embed"), self.model.spec.prompts
        )

    def rows(
        self, scorer: LateInteractionScorer, pairs: Sequence[tuple[str, str]]
    ) -> tuple[Any, Float32Array]:
        """Return the plan of some pairs, one or more, and the token rows of their texts."""
        plan = scorer.prepare(pairs)
        return plan, self.model.engine.run(plan.batch, (), self.width)

    def own_rows(self, texts: Sequence[str], *, are_queries: bool = False) -> list[Float32Array]:
        """Return the rows of each text's own tokens, shape (num_tokens, hidden_size) each."""
        scorer = self.scorer(np.zeros(self.width, np.float32), np.empty((0, self.width), "f4"))
        pairs = [(text, "") if are_queries else ("", text) for text in texts]
        plan, rows = self.rows(scorer, pairs)
        given = scorer.compared_rows(plan, rows)
        spans = given.queries if are_queries else given.documents
        return [rows[start:end] for start, end in spans]


def language_directions(
    sources: Sequence[TrainingSource],
    reader: RowReader,
    count: int,
    seed: int,
    progress: StepProgress,
) -> Float32Array:
    """Return the directions in which the mean rows of languages differ most.

    Languages are compared where they say the same: within sources whose passages have versions in
    several languages, each language as it differs from the mean of the languages there. Those with
    few texts in all are left out: embedders know them little, and hundreds of them would drown
    what tells the others apart.

    Args:
        sources: The training data.
        reader: Reads rows.
        count: How many directions.
        seed: Of the choice of texts.
        progress: Called with the step "languages".

    Returns:
        Orthonormal rows, shape (at most `count`, hidden_size); none where no source is parallel.
    """
    generator = np.random.default_rng((seed, 11))
    offsets: dict[str, list[tuple[Float32Array, int]]] = {}
    parallel = [source for source in sources if source.is_parallel and count]
    num_texts = Counter[str]()
    for source in parallel:
        num_texts.update({code: len(rows) for code, rows in source.by_language.items()})
    least = min(_LEAST_TEXTS_IN_ALL, max(num_texts.values(), default=0))
    work = [
        (source, language, positions)
        for source in parallel
        for language, positions in source.by_language.items()
        if len(positions) >= _LEAST_TEXTS and num_texts[language] >= least
    ]
    means: dict[int, list[tuple[str, Float32Array, int]]] = {}
    for done, (source, language, positions) in enumerate(work):
        chosen = generator.permutation(positions)[:_TEXTS_PER_LANGUAGE]
        texts = [source.passages[position].versions[language] for position in chosen]
        rows = np.concatenate(reader.own_rows(texts))
        means.setdefault(id(source), []).append((language, rows.mean(axis=0), len(rows)))
        progress("languages", done + 1, len(work))
    for entries in means.values():
        middle = np.mean([mean for _, mean, _ in entries], axis=0)
        for language, mean, size in entries:
            offsets.setdefault(language, []).append((mean - middle, size))
    if len(offsets) < 2:
        return np.empty((0, reader.width), np.float32)
    table = np.stack(
        [
            sum(offset * size for offset, size in found) / sum(size for _, size in found)
            for found in offsets.values()
        ]
    )
    table -= table.mean(axis=0)
    _, values, directions = np.linalg.svd(table.astype(np.float64), full_matrices=False)
    rank = int((values > values[0] * 1e-6).sum())
    return np.ascontiguousarray(directions[: min(count, rank)], np.float32)


def in_blocks(drawer: Drawer, indices: Sequence[int]) -> Iterator[list[RankedList]]:
    """Yield lists in blocks whose token rows fit into memory.

    Args:
        drawer: Draws them.
        indices: Their places in the schedule.

    Yields:
        Up to 64 lists, in the order of their places.
    """
    for start in range(0, len(indices), _LISTS_PER_BLOCK):
        yield drawer.draw(indices[start : start + _LISTS_PER_BLOCK])


def orthonormal(languages: Float32Array, role: Float32Array) -> Float32Array:
    """Return orthonormal rows that span the directions of languages and that of a role.

    Args:
        languages: Orthonormal rows, shape (num_directions, hidden_size).
        role: Shape (hidden_size,).

    Returns:
        Shape (num_directions + 1, hidden_size), or `languages` if they span the role already.
    """
    left = role.astype(np.float64)
    for _ in range(2):  # once more for what rounding left
        left -= (left @ languages.T) @ languages
    length = float(np.linalg.norm(left))
    if length <= 1e-6 * float(np.linalg.norm(role)):
        return languages
    return np.concatenate([languages, (left / length)[None]]).astype(np.float32)


def centers(
    drawer: Drawer, reader: RowReader, indices: Sequence[int], progress: StepProgress
) -> tuple[Float32Array, Float32Array]:
    """Return the mean row of passages' tokens, and how that of their queries' differs from it.

    Prompts, and that questions are no statements, move all rows of a query the same way. Each
    language counts the same.

    Args:
        drawer: Draws the lists.
        reader: Reads rows.
        indices: Places of the lists in the schedule, at least one.
        progress: Called with the step "center".

    Returns:
        Both of shape (hidden_size,).
    """
    sums: tuple[_Sums, _Sums] = ({}, {})
    done = 0
    for drawn in in_blocks(drawer, indices):
        queries = [(entry.query_language, entry.query) for entry in drawn]
        passages = [(entry.passage_language, entry.passages[0]) for entry in drawn]
        for role, texts in enumerate((passages, queries)):
            found = reader.own_rows([text for _, text in texts], are_queries=bool(role))
            for (language, _), rows in zip(texts, found, strict=True):
                total, count = sums[role].get(language, (np.zeros(reader.width), 0))
                sums[role][language] = (
                    total + rows.sum(axis=0, dtype=np.float64),
                    count + len(rows),
                )
        done += len(drawn)
        progress("center", done, len(indices))
    center, asked = (
        np.mean([total / count for total, count in found.values()], axis=0) for found in sums
    )
    return center.astype(np.float32), (asked - center).astype(np.float32)


def lists_of_questions(sources: Sequence[TrainingSource], schedule: Schedule) -> list[int]:
    """Return the lists to take centers from: of questions, where there are some.

    In parallel sources queries are headings or translations, which are worded as passages are.

    Args:
        sources: The training data.
        schedule: Which comes when.

    Returns:
        Their places in the schedule, the first thousand at most.
    """
    asks = np.array([not source.is_parallel for source in sources])[schedule.source_of]
    chosen = np.flatnonzero(asks) if asks.any() else np.arange(len(schedule))
    return chosen[:_CENTER_LISTS].tolist()
