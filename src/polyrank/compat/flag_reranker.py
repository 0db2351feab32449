"""`FlagReranker` as FlagEmbedding has it, with a `Reranker` behind it."""

from collections.abc import Sequence
from typing import Any

from polyrank.compat.arguments import LOADING, refuse, translated
from polyrank.errors import ConfigError
from polyrank.inference.model import ModelName
from polyrank.inference.reranker import Reranker


class FlagReranker:
    """Scores of pairs by `compute_score`: raw logits, or 0 to 1 if normalised."""

    def __init__(
        self,
        model_name_or_path: ModelName = None,
        use_fp16: bool = False,
        *,
        query_max_length: int | None = None,
        max_length: int = 512,
        normalize: bool = False,
        **arguments: Any,
    ) -> None:
        """Load a reranker; on a CPU `use_fp16` asks for nothing, as FlagEmbedding has it too."""
        devices = arguments.pop("devices", None)
        device = devices[0] if isinstance(devices, list) and len(devices) == 1 else devices
        given = translated("FlagReranker", {**arguments, "device": device}, LOADING)
        if given.get("device", "cpu") != "cpu":
            refuse("FlagReranker", {"use_fp16": use_fp16})
        longest = max_length * 3 // 4 if query_max_length is None else query_max_length
        self.model = Reranker(
            model_name_or_path,
            max_length=max_length,
            truncation="only_second",
            max_query_length=longest,
            passages=None,
            **given,
        )
        self._is_normalized = normalize

    def compute_score(
        self,
        sentence_pairs: Sequence[Any],
        *,
        normalize: bool | None = None,
        **arguments: Any,
    ) -> list[float]:
        """Return the score of each pair, of a single pair too as a list."""
        refuse("FlagReranker.compute_score", arguments)
        if not sentence_pairs:
            raise ConfigError("compute_score needs a pair at least")
        pairs: Any = [sentence_pairs] if isinstance(sentence_pairs[0], str) else sentence_pairs
        is_normalized = self._is_normalized if normalize is None else normalize
        return list(map(float, self.model.score(pairs, logits=not is_normalized)))
