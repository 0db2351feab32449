"""Weighted sums of sentence-transformers' losses over one forward pass.

The losses of that library run the model themselves, each for itself and in the order of the
lists. Here the model runs once over all pairs of an update, sorted by length and cut by a token
budget, and each loss is then given a stand-in that hands the same logits out again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.cross_encoder import losses as pair_losses
from sentence_transformers.sentence_transformer import losses as vector_losses
from torch import Tensor, nn

from polyrank.training.config import TrainingConfig
from polyrank.training.data.sampling import RELEVANT

LIST_SHARPNESS = 10.0
"""Label of a relevant passage in ListNet, whose target is the softmax of the labels: at 1, four
passages would get 0.48, 0.17, 0.17 and 0.17."""

CACHED_FROM = 128
"""Lists an update from which the contrastive loss keeps gradients instead of activations."""

VECTORS = "vectors"
_MINI_BATCH = 32
_CONTRASTIVE_SCALE = 20.0


class _Replay(nn.Module):
    """Stands in for the model: gives logits that are there already."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.rows: dict[tuple[str, str], int] = {}
        self.logits = torch.empty(0)

    def preprocess(self, pairs: Sequence[tuple[str, str]], **_: str | None) -> dict[str, Tensor]:
        rows = [self.rows[query, passage] for query, passage in pairs]
        return {"rows": torch.tensor(rows, device=self.device)}

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"scores": self.logits[features["rows"]]}


@dataclass(frozen=True, slots=True)
class _Lists:
    """An update's lists: the columns that the collator gives, and targets by list."""

    queries: list[str]
    passages: list[list[str]]
    grades: list[Tensor]
    scores: list[Tensor]

    def pairs(self) -> tuple[list[str], list[str]]:
        counts = zip(self.queries, self.passages, strict=True)
        queries = [query for query, passages in counts for _ in passages]
        return queries, [text for passages in self.passages for text in passages]


class PairLoss(nn.Module):
    """The loss of a cross-encoder: a weighted sum over lists of graded passages."""

    def __init__(self, model: CrossEncoder, config: TrainingConfig, classes: Sequence[int]) -> None:
        """Make the loss.

        Args:
            model: The cross-encoder that is trained.
            config: Which losses with which weights, and the token budget.
            classes: Output of the model for each grade (classifiers).
        """
        super().__init__()
        self.model = model
        self.weights = dict(config.losses)
        self.max_batch_tokens = config.max_batch_tokens
        self.classes = torch.tensor(list(classes), device=model.device)
        self.replay = _Replay(model.device)
        num_negatives = max(1, sum(config.num_negatives))
        self.parts = nn.ModuleDict(
            {name: _pair_loss(name, model, num_negatives) for name in self.weights}
        )
        for part in self.parts.values():
            part.model = self.replay

    def forward(
        self,
        inputs: list[Any],
        labels: list[Tensor],
        prompt: str | None = None,
        task: str | None = None,
    ) -> dict[str, Tensor]:
        """Return each loss times its weight.

        Args:
            inputs: Queries, and a list of passages for each.
            labels: Grades and scores of each list, shape (num_passages, 2).
            prompt: Not used; the trainer passes it.
            task: Not used; the trainer passes it.

        Returns:
            One value for each loss.
        """
        del prompt, task
        queries, passages = inputs
        lists = _Lists(
            queries, passages, [own[:, 0] for own in labels], [own[:, 1] for own in labels]
        )
        asked, texts = lists.pairs()
        pairs = list(dict.fromkeys(zip(asked, texts, strict=True)))
        self.replay.rows = {pair: row for row, pair in enumerate(pairs)}
        self.replay.logits = self._logits(pairs)
        return {name: weight * self._part(name, lists) for name, weight in self.weights.items()}

    def _part(self, name: str, lists: _Lists) -> Tensor:
        part, device = self.parts[name], self.replay.device
        if name in ("listnet", "lambda"):
            return part([lists.queries, lists.passages], _relevance(lists, name))
        if name == "distill":
            return part([lists.queries, lists.passages], lists.scores)
        if name == "margin-mse":
            columns, margins = _margins(lists)
            return part(columns, margins.to(device))
        grades = torch.cat(lists.grades).to(device)
        if name == "cross-entropy":
            return part(list(lists.pairs()), self.classes[grades.long()])
        if name == "mse":
            return part(list(lists.pairs()), torch.cat(lists.scores).to(device))
        return part(list(lists.pairs()), (grades == RELEVANT).float())

    def _logits(self, pairs: list[tuple[str, str]]) -> Tensor:
        """Logits of pairs, in their order; shorter pairs do not pay for longer ones."""
        features = self.model.preprocess(pairs)
        lengths = features["attention_mask"].sum(dim=1)
        order = torch.argsort(lengths, stable=True)
        parts = []
        for rows in _by_budget(order, lengths, self.max_batch_tokens):
            longest = int(lengths[rows[-1]])
            part = {
                key: value[rows, :longest].to(self.model.device)
                if isinstance(value, Tensor)
                else value
                for key, value in features.items()
            }
            parts.append(self.model(part)["scores"])
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order))
        return torch.cat(parts).float()[back.to(self.model.device)]


