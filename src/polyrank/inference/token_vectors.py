"""The rows of single texts that late interaction compares."""

from collections.abc import Sequence
from typing import get_args

from polyrank.engine.engine import Engine
from polyrank.errors import CapabilityError, ConfigError
from polyrank.inference.pair_runs import run_pairs
from polyrank.progress import Progress
from polyrank.tasks.late_interaction import LateInteractionScorer
from polyrank.tasks.multi_vector import MultiVectorScorer
from polyrank.tasks.scoring import PairScorer
from polyrank.types import Float32Array, InputType


def token_vectors(
    engine: Engine,
    scorer: PairScorer,
    texts: Sequence[str],
    input_type: InputType,
    progress: Progress | None = None,
) -> list[Float32Array]:
    """Return one array of rows a text; see `Reranker.token_vectors`.

    Args:
        engine: What runs the texts.
        scorer: What compares their rows.
        texts: The texts.
        input_type: "query" or "document".
        progress: Called with tokens done and tokens in all.

    Returns:
        Shape (num_rows, dim) each, in input order.

    Raises:
        CapabilityError: If the scorer does not compare rows.
        ConfigError: If there is no such input type.
        EncoderError: If the encoder fails.
    """
    if input_type not in get_args(InputType):
        raise ConfigError(
            f"input_type must be one of {', '.join(get_args(InputType))}, not {input_type!r}"
        )
    if not isinstance(scorer, LateInteractionScorer | MultiVectorScorer):
        raise CapabilityError(
            "this checkpoint does not compare texts token by token, so it has no rows to give. "
            "Take the default model, or a ColBERT-like one."
        )
    role = get_args(InputType).index(input_type)
    # a text is paired with nothing on its other side, which runs once and is left out
    pairs = [(text, "") if role == 0 else ("", text) for text in texts]
    found: dict[int, Float32Array] = {}
    if not pairs:
        return []
    for places, plan, rows in run_pairs(engine, scorer, scorer.prepare(pairs), progress):
        vectors = scorer.token_vectors(plan, rows)[role]
        members = plan.members[:, role].tolist()
        found.update(
            {at: vectors[i].copy() for at, i in zip(places.tolist(), members, strict=True)}
        )
    return [found[at] for at in range(len(texts))]
