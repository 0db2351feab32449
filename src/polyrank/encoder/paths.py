"""What is known of each path of the native kernels: facts that are not for measuring at run time.

A choice by the clock would give one machine other bits from one day to the next.
"""

import os

from polyrank._extras import is_installed
from polyrank.checkpoint.spec import LinearType

ISA_VARIABLE = "POLYRANK_ISA"

BLOCK_PATHS = frozenset({"avx2", "avx512bw"})
"""Paths that multiply weights in 4-bit blocks as they are: 1.8 to 1.9 times as quick there as int8
steps, and nearer to float32. Paths with 8-bit dot products are quicker by int8 steps."""

BFLOAT16_PATHS = frozenset({"avx512bf16", "amx", "neoni8mm"})
"""Paths whose processors multiply bfloat16. The others compute the same by float32 products."""

FLOAT32_IS_QUICKER: frozenset[tuple[str, LinearType]] = frozenset({("avx512bw", "int8")})
"""Paths, and how an int8 folder stores its linear layers, where float32 products are as quick.

The order was the same for bodies of 384 and of 1,024 values, so shapes need no entries. Intel's
processors, the only ones that run avx512bw by themselves, do a product of 16 bits and a sum in the
time of two fused float32 products, and int8 rows have to be made first."""


def running_path() -> str:
    """Return the path that runs here: what POLYRANK_ISA names, or the best one.

    Returns:
        Its name; empty where the native encoder was not built.
    """
    if not is_installed("polyrank._native"):
        return ""
    from polyrank import _native

    return os.environ.get(ISA_VARIABLE) or _native.usable_paths()[0]


def is_int8_quicker(path: str, linears: LinearType) -> bool:
    """Return whether int8 products are quicker than float32 ones.

    Args:
        path: Name of a path; one that is not known counts as one with int8 products.
        linears: How the folder stores its linear layers.

    Returns:
        What was measured or counted once, not now.
    """
    return (path, linears) not in FLOAT32_IS_QUICKER
