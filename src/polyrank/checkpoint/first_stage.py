"""What first-stage scores count for beside a checkpoint's reranking, read from config.json.

It is not an entry of a head in `polyrank_heads`, so that published rerankers and embedders, whose
heads transformers and sentence-transformers describe, can have it as well.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_args

from polyrank.errors import CheckpointError
from polyrank.types import FirstStageKind

FIRST_STAGE_KEY = "polyrank_first_stage_weights"


def read_first_stage_weights(config: Mapping[str, Any], path: Path) -> dict[FirstStageKind, float]:
    """Return what a standard deviation of each kind of first-stage score counts for, in logits.

    ``"polyrank_first_stage_weights": {"lexical": 0.6, "dense": 0.1}`` in config.json.

    Args:
        config: Content of config.json.
        path: Where it was read.

    Returns:
        The weights by kind; empty where the checkpoint names none.

    Raises:
        CheckpointError: If an entry is of no known kind, or no finite number from 0 upwards.
    """
    kinds = get_args(FirstStageKind)
    entries = config.get(FIRST_STAGE_KEY, {})
    if not isinstance(entries, dict):
        raise CheckpointError(
            f"{path} must give {FIRST_STAGE_KEY} as an object of {' and '.join(kinds)}, not "
            f"{entries!r}."
        )
    weights: dict[FirstStageKind, float] = {}
    for kind, weight in entries.items():
        if kind not in kinds:
            raise CheckpointError(
                f"{path} gives {FIRST_STAGE_KEY} for {kind!r}; there are {' and '.join(kinds)}."
            )
        is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not is_number or not 0 <= weight < math.inf:
            raise CheckpointError(
                f"{path} gives {FIRST_STAGE_KEY} of {kind} as {weight!r}; it must be a finite "
                "number, 0 or more."
            )
        weights[cast(FirstStageKind, kind)] = float(weight)
    return weights
