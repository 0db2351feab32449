"""What first-stage scores count for beside a checkpoint's reranking, read from config.json.

It is not an entry of a head in `polyrank_heads`, so that published rerankers and embedders, whose
heads transformers and sentence-transformers describe, can have it as well.
"""

from typing import get_args

from polyrank.checkpoint.settings import LARGEST_FLOAT32, Settings
from polyrank.errors import CheckpointError
from polyrank.types import FirstStageKind

FIRST_STAGE_KEY = "polyrank_first_stage_weights"
_KINDS: tuple[FirstStageKind, ...] = get_args(FirstStageKind)


def read_first_stage_weights(config: Settings) -> dict[FirstStageKind, float]:
    """Return what a standard deviation of each kind of first-stage score counts for, in logits.

    ``"polyrank_first_stage_weights": {"lexical": 0.6, "dense": 0.1}`` in config.json.

    Args:
        config: Content of config.json.

    Returns:
        The weights by kind; empty where the checkpoint names none.

    Raises:
        CheckpointError: If an entry is of no known kind, or no finite number from 0 upwards.
    """
    content = config.content.get(FIRST_STAGE_KEY)
    if content is not None and not isinstance(content, dict):
        raise CheckpointError(
            f"{config.path} must give {FIRST_STAGE_KEY} as an object of {' and '.join(_KINDS)}, "
            f"not {content!r:.200}."
        )
    entries = config.mapping(FIRST_STAGE_KEY)
    weights: dict[FirstStageKind, float] = {}
    for kind in entries:
        if kind not in _KINDS:
            raise CheckpointError(
                f"{config.path} gives {FIRST_STAGE_KEY} for {kind!r:.200}; there are "
                f"{' and '.join(_KINDS)}."
            )
        if kind not in entries:
            raise entries.error(kind, "a finite number from 0 upwards")
        weights[kind] = entries.number(kind, low=0.0, high=LARGEST_FLOAT32)
    return weights
