"""Lists of a query and passages, drawn by a schedule: languages, negatives, labels, targets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from polyrank.errors import DataError
from polyrank.training.config import TrainingConfig
from polyrank.training.data.negatives import Miner, Request
from polyrank.training.data.schedule import Schedule
from polyrank.training.data.source import Example, TrainingSource, text_key
from polyrank.types import Float32Array

IRRELEVANT, NEUTRAL, RELEVANT = 0, 1, 2
"""Grades; their order is that of `polyrank.training.config.RELEVANCE_LABELS`."""

Teacher = Callable[[Sequence[tuple[str, str]]], Float32Array]
"""Gives one score for each (query, passage) pair, shape (num_pairs,)."""

_TRIES_PER_NEGATIVE = 20


@dataclass(frozen=True, slots=True)
class RankedList:
    """A query and passages to rank.

    Attributes:
        query: Text of the query.
        passages: Texts, the relevant one first if there is one.
        grades: `RELEVANT`, `NEUTRAL` or `IRRELEVANT` of each.
        scores: Target of each where the loss wants scores, else zeros.
        query_language: Language of the query.
        passage_language: Language of the relevant passage.
    """

    query: str
    passages: tuple[str, ...]
    grades: tuple[int, ...]
    scores: tuple[float, ...]
    query_language: str
    passage_language: str


@dataclass(slots=True)
class _Draft:
    source: TrainingSource
    example: Example
    generator: Generator
    query_language: str
    passage_language: str
    positive: int | None

    @property
    def mining_query(self) -> str:
        queries = self.example.queries
        pivot = self.source.pivot if self.source.is_parallel else self.query_language
        return queries.get(pivot) or queries[self.query_language]


class Drawer:
    """Draws the lists of a run."""

    def __init__(
        self,
        sources: Sequence[TrainingSource],
        schedule: Schedule,
        config: TrainingConfig,
        *,
        miner: Miner | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        """Make a drawer.

        Args:
            sources: The training data.
            schedule: Which example comes when.
            config: Numbers of negatives, share of languages, seed.
            miner: Finds hard negatives; None takes given ones and fills up with random ones.
            teacher: Gives targets; None takes the scores of the rows.

        Raises:
            DataError: If the loss wants scores and there are neither scores nor a teacher.
        """
        self._sources, self._schedule, self._config = tuple(sources), schedule, config
        self._miner, self._teacher = miner, teacher
        if config.needs_scores and teacher is None:
            for source in sources:
                _check_scores(source, config.main_loss)

    def draw(self, indices: Sequence[int]) -> list[RankedList]:
        """Return the lists of some draws.

        Args:
            indices: Places in the schedule.

        Returns:
            One list each, in that order; a list depends on its place and the seed alone.
        """
        drafts = [self._draft(index) for index in indices]
        mined = self._mine(drafts)
        lists = [self._fill(draft, hard) for draft, hard in zip(drafts, mined, strict=True)]
        return self._taught(lists) if self._config.needs_scores and self._teacher else lists

    def _draft(self, index: int) -> _Draft:
        source = self._sources[self._schedule.source_of[index]]
        example = source.examples[self._schedule.example_of[index]]
        generator = np.random.default_rng((self._config.seed, 3, index))
        own = example.positives or (*example.neutrals, *example.negatives)
        answers = {language for p in own for language in source.passages[p].versions}
        asked, answered = self._languages(source, example, sorted(answers), generator)
        candidates = [p for p in example.positives if answered in source.passages[p].versions]
        positive = int(generator.choice(candidates)) if candidates else None
        return _Draft(source, example, generator, asked, answered, positive)

    def _languages(
        self, source: TrainingSource, example: Example, answers: list[str], generator: Generator
    ) -> tuple[str, str]:
        """Draw the languages of query and passages."""
        asked = sorted(example.queries)
        same = [] if source.is_translation else [code for code in asked if code in answers]
        cross = [code for code in asked if set(answers) - {code}]
        wants_cross = generator.random() < self._config.cross_language
        if cross and (wants_cross or not same):
            query_language = cross[generator.integers(len(cross))]
            others = [code for code in answers if code != query_language]
            return query_language, others[generator.integers(len(others))]
        query_language = same[generator.integers(len(same))]
        return query_language, query_language

    def _mine(self, drafts: Sequence[_Draft]) -> list[list[int]]:
        """Find hard negatives, the drafts of one source and language together."""
        mined: list[list[int]] = [[] for _ in drafts]
        if self._miner is None or not self._config.num_negatives[1]:
            return mined
        groups: dict[tuple[int, str], list[int]] = {}
        for i, draft in enumerate(drafts):
            if draft.positive is not None:
                groups.setdefault((id(draft.source), draft.passage_language), []).append(i)
        for (_, language), rows in groups.items():
            requests = [Request(drafts[i].mining_query, drafts[i].example.positives) for i in rows]
            found = self._miner.find(drafts[rows[0]].source, language, requests)
            for i, positions in zip(rows, found, strict=True):
                mined[i] = positions.tolist()
        return mined

    def _fill(self, draft: _Draft, mined: list[int]) -> RankedList:
        source, example, generator = draft.source, draft.example, draft.generator
        num_neutrals, num_hard, num_random = self._config.num_negatives
        on_topic = source.neutral_positions(example)
        picker = _Picker(draft)
        grades: list[int] = []
        if draft.positive is not None:
            picker.add(draft.positive)
            grades.append(RELEVANT)
        grades += [NEUTRAL] * picker.take(
            generator.permutation(list(on_topic)).tolist(), num_neutrals
        )
        hard = [*generator.permutation(list(example.negatives)), *generator.permutation(mined)]
        if self._config.has_classes:
            topic = set(on_topic)
            hard = [position for position in hard if int(position) not in topic]
        grades += [IRRELEVANT] * picker.take(hard, num_hard)
        wanted = num_neutrals + num_hard + num_random - len(grades)
        wanted += draft.positive is not None
        if self._config.has_classes:
            wanted = num_random  # a missing neutral is no reason for one more irrelevant
        off_topic = _random_positions(draft, set(on_topic), wanted)
        grades += [IRRELEVANT] * picker.take(off_topic, wanted)
        return self._list(draft, picker.positions, grades)

    def _list(self, draft: _Draft, positions: list[int], grades: list[int]) -> RankedList:
        language = draft.passage_language
        is_mixed = draft.generator.random() < self._config.mixed_languages
        texts: list[str] = []
        for position, grade in zip(positions, grades, strict=True):
            versions = draft.source.passages[position].versions
            code = language
            if is_mixed and grade != RELEVANT:
                code = sorted(versions)[draft.generator.integers(len(versions))]
            texts.append(versions[code])
        scores = draft.example.scores
        return RankedList(
            draft.example.queries[draft.query_language],
            tuple(texts),
            tuple(grades),
            tuple(scores.get(position, 0.0) for position in positions),
            draft.query_language,
            language,
        )

    def _taught(self, lists: list[RankedList]) -> list[RankedList]:
        assert self._teacher is not None
        pairs = [(entry.query, text) for entry in lists for text in entry.passages]
        scores = (self._teacher(pairs) * np.float32(self._config.teacher_scale)).tolist()
        taught, start = [], 0
        for entry in lists:
            end = start + len(entry.passages)
            taught.append(
                RankedList(
                    entry.query,
                    entry.passages,
                    entry.grades,
                    tuple(scores[start:end]),
                    entry.query_language,
                    entry.passage_language,
                )
            )
            start = end
        return taught


class _Picker:
    """Passages of a list, none twice and none with the text of an answer."""

    def __init__(self, draft: _Draft) -> None:
        self._draft = draft
        self._passages = draft.source.passages
        self.positions: list[int] = []
        answers = draft.example.positives
        self._keys = {text_key(t) for p in answers for t in self._passages[p].versions.values()}
        # a list of translations must not hold the query itself
        self._keys |= {text_key(text) for text in draft.example.queries.values()}
        self._taken = set(answers)

    def add(self, position: int) -> None:
        self.positions.append(position)

    def take(self, candidates: Sequence[int], count: int) -> int:
        """Add up to `count` of the candidates, in their order; return how many."""
        before = len(self.positions)
        for position in map(int, candidates):
            if len(self.positions) - before == count:
                break
            text = self._passages[position].versions.get(self._draft.passage_language)
            if text is None or position in self._taken:
                continue
            key = text_key(text)
            if key not in self._keys:
                self._taken.add(position)
                self._keys.add(key)
                self.positions.append(position)
        return len(self.positions) - before


def _random_positions(draft: _Draft, on_topic: set[int], wanted: int) -> list[int]:
    """Draw passages off the topic, several times as many as are wanted."""
    rows = draft.source.by_language.get(draft.passage_language)
    if rows is None or not wanted:
        return []
    drawn = rows[draft.generator.integers(len(rows), size=wanted * _TRIES_PER_NEGATIVE)]
    return [int(position) for position in drawn if int(position) not in on_topic]


def _check_scores(source: TrainingSource, loss: str) -> None:
    for example in source.examples:
        listed = {*example.positives, *example.negatives, *example.neutrals}
        if not listed <= example.scores.keys():
            raise DataError(
                f"{source.name}: the loss {loss!r} wants a score for each passage of a row, and "
                f"the query {next(iter(example.queries.values()))[:60]!r} has "
                f'{len(example.scores)} for {len(listed)} passages. Give "scores" in the JSONL '
                "rows, or a --teacher."
            )
