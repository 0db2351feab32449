"""What is known of each path of the native kernels: facts that are not for measuring at run time.

A choice by the clock would give one machine other bits from one day to the next.
"""

import os

from polyrank import _native

ISA_VARIABLE = "POLYRANK_ISA"

BLOCK_PATHS = frozenset({"avx2", "avx512bw"})
"""Paths that multiply weights in 4-bit blocks as they are: two to three times as quick there as
int8 steps, and nearer to float32. Paths with 8-bit dot products are quicker by int8 steps."""


def running_path() -> str:
    """Return the path that runs here: what POLYRANK_ISA names, or the best one."""
    return os.environ.get(ISA_VARIABLE) or _native.usable_paths()[0]
