"""Which rows of a mixed table get how many bytes.

Each row takes the tier of least worth times error plus price times bytes, at the price at which the
table just fits: that minimises the expected error of a token. Errors are those measured on
multilingual-e5-small, squared and relative to the rows' own variance (`docs/experiments.md`);
other tables of word embeddings are as hard to compress, since their values are nearly independent.
"""

from typing import NamedTuple

import numpy as np

from polyrank.checkpoint.formats.mixed import CODED_TIERS, NUM_CODEWORDS, pack_tiers
from polyrank.compress.vocabulary.pieces import BoolArray, Float64Array
from polyrank.errors import ConfigError
from polyrank.types import UInt8Array

PartSizes = tuple[int, int, int]
"""Values of a row that one code stands for, in tiers 1 to 3."""

SMALL_PARTS: PartSizes = (3, 4, 8)  # for tables with much room
LARGE_PARTS: PartSizes = (4, 8, 16)
ERRORS = {3: 0.040, 4: 0.088, 8: 0.285, 16: 0.502}  # by values a code; blocks have none
_HALVINGS = 100
_HIGHEST_PRICE = 1.0  # no row saves an error of 1 a byte


class TierChoice(NamedTuple):
    """Tiers of rows, and what a row of each takes.

    Attributes:
        tiers: Tier of each row, shape (num_rows,), values 0 to 3.
        part_sizes: Of tiers 1 to 3.
    """

    tiers: UInt8Array
    part_sizes: PartSizes


def row_bytes(width: int, part_sizes: PartSizes) -> tuple[int, int, int, int]:
    """Return the bytes of a row of each tier."""
    first, second, third = (1 + width // values for values in part_sizes)
    return width // 2 + width // 16, first, second, third


def fixed_bytes(num_rows: int, width: int) -> int:
    """Return the bytes of what rows share: planes, coarse rows and codebooks."""
    shared = (1 + len(CODED_TIERS)) * NUM_CODEWORDS * width * 2
    return int(pack_tiers(np.zeros(num_rows, np.uint8)).nbytes) + shared


def choose_tiers(
    worth: Float64Array,
    pinned: BoolArray,
    width: int,
    most_bytes: int,
) -> TierChoice:
    """Return the tier of each row, and the parts that lose least in so many bytes.

    Args:
        worth: How much each row is used, shape (num_rows,).
        pinned: Rows that tier 0 takes at any price, shape (num_rows,).
        width: Values of a row.
        most_bytes: What the whole table may take.

    Returns:
        The choice.

    Raises:
        ConfigError: If no choice of tiers fits.
    """
    room = most_bytes - fixed_bytes(len(worth), width)
    offers = [
        _Offer(worth, pinned, row_bytes(width, parts), parts)
        for parts in (SMALL_PARTS, LARGE_PARTS)
        if not any(width % values for values in parts)
    ]
    fitting = [offer for offer in offers if offer.bytes_at(_HIGHEST_PRICE) <= room]
    if not fitting:
        least = most_bytes - room + min(offer.bytes_at(_HIGHEST_PRICE) for offer in offers)
        raise ConfigError(
            f"a mixed table of {len(worth):,} rows takes {least / 1e6:.2f} MB or more, and "
            f"{most_bytes / 1e6:.2f} MB were allowed. Allow more, or trim the vocabulary first."
        )
    choices = [(offer, offer.within(room)) for offer in fitting]
    offer, tiers = min(choices, key=lambda choice: choice[0].error(choice[1]))
    return TierChoice(tiers, offer.part_sizes)


class _Offer:
    """Tiers at prices a byte, for parts of given sizes."""

    def __init__(
        self,
        worth: Float64Array,
        pinned: BoolArray,
        sizes: tuple[int, ...],
        part_sizes: PartSizes,
    ) -> None:
        self.part_sizes = part_sizes
        self._pinned, self._sizes = pinned, np.array(sizes, np.float64)
        self._costs = worth[:, None] * np.array([0.0, *(ERRORS[values] for values in part_sizes)])

    def at(self, price: float) -> UInt8Array:
        """Return the tiers at a price a byte."""
        costs = self._costs + price * self._sizes
        return np.where(self._pinned, 0, costs.argmin(axis=1)).astype(np.uint8)

    def bytes_at(self, price: float) -> float:
        """Return the bytes of all rows at a price a byte."""
        return float(self._sizes[self.at(price)].sum())

    def within(self, room: float) -> UInt8Array:
        """Return the tiers at the lowest price at which all rows fit."""
        low, high = 1e-20, _HIGHEST_PRICE
        for _ in range(_HALVINGS):
            middle = float(np.sqrt(low * high))
            low, high = (low, middle) if self.bytes_at(middle) <= room else (middle, high)
        return self.at(high)

    def error(self, tiers: UInt8Array) -> float:
        """Return the expected error of a token."""
        return float(np.take_along_axis(self._costs, tiers[:, None].astype(np.intp), axis=1).sum())