def _by_budget(order: Tensor, lengths: Tensor, max_tokens: int) -> list[Tensor]:
    """Cut rows, shortest first, so that each part with its padding is within a budget."""
    parts: list[Tensor] = []
    start = 0
    for end in range(1, len(order) + 1):
        is_last = end == len(order)
        if is_last or (end + 1 - start) * int(lengths[order[end]]) > max_tokens:
            parts.append(order[start:end])
            start = end
    return parts


def _pair_loss(name: str, model: CrossEncoder, num_negatives: int) -> nn.Module:
    if name in ("listnet", "distill"):
        return pair_losses.ListNetLoss(model)
    if name == "lambda":
        return pair_losses.LambdaLoss(model)
    if name == "margin-mse":
        return pair_losses.MarginMSELoss(model)
    if name == "mse":
        return pair_losses.MSELoss(model)
    if name == "cross-entropy":
        return pair_losses.CrossEntropyLoss(model)
    weight = torch.tensor(float(num_negatives), device=model.device)
    return pair_losses.BinaryCrossEntropyLoss(model, pos_weight=weight)


def _relevance(lists: _Lists, name: str) -> list[Tensor]:
    one = LIST_SHARPNESS if name == "listnet" else 1.0
    return [(grades == RELEVANT).float() * one for grades in lists.grades]


def _margins(lists: _Lists) -> tuple[list[list[str]], Tensor]:
    """Triplets of the first passage of each list with each other one."""
    columns: list[list[str]] = [[], [], []]
    margins: list[Tensor] = []
    for query, passages, scores in zip(lists.queries, lists.passages, lists.scores, strict=True):
        for passage in passages[1:]:
            for column, text in zip(columns, (query, passages[0], passage), strict=True):
                column.append(text)
        margins.append(scores[0] - scores[1:])
    return columns, torch.cat(margins)


class VectorLoss(nn.Module):
    """The loss of an embedder: a weighted sum over columns query, answer, negatives."""

    def __init__(
        self,
        model: SentenceTransformer,
        config: TrainingConfig,
        teacher: SentenceTransformer | None = None,
    ) -> None:
        """Make the loss.

        Args:
            model: The embedder that is trained.
            config: Which losses with which weights.
            teacher: Whose rows are learnt; wanted for the loss "vectors". It reads the very
                tokens that the model reads.
        """
        super().__init__()
        self.model = model
        self.weights = dict(config.losses)
        parts = {name: _vector_loss(name, model) for name in self.weights if name != VECTORS}
        self.parts: Any = nn.ModuleDict(parts)
        self._teacher = [] if teacher is None else [teacher]  # no part of what is trained or saved

    def forward(self, sentence_features: Any, labels: Tensor | None) -> dict[str, Tensor]:
        """Return each loss times its weight.

        Args:
            sentence_features: Tokens of each column.
            labels: The teacher's scores, shape (batch, num_passages).

        Returns:
            One value for each loss.
        """
        found = [self.model(dict(part)) for part in sentence_features]
        vectors = [each["sentence_embedding"] for each in found]
        values = {
            name: self._distance(sentence_features, found)
            if name == VECTORS
            else self.parts[name].compute_loss_from_embeddings(vectors, labels)
            for name in self.weights
        }
        return {name: weight * values[name] for name, weight in self.weights.items()}

    def _distance(self, sentence_features: Any, found: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """Return how far vectors and rows lie from the teacher's, mean over texts."""
        (teacher,) = self._teacher
        distances = []
        for part, own in zip(sentence_features, found, strict=True):
            with torch.no_grad():
                wanted = teacher(dict(part))
            mask = part["attention_mask"].bool()
            rows = _one_less_cosine(own["token_embeddings"][mask], wanted["token_embeddings"][mask])
            vectors = _one_less_cosine(own["sentence_embedding"], wanted["sentence_embedding"])
            distances.append(rows + vectors)
        return torch.stack(distances).mean()


def _one_less_cosine(found: Tensor, wanted: Tensor) -> Tensor:
    return 1 - nn.functional.cosine_similarity(found.float(), wanted.float(), dim=-1).mean()


def _vector_loss(name: str, model: SentenceTransformer) -> nn.Module:
    if name == "margin-mse":
        return vector_losses.MarginMSELoss(model)
    if name == "distill":
        return vector_losses.DistillKLDivLoss(model)
    return vector_losses.MultipleNegativesRankingLoss(model, scale=_CONTRASTIVE_SCALE)


def embedder_loss(
    model: SentenceTransformer, config: TrainingConfig, teacher: SentenceTransformer | None
) -> nn.Module:
    """Return the loss of an embedder; big batches of the contrastive loss alone are cached."""
    if tuple(config.losses) == ("contrastive",) and config.lists_per_step >= CACHED_FROM:
        return vector_losses.CachedMultipleNegativesRankingLoss(
            model, scale=_CONTRASTIVE_SCALE, mini_batch_size=_MINI_BATCH
        )
    return VectorLoss(model, config, teacher)
