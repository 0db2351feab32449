"""The choice of the pieces to keep, so that small languages are not drowned by large ones.

A piece is worth what it would be used, summed over three kinds of sources:

- languages of the texts, weighted by their size to the power 0.3 (as XLM-R was trained), each
  smoothed towards the tokenizer's own probabilities within the scripts it writes in, since a
  few thousand tokens say little of rare pieces;
- scripts, each with the tokenizer's own probabilities within it, so that scripts that no text
  is written in keep their frequent pieces;
- the tokenizer's probabilities as they are, which know what the texts do not.

Languages that would lose more than others gain weight in proportion to their loss, round by
round: that minimises the sum of the squared losses rather than the sum of the losses, and so
spares the worst language at little cost to the mean.

References: Conneau et al., ACL 2020, arXiv:1911.02116 (exponent 0.3); MacKay and Peto, Natural
Language Engineering 1 (1995) (Dirichlet smoothing).
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from polyrank.compress.vocabulary.counting import PieceCounts
from polyrank.compress.vocabulary.pieces import (
    BoolArray,
    Float64Array,
    Int64Array,
    Vocabulary,
    scripts_of,
)
from polyrank.errors import ConfigError

Balance = Literal["balanced", "mean", "pooled"]

SIZE_EXPONENT = 0.3
SMOOTHING_TOKENS = 1_000.0
SHARES = (0.6, 0.1, 0.3)  # weight of languages, scripts and the tokenizer's own probabilities
MIN_SCRIPT_PIECES = 50
MIN_COVERAGE_TOKENS = 1_000  # fewer tokens say little of a language's coverage
_ROUNDS = 8
_LEAST_LOSS = 1e-4


@dataclass(frozen=True, slots=True)
class ChoiceConfig:
    """How many pieces are kept, and by which rule.

    Attributes:
        keep: Pieces to keep, special tokens included; None where `coverage` decides.
        coverage: Least share of the tokens of every language with 1,000 tokens or more that
            kept pieces must make; the smallest vocabulary with that is taken. 0 to 1.
        balance: "balanced" as the module says; "mean" without the rounds; "pooled" counts all
            texts alike.

    Raises:
        ConfigError: If not exactly one of `keep` and `coverage` is given, or out of range.
    """

    keep: int | None = None
    coverage: float | None = None
    balance: Balance = "balanced"

    def __post_init__(self) -> None:
        if (self.keep is None) == (self.coverage is None):
            raise ConfigError("say how much to keep: give either keep or coverage")
        if self.keep is not None and self.keep < 1:
            raise ConfigError(f"keep must be 1 or more, not {self.keep}")
        if self.coverage is not None and not 0 < self.coverage <= 1:
            raise ConfigError(f"coverage must be above 0 and at most 1, not {self.coverage}")
        if self.balance not in get_args(Balance):
            raise ConfigError(f"balance must be one of {get_args(Balance)}, not {self.balance!r}")


def choose_pieces(vocabulary: Vocabulary, counts: PieceCounts, config: ChoiceConfig) -> BoolArray:
    """Return which pieces are kept.

    Args:
        vocabulary: The vocabulary.
        counts: How often the languages use its pieces.
        config: How many, and the rule.

    Returns:
        One claim for each id, shape (num_ids,).

    Raises:
        ConfigError: If `keep` leaves no room for what must stay, or `coverage` cannot be had.
    """
    chooser = _Chooser(vocabulary, counts, config.balance)
    if config.keep is not None:
        return chooser.choose(config.keep)
    assert config.coverage is not None
    return chooser.cover(config.coverage)


def piece_worth(
    vocabulary: Vocabulary, counts: PieceCounts, shares: tuple[float, float, float] = SHARES
) -> Float64Array:
    """Return how much each piece is used, as the balanced choice of a quarter of them weighs it.

    Args:
        vocabulary: The vocabulary.
        counts: How often the languages use its pieces.
        shares: Weights of languages, scripts and the tokenizer's own probabilities.

    Returns:
        Sums to 1; 0 for special tokens, shape (num_ids,).
    """
    return _Chooser(vocabulary, counts, "balanced", shares).balanced_worth(len(vocabulary) // 4)


class _Chooser:
    """Worth of pieces by one rule."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        counts: PieceCounts,
        balance: Balance,
        shares: tuple[float, float, float] = SHARES,
    ) -> None:
        self._vocabulary, self._counts, self._balance = vocabulary, counts, balance
        self._shares = shares
        names, self._scripts = scripts_of(vocabulary.pieces)
        own = vocabulary.probabilities
        mass = np.bincount(self._scripts, own, minlength=len(names))
        # probability of a piece within its script
        self._within = np.divide(own, mass[self._scripts], out=np.zeros_like(own), where=own > 0)
        sizes = np.bincount(self._scripts, minlength=len(names))
        self._is_source = ((sizes >= MIN_SCRIPT_PIECES) & (mass > 0)).astype(np.float64)
        self._totals = counts.totals
        self._written = self._script_shares(len(names))
        self._exists = np.array([piece is not None for piece in vocabulary.pieces])
        self._lengths = np.array([len(piece or "") for piece in vocabulary.pieces])

    def _script_shares(self, num_scripts: int) -> Float64Array:
        """Return the share of each script in each language's tokens."""
        counts = self._counts
        cells = counts.owners * num_scripts + self._scripts[counts.ids]
        size = len(counts.languages) * num_scripts
        shares = np.bincount(cells, counts.counts, minlength=size).reshape(-1, num_scripts)
        return shares / shares.sum(axis=1, keepdims=True)

    def choose(self, keep: int) -> BoolArray:
        least = int(self._top(self._vocabulary.required.astype(np.float64), 0).sum())
        if keep < least:
            raise ConfigError(
                f"keep is {keep:,}, but {least:,} pieces must stay: special tokens and every "
                "single character. Keep more."
            )
        if self._balance == "pooled":
            pooled = self._counts.by_piece(np.ones(len(self._totals)))
            return self._top(pooled + self._vocabulary.probabilities, keep)
        return self._top(self.balanced_worth(keep), keep)

    def balanced_worth(self, keep: int) -> Float64Array:
        base = self._totals**SIZE_EXPONENT
        base /= base.sum()
        weights = base
        for _ in range(_ROUNDS if self._balance == "balanced" else 0):
            loss = np.maximum(self._losses(self._top(self._worth(weights), keep)), _LEAST_LOSS)
            weights = (weights + base * loss / (base @ loss)) / 2
        return self._worth(weights)

    def cover(self, share: float) -> BoolArray:
        counts, judged = self._counts, self._totals >= MIN_COVERAGE_TOKENS
        if not judged.any():
            raise ConfigError(
                f"coverage needs a language with {MIN_COVERAGE_TOKENS:,} tokens to choose by. "
                "Give more text, or say how many pieces to keep."
            )

        def suffices(keep: int) -> bool:
            kept = counts.by_language(self.choose(keep))
            return bool((kept[judged] >= share * self._totals[judged]).all())

        low = int(self._top(self._vocabulary.required.astype(np.float64), 0).sum())
        high = int(self._exists.sum())
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if suffices(middle) else (middle + 1, high)
        return self.choose(low)

    def _worth(self, weights: Float64Array) -> Float64Array:
        languages, scripts, tokenizer = self._shares
        weights = languages * weights / weights.sum()
        smoothed = weights / (self._totals + SMOOTHING_TOKENS)
        by_script = SMOOTHING_TOKENS * (smoothed @ self._written)
        by_script += scripts * self._is_source / max(1.0, self._is_source.sum())
        worth = self._counts.by_piece(smoothed) + by_script[self._scripts] * self._within
        return worth + tokenizer * self._vocabulary.probabilities

    def _losses(self, kept: BoolArray) -> Float64Array:
        """Return the smoothed share of each language's tokens that is lost."""
        within = np.bincount(self._scripts, self._within * kept, minlength=self._written.shape[1])
        covered = self._counts.by_language(kept) + SMOOTHING_TOKENS * (self._written @ within)
        return 1 - covered / (self._totals + SMOOTHING_TOKENS)

    def _top(self, worth: Float64Array, keep: int) -> BoolArray:
        """Return the pieces of most worth, closed under the merges of BPE."""
        worth = np.where(self._vocabulary.required, np.inf, worth)
        parents = self._vocabulary.parents
        # longest first: what a piece is merged from is shorter, and worth as much at least
        for i in sorted(parents, key=lambda piece: -self._lengths[piece]):
            for parent in parents[i]:
                worth[parent] = max(worth[parent], worth[i])
        worth[~self._exists] = -np.inf
        order: Int64Array = np.lexsort((self._lengths, -worth))
        kept = np.zeros(len(worth), bool)
        kept[order[: max(keep, int(np.isposinf(worth).sum()))]] = True
        return kept & self._exists
