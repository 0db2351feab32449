"""What trimming does to texts that the choice has not seen, language by language."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from polyrank.compress.vocabulary.pieces import BoolArray, Int64Array, Vocabulary, scripts_of
from polyrank.progress import StepProgress
from polyrank.text.tokenizer import Tokenizer
from polyrank.types import Int32Array


@dataclass(frozen=True, slots=True)
class CoverageFigures:
    """How texts of one language are cut before and after.

    Attributes:
        num_texts: Texts measured.
        num_tokens: Their tokens before, special tokens not counted.
        kept: Share of those tokens whose piece is kept.
        unchanged: Share of the texts that are cut exactly as before.
        tokens_per_text: Before.
        tokens_per_text_after: After.
        unknown: Share of tokens that stand for what cannot be read, before.
        unknown_after: The same after.
    """

    num_texts: int
    num_tokens: int
    kept: float
    unchanged: float
    tokens_per_text: float
    tokens_per_text_after: float
    unknown: float
    unknown_after: float

    @property
    def growth(self) -> float:
        """Tokens after over tokens before, less 1."""
        return self.tokens_per_text_after / self.tokens_per_text - 1 if self.tokens_per_text else 0


@dataclass(frozen=True, slots=True)
class ScriptFigures:
    """What is left of one script.

    Attributes:
        pieces: Pieces of the script before.
        pieces_after: Pieces of it that are kept.
        expected: Share of its tokens to be expected to stay, by the tokenizer's own
            probabilities, whether texts were written in it or not.
    """

    pieces: int
    pieces_after: int
    expected: float


def measure_coverage(
    texts: Mapping[str, Sequence[str]],
    old: Tokenizer,
    new: Tokenizer,
    new_ids: Int64Array,
    unknown_id: int | None,
    progress: StepProgress | None = None,
) -> dict[str, CoverageFigures]:
    """Measure how texts are cut before and after.

    Args:
        texts: Texts by language, none of which the pieces were chosen by.
        old: The tokenizer before.
        new: The tokenizer after.
        new_ids: New id of each old one, -1 for pieces that went, shape (num_ids,).
        unknown_id: Old id of the piece for what cannot be read, or None.
        progress: Called with the step "held-out texts" and texts done.

    Returns:
        Figures by language, without languages whose texts hold no token.
    """
    report = progress or (lambda step, done, total: None)
    total, done = sum(map(len, texts.values())), 0
    found: dict[str, CoverageFigures] = {}
    for language, members in texts.items():
        before, after = old.encode(members), new.encode(members)
        if any(map(len, before)):
            found[language] = _figures(before, after, new_ids, unknown_id)
        done += len(members)
        report("held-out texts", done, total)
    return found


def _figures(
    before: Sequence[Int32Array],
    after: Sequence[Int32Array],
    new_ids: Int64Array,
    unknown_id: int | None,
) -> CoverageFigures:
    old, new = np.concatenate(before), np.concatenate(after)
    same = [np.array_equal(new_ids[x], y) for x, y in zip(before, after, strict=True)]
    unknown = unknown_after = 0.0
    if unknown_id is not None:
        unknown = float((old == unknown_id).mean())
        unknown_after = float((new == new_ids[unknown_id]).mean())
    return CoverageFigures(
        num_texts=len(before),
        num_tokens=len(old),
        kept=float((new_ids[old] >= 0).mean()),
        unchanged=float(np.mean(same)),
        tokens_per_text=len(old) / len(before),
        tokens_per_text_after=len(new) / len(before),
        unknown=unknown,
        unknown_after=unknown_after,
    )


def measure_scripts(vocabulary: Vocabulary, kept: BoolArray) -> dict[str, ScriptFigures]:
    """Return what is left of each script.

    Args:
        vocabulary: The vocabulary before.
        kept: Which pieces are kept, shape (num_ids,).

    Returns:
        Figures by script, those of most pieces first.
    """
    names, scripts = scripts_of(vocabulary.pieces)
    exists = np.array([piece is not None for piece in vocabulary.pieces])
    own = vocabulary.probabilities
    sizes, left, mass, stays = (
        np.bincount(scripts, values, minlength=len(names))
        for values in (exists, exists & kept, own, own * kept)
    )
    return {
        names[i]: ScriptFigures(
            int(sizes[i]), int(left[i]), float(stays[i] / mass[i]) if mass[i] else 1.0
        )
        for i in np.argsort(-sizes, kind="stable")
    }
