"""Fitting of the few weights of late interaction to lists of pairs."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from polyrank.progress import StepProgress
from polyrank.training.config import RELEVANCE_LABELS
from polyrank.training.data.sampling import RELEVANT
from polyrank.training.late_interaction.settings import PREFIX, LateInteractionConfig
from polyrank.training.late_interaction.token_rows import FEATURES, Examples
from polyrank.types import Float32Array

_WIDTH = 24  # of the classifier's hidden layer
_TOKEN_RATE, _LAYER_RATE = 3e-3, 1e-2
_BCE, _CLASSES = 0.3, 0.5
_POSITIVE_WEIGHT = 4.0
_HELD_OUT = 0.06  # share of the lists


class _Heads(nn.Module):
    """Token weights, and layers on features that are scaled to unit variance.

    Classes weigh as much as each other, however often they occur. What the rerank head is given is
    the match less `length_weight` for each unit of the document's length.
    """

    def __init__(self, examples: Examples, config: LateInteractionConfig) -> None:
        super().__init__()
        self.length_weight = config.length_weight
        features = torch.from_numpy(examples.features)
        # the weighted match is scaled as if all of a query's tokens matched as the mean of them
        scaled = torch.cat([_sharpened(features[:, :1]), features], dim=1)
        self.mean = scaled.mean(dim=0)
        self.scale = scaled.std(dim=0).clamp_min(1e-6)
        ranked = self._ranked(scaled)
        self.rank_mean, self.rank_scale = ranked.mean(), ranked.std().clamp_min(1e-6)
        generator = torch.Generator().manual_seed(config.seed)
        counts = np.bincount(examples.grades[examples.is_labelled], minlength=len(RELEVANCE_LABELS))
        weights = counts.sum() / np.maximum(counts, 1) / len(counts)
        self.class_weights = torch.from_numpy(weights.astype(np.float32))
        self.tokens = nn.Linear(examples.query_rows.shape[1], 1)
        self.rerank = nn.Linear(1, 1)
        self.hidden = nn.Linear(scaled.shape[1], _WIDTH)
        self.classes = nn.Linear(_WIDTH, len(RELEVANCE_LABELS))
        with torch.no_grad():
            self.tokens.weight.zero_()
            self.tokens.bias.fill_(0.5)
            self.rerank.weight.fill_(2.0)
            self.rerank.bias.zero_()
            for layer in (self.hidden, self.classes):
                layer.weight.normal_(std=layer.in_features**-0.5, generator=generator)
                layer.bias.zero_()

    def forward(
        self, rows: Tensor, is_token: Tensor, list_of: Tensor, matches: Tensor, features: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the logit of each pair, shape (num_pairs,), and the three of its classes.

        Args:
            rows: Clean rows of the queries, shape (num_lists, longest query, hidden_size).
            is_token: Which of them are tokens, shape (num_lists, longest query).
            list_of: List of each pair, shape (num_pairs,).
            matches: Best match of each query token, shape (num_pairs, longest query).
            features: All features but the weighted match, shape (num_pairs, num_features - 1).

        Returns:
            Both, before the activation.
        """
        weights = functional.softplus(self.tokens(rows)[..., 0]) * is_token
        weights = weights / weights.sum(dim=1, keepdim=True)
        match = (_sharpened(matches) * weights[list_of]).sum(dim=1, keepdim=True)
        given = torch.cat([match, features], dim=1)
        logits = self.rerank((self._ranked(given) - self.rank_mean) / self.rank_scale)[:, 0]
        scaled = (given - self.mean) / self.scale
        return logits, self.classes(functional.gelu(self.hidden(scaled)))

    def _ranked(self, given: Tensor) -> Tensor:
        """Return what ranks of all features, shape (num_pairs, 1)."""
        length = FEATURES.index("document_length")
        return given[:, :1] - self.length_weight * given[:, length : length + 1]

    def tensors(self) -> dict[str, Float32Array]:
        """Return the weights by name, the scaling of the features folded into the first layers."""
        slope = self.rerank.weight.detach() / self.rank_scale
        by_class = self.hidden.weight.detach() / self.scale
        layers = {
            "tokens": (self.tokens.weight, self.tokens.bias),
            "rerank.0": (
                torch.cat([slope, -self.length_weight * slope], dim=1),
                self.rerank.bias - slope[0] * self.rank_mean,
            ),
            "classify.0": (by_class, self.hidden.bias - by_class @ self.mean),
            "classify.1": (self.classes.weight, self.classes.bias),
        }
        found: dict[str, Float32Array] = {}
        for name, (weight, bias) in layers.items():
            found[f"{PREFIX}.{name}.weight"] = np.ascontiguousarray(weight.detach().numpy())
            found[f"{PREFIX}.{name}.bias"] = np.ascontiguousarray(bias.detach().numpy())
        return found


