"""Rankings in the words that most dialects share."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from polyrank.server.cutting import TruncationRequest
from polyrank.server.dialects.base import Api, Body
from polyrank.tasks.rerank import check_top_n


class ProbabilityFields(Body):
    """What rankings of every dialect understand beside their own fields: a word of polyrank's."""

    min_probability: float | str | None = None
    return_probabilities: bool = False


@dataclass(frozen=True, slots=True)
class Ranked:
    """Documents by relevance.

    Attributes:
        model: Name of the model that ranked.
        hits: Index and value of each kept document, best first.
        num_tokens: Tokens of all pairs.
        num_cut: Documents of which tokens were cut.
        probabilities: Of each kept document by its index, where the request asked for them.
    """

    model: str
    hits: list[tuple[int, float]]
    num_tokens: int
    num_cut: int
    probabilities: Mapping[int, float] = field(default_factory=dict)

    def more(self, index: int) -> dict[str, float]:
        """Return what a document's entry holds beside the dialect's own fields."""
        found = self.probabilities.get(index)
        return {} if found is None else {"probability": found}


async def ranked(
    api: Api,
    query: str,
    texts: list[str],
    model: str | None,
    top_n: int | None,
    *,
    is_raw: bool = False,
    cut: TruncationRequest | None = None,
    asked: ProbabilityFields | None = None,
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
        asked: What the request says of probabilities.

    Returns:
        The ranking.

    Raises:
        ConfigError: If `top_n` is below 1, or there is no such threshold.
        CapabilityError: If there is a threshold and the model is not calibrated.
    """
    check_top_n(top_n)
    asked = asked or ProbabilityFields()
    scored = await api.score(
        [(query, text) for text in texts],
        model=model,
        cut=cut,
        min_probability=api.least(asked.min_probability),
    )
    values = scored.logits if is_raw else scored.scores
    hits = [(i, float(values[i])) for i in scored.best_first(top_n)]
    is_told = asked.return_probabilities or asked.min_probability is not None
    likely = scored.probable if is_told else None
    told = {} if likely is None else {i: float(likely.values[i]) for i, _ in hits}
    return Ranked(scored.model, hits, scored.num_tokens, sum(scored.is_truncated), told)
