"""Which rows of a mixed table get how many bytes.

Each row takes the tier of least worth times error plus price times bytes, at the price at which the
table just fits: that minimises the expected error of a token. Errors are those measured on
multilingual-e5-small, squared and relative to the rows' own variance (`docs/experiments.md`);
other tables of word embeddings are as hard to compress, since their values are nearly independent.
"""

import numpy as np

from polyrank.checkpoint.mixed import CODED_TIERS, NUM_CODEWORDS, pack_tiers
from polyrank.compress.vocabulary import BoolArray, Float64Array
from polyrank.errors import ConfigError
from polyrank.types import UInt8Array

VALUES_A_CODE = (4, 8, 16)  # of tiers 1 to 3
ERRORS = (0.0, 0.088, 0.285, 0.502)  # of the four tiers
_HALVINGS = 100


def row_bytes(width: int) -> tuple[int, int, int, int]:
    """Return the bytes of a row of each tier."""
    first, second, third = (1 + width // values for values in VALUES_A_CODE)
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
    before: UInt8Array | None = None,
) -> UInt8Array:
    """Return the tier of each row.

    Args:
        worth: How much each row is used, shape (num_rows,).
        pinned: Rows that tier 0 takes at any price, shape (num_rows,).
        width: Values of a row.
        most_bytes: What the whole table may take.
        before: Tiers that rows have already, none of which may get more bytes; None leaves all
            open.

    Returns:
        Shape (num_rows,), values 0 to 3.

    Raises:
        ConfigError: If no choice of tiers fits.
    """
    sizes = np.array(row_bytes(width), np.float64)
    room = most_bytes - fixed_bytes(len(worth), width)

    is_open = np.ones((len(worth), len(sizes)), bool)
    if before is not None:
        is_open = np.arange(len(sizes)) >= before[:, None]
    costs = worth[:, None] * np.array(ERRORS)

    def choose(price: float) -> UInt8Array:
        tiers = np.where(is_open, costs + price * sizes, np.inf).argmin(axis=1)
        return np.where(pinned, is_open.argmax(axis=1), tiers).astype(np.uint8)

    cheapest = choose(1.0)  # no row saves an error of 1 a byte
    if sizes[cheapest].sum() > room:
        least = (most_bytes - room + float(sizes[cheapest].sum())) / 1e6
        raise ConfigError(
            f"a mixed table of {len(worth):,} rows takes {least:.2f} MB or more, and "
            f"{most_bytes / 1e6:.2f} MB were allowed. Allow more, or trim the vocabulary first."
        )
    low, high = 1e-20, 1.0
    for _ in range(_HALVINGS):
        middle = float(np.sqrt(low * high))
        low, high = (low, middle) if sizes[choose(middle)].sum() <= room else (middle, high)
    return choose(high)
