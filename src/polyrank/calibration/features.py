"""What is known of a query and its documents without labels, as numbers that shift a logit. Pure.

A match of tokens comes out higher for some scripts than for others, and for short queries than for
long ones. All documents of a query have its own numbers in common, so that shifting by them leaves
their order as it is; what differs from document to document does not.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]

QUERY_LENGTH = "log_query_length"
DOCUMENT_LENGTH = "log_document_length"
SHARE = "share_"
MAX_CHARACTERS = 2_000  # of a query that are looked at

_NONE = ""
# first code point of each block of letters and whose it is; shares are of what has a script
_BLOCKS: tuple[tuple[int, str], ...] = (
    (0x0000, _NONE),
    (0x0041, "latin"),
    (0x005B, _NONE),
    (0x0061, "latin"),
    (0x007B, _NONE),
    (0x00AA, "latin"),
    (0x00AB, _NONE),
    (0x00BA, "latin"),
    (0x00BB, _NONE),
    (0x00C0, "latin"),
    (0x0300, _NONE),
    (0x0370, "greek"),
    (0x0400, "cyrillic"),
    (0x0530, "caucasian"),
    (0x0590, "hebrew"),
    (0x0600, "arabic"),
    (0x0700, "other"),
    (0x0750, "arabic"),
    (0x0780, "other"),
    (0x08A0, "arabic"),
    (0x0900, "indic"),
    (0x0E00, "southeast_asian"),
    (0x0F00, "other"),
    (0x1000, "southeast_asian"),
    (0x10A0, "caucasian"),
    (0x1100, "hangul"),
    (0x1200, "other"),
    (0x1780, "southeast_asian"),
    (0x1800, "other"),
    (0x1C80, "cyrillic"),
    (0x1C90, "caucasian"),
    (0x1CC0, "other"),
    (0x1E00, "latin"),
    (0x1F00, "greek"),
    (0x2000, _NONE),
    (0x2C60, "latin"),
    (0x2C80, "other"),
    (0x2E00, _NONE),
    (0x2E80, "cjk"),
    (0x3000, _NONE),
    (0x3005, "cjk"),
    (0x3008, _NONE),
    (0x3040, "cjk"),
    (0x3130, "hangul"),
    (0x3190, "cjk"),
    (0xA000, "other"),
    (0xA640, "cyrillic"),
    (0xA6A0, "other"),
    (0xA720, "latin"),
    (0xA800, "indic"),
    (0xA960, "hangul"),
    (0xA980, "southeast_asian"),
    (0xAB00, "other"),
    (0xAC00, "hangul"),
    (0xD800, _NONE),
    (0xF900, "cjk"),
    (0xFB00, "latin"),
    (0xFB10, "hebrew"),
    (0xFB50, "arabic"),
    (0xFE00, _NONE),
    (0xFE70, "arabic"),
    (0xFF00, _NONE),
    (0xFF21, "latin"),
    (0xFF3B, _NONE),
    (0xFF41, "latin"),
    (0xFF5B, _NONE),
    (0xFF66, "cjk"),
    (0xFFA0, "hangul"),
    (0xFFE0, _NONE),
    (0x10000, "other"),
    (0x1F000, _NONE),
    (0x20000, "cjk"),
    (0xE0000, _NONE),
)
_STARTS = np.array([start for start, _ in _BLOCKS])
SCRIPTS = tuple(sorted({script for _, script in _BLOCKS if script}))
_NUMBERS = np.array([SCRIPTS.index(script) if script else -1 for _, script in _BLOCKS])

QUERY_FEATURES = (QUERY_LENGTH, *(SHARE + script for script in SCRIPTS))
DOCUMENT_FEATURES = (DOCUMENT_LENGTH,)
FEATURES = (*QUERY_FEATURES, *DOCUMENT_FEATURES)


@dataclass(frozen=True, slots=True)
class Offset:
    """How far a feature shifts a logit.

    Attributes:
        feature: Its name, one of `FEATURES`.
        weight: What one unit of it adds, before the map to probabilities.
        low: Values below count as this one: the least that was fitted.
        high: Values above count as this one.
    """

    feature: str
    weight: float
    low: float
    high: float

    def __call__(self, values: Float64Array) -> Float64Array:
        """Return the shift of each value, same shape."""
        return self.weight * np.clip(values, self.low, self.high)


def query_features(query: str, num_tokens: int) -> dict[str, float]:
    """Return what is known of a query.

    Args:
        query: Its text.
        num_tokens: Its tokens, special ones left out.

    Returns:
        A value for each of `QUERY_FEATURES`.
    """
    shares = script_shares(query)
    found = {SHARE + script: share for script, share in zip(SCRIPTS, shares, strict=True)}
    return {QUERY_LENGTH: log_length(num_tokens), **found}


def log_length(num_tokens: int) -> float:
    """Return the natural logarithm of a count of tokens; of none as of one."""
    return math.log(max(1, num_tokens))


def script_shares(text: str) -> list[float]:
    """Return the shares of a text's letters that belong to each of `SCRIPTS`.

    Args:
        text: Any text; its first `MAX_CHARACTERS` are looked at.

    Returns:
        Shares that sum to 1; all 0 for a text without letters.
    """
    data = text[:MAX_CHARACTERS].encode("utf-32-le", "surrogatepass")
    numbers = _NUMBERS[np.searchsorted(_STARTS, np.frombuffer(data, "<u4"), side="right") - 1]
    counts = np.bincount(numbers[numbers >= 0], minlength=len(SCRIPTS))
    total = int(counts.sum())
    return [int(count) / total if total else 0.0 for count in counts]


def main_script(text: str) -> str:
    """Return the script that most letters of a text belong to, "" for a text without letters."""
    shares = script_shares(text)
    return SCRIPTS[int(np.argmax(shares))] if any(shares) else ""


def offset_sum(offsets: Sequence[Offset], features: dict[str, float]) -> float:
    """Return what the features of one query add up to; those of documents left out."""
    own = (offset for offset in offsets if offset.feature in features)
    return math.fsum(float(offset(np.array(features[offset.feature]))) for offset in own)
