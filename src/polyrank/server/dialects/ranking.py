"""Rankings in the words that most dialects share."""

from dataclasses import dataclass

from polyrank.server.cutting import Cut
from polyrank.server.dialects.base import Api
from polyrank.tasks.rerank import check_top_n, order_by_logit


@dataclass(frozen=True, slots=True)
class Ranked:
    """Documents by relevance.

    Attributes:
        model: Name of the model that ranked.
        hits: Index and value of each kept document, best first.
        num_tokens: Tokens of all pairs.
        num_cut: Documents of which tokens were cut.
    """

    model: str
    hits: list[tuple[int, float]]
    num_tokens: int
    num_cut: int


async def ranked(
    api: Api,
    query: str,
    texts: list[str],
    model: str | None,
    top_n: int | None,
    *,
    is_raw: bool = False,
    cut: Cut | None = None,
) -> Ranked:
    """Return documents by relevance, best first; equal logits keep their order.

    Args:
        api: The service.
        query: What is looked for.
        texts: The documents.
        model: Name of the model.
        top_n: How many to keep; None keeps all.
        is_raw: Whether values are logits.
        cut: How texts that are too long are treated.

    Returns:
        The ranking.

    Raises:
        ConfigError: If `top_n` is below 1.
    """
    check_top_n(top_n)
    scored = await api.score([(query, text) for text in texts], model=model, cut=cut)
    values = scored.logits if is_raw else scored.scores
    hits = [(i, float(values[i])) for i in order_by_logit(scored.logits)[:top_n]]
    return Ranked(scored.model, hits, scored.num_tokens, sum(scored.is_truncated))