def fit_heads(
    examples: Examples, config: LateInteractionConfig, progress: StepProgress
) -> tuple[Mapping[str, Float32Array], list[dict[str, Any]]]:
    """Fit token weights and layers.

    The rerank head learns to rank lists (softmax over a list) and what is relevant (BCE); the
    classify head learns the three classes from the pairs that have one.

    Args:
        examples: The pairs.
        config: Epochs, batch size, seed.
        progress: Called with the step "fitting".

    Returns:
        Tensors by name, and the losses on held-out lists after each epoch.
    """
    model = _Heads(examples, config)
    optimizer = torch.optim.AdamW(
        [
            {"params": model.tokens.parameters(), "lr": _TOKEN_RATE, "weight_decay": 0.1},
            {
                "params": [
                    parameter
                    for layer in (model.rerank, model.hidden, model.classes)
                    for parameter in layer.parameters()
                ],
                "lr": _LAYER_RATE,
                "weight_decay": 1e-3,
            },
        ]
    )
    generator = np.random.default_rng((config.seed, 12))
    order = generator.permutation(len(examples.list_starts) - 1)
    num_held = min(len(order) // 2, max(1, round(len(order) * _HELD_OUT)))
    held, learnt = order[:num_held], order[num_held:]
    num_steps = config.epochs * -(-len(learnt) // config.batch_size)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / (num_steps + 1))
    course, step = [], 0
    for epoch in range(config.epochs):
        generator.shuffle(learnt)
        for start in range(0, len(learnt), config.batch_size):
            losses = _losses(model, examples, learnt[start : start + config.batch_size])
            optimizer.zero_grad()
            total = torch.stack(list(losses.values())).sum()
            total.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            falling.step()
            step += 1
            progress("fitting", step, num_steps)
        with torch.no_grad():
            found = _losses(model, examples, held)
        course.append({"epoch": epoch + 1, **{k: round(float(v), 4) for k, v in found.items()}})
    return model.tensors(), course


def _sharpened(matches: Tensor) -> Tensor:
    """Return matches as the feature sharp_match counts them."""
    return matches.clamp_min(0) ** 1.5


def _losses(model: _Heads, examples: Examples, lists: NDArray[np.int64]) -> dict[str, Tensor]:
    starts, ends = examples.list_starts[lists], examples.list_starts[lists + 1]
    pairs = np.concatenate([np.arange(a, b) for a, b in zip(starts, ends, strict=True)])
    sizes = ends - starts
    list_of = torch.from_numpy(np.repeat(np.arange(len(lists)), sizes))
    rows, is_token = _padded_queries(examples, lists)
    matches = torch.from_numpy(examples.matches[pairs, : rows.shape[1]])
    features = torch.from_numpy(examples.features[pairs])
    logits, classes = model(rows, is_token, list_of, matches, features)
    grades = torch.from_numpy(examples.grades[pairs])
    is_relevant = grades == RELEVANT
    bce = functional.binary_cross_entropy_with_logits(
        logits, is_relevant.float(), pos_weight=torch.tensor(_POSITIVE_WEIGHT)
    )
    is_labelled = torch.from_numpy(examples.is_labelled[pairs])
    of_classes = classes.sum() * 0
    if is_labelled.any():
        of_classes = functional.cross_entropy(
            classes[is_labelled], grades[is_labelled], weight=model.class_weights
        )
    return {
        "ranking": _ranking_loss(logits, is_relevant, sizes),
        "bce": _BCE * bce,
        "classes": _CLASSES * of_classes,
    }


def _ranking_loss(logits: Tensor, is_relevant: Tensor, sizes: NDArray[np.int64]) -> Tensor:
    """Cross-entropy of the relevant passage, which comes first, among its list's."""
    first = torch.from_numpy(np.cumsum(sizes) - sizes)
    columns = np.concatenate([np.arange(size) for size in sizes])
    rows = np.repeat(np.arange(len(sizes)), sizes)
    table = logits.new_full((len(sizes), int(sizes.max())), -1e4)
    table = table.index_put((torch.from_numpy(rows), torch.from_numpy(columns)), logits)
    answered = is_relevant[first]
    if not answered.any():
        return logits.sum() * 0
    targets = torch.zeros(int(answered.sum()), dtype=torch.long)
    return functional.cross_entropy(table[answered], targets)


def _padded_queries(examples: Examples, lists: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    starts, ends = examples.query_starts[lists], examples.query_starts[lists + 1]
    longest = int((ends - starts).max())
    rows = np.zeros((len(lists), longest, examples.query_rows.shape[1]), np.float32)
    is_token = np.zeros((len(lists), longest), np.float32)
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        rows[i, : end - start] = examples.query_rows[start:end]
        is_token[i, : end - start] = 1
    return torch.from_numpy(rows), torch.from_numpy(is_token)
