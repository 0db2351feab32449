"""Rows of tokens that look at a text without being looked at, in NumPy.

ColBERT fills queries up with ``[MASK]`` that neither the text's own tokens nor others of its kind
attend to. No encoder here takes such a mask: all tokens of a packed sequence see each other. What
fills up a query is few tokens and runs once a query, so plain NumPy on the checkpoint's tensors
does it.
"""

from functools import lru_cache

import numpy as np

from polyrank.checkpoint.body import LAYER
from polyrank.checkpoint.formats.quantization import WORD_TABLE
from polyrank.checkpoint.reader import Checkpoint
from polyrank.encoder.base import position_ids
from polyrank.types import Float32Array, Int32Array, PackedBatch

_KEPT = 64  # queries whose rows are kept: a ranking asks for them once a part
# Abramowitz and Stegun 7.1.26: within 1.5e-7 of erf, less than a float32 of a hidden row holds
_ERF = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
_ERF_P = 0.3275911


class UnattendedRows:
    """Runs a query with what fills it up. Safe to use from several threads."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Take a checkpoint; its tensors are read where they are mapped."""
        self._checkpoint = checkpoint
        self._rows = lru_cache(_KEPT)(self._run)

    def __call__(self, ids: Int32Array, filler: int, count: int) -> Float32Array:
        """Return rows of tokens behind a text.

        Args:
            ids: The text's tokens, special ones included, shape (seq_len,).
            filler: The token that fills up.
            count: How many times.

        Returns:
            Shape (count, hidden_size).
        """
        return self._rows(tuple(ids.tolist()), filler, count)

    def _run(self, ids: tuple[int, ...], filler: int, count: int) -> Float32Array:
        whole = np.array([*ids, *[filler] * count], np.int32)
        rows = self._embed(whole)
        for layer in range(self._checkpoint.spec.body.num_layers):
            rows = self._layer(rows, LAYER.format(layer), len(ids))
        return rows[len(ids) :]

    def _embed(self, ids: Int32Array) -> Float32Array:
        checkpoint = self._checkpoint
        batch = PackedBatch(ids, np.array([0, len(ids)], np.int32))
        if checkpoint.is_quantised(WORD_TABLE):
            words = checkpoint.body_rows(WORD_TABLE)(ids)
        else:
            words = checkpoint.body_float32(WORD_TABLE)[ids]
        places = checkpoint.body_float32("embeddings.position_embeddings.weight")
        types = checkpoint.body_float32("embeddings.token_type_embeddings.weight")
        rows = words + places[position_ids(batch, checkpoint.spec.body)] + types[0]
        return self._norm(rows, "embeddings.LayerNorm")

    def _layer(self, rows: Float32Array, layer: str, num_keys: int) -> Float32Array:
        body = self._checkpoint.spec.body
        heads = (body.num_heads, body.head_size)
        queries, keys, values = (
            self._linear(part, f"{layer}attention.self.{name}").reshape(-1, *heads)
            for name, part in (
                ("query", rows),
                ("key", rows[:num_keys]),
                ("value", rows[:num_keys]),
            )
        )
        scores = np.einsum("qhd,khd->hqk", queries, keys) / np.float32(np.sqrt(body.head_size))
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", weights, values).reshape(rows.shape)
        mixed = self._linear(mixed, f"{layer}attention.output.dense")
        rows = self._norm(rows + mixed, f"{layer}attention.output.LayerNorm")
        inner = _activated(self._linear(rows, f"{layer}intermediate.dense"), body.activation)
        outer = self._linear(inner, f"{layer}output.dense")
        return self._norm(rows + outer, f"{layer}output.LayerNorm")

    def _linear(self, rows: Float32Array, name: str) -> Float32Array:
        checkpoint = self._checkpoint
        weight = checkpoint.body_float32(f"{name}.weight")
        return rows @ weight.T + checkpoint.body_float32(f"{name}.bias")

    def _norm(self, rows: Float32Array, name: str) -> Float32Array:
        checkpoint = self._checkpoint
        centred = rows - rows.mean(axis=1, keepdims=True)
        spread = np.square(centred).mean(axis=1, keepdims=True)
        unit = centred / np.sqrt(spread + np.float32(checkpoint.spec.body.layer_norm_eps))
        scale = checkpoint.body_float32(f"{name}.weight")
        return np.asarray(unit * scale + checkpoint.body_float32(f"{name}.bias"), np.float32)


def _activated(rows: Float32Array, name: str) -> Float32Array:
    if name == "gelu":
        size = np.abs(rows.astype(np.float64)) * np.sqrt(0.5)
        ratio, total = 1 / (1 + _ERF_P * size), np.zeros_like(size)
        for factor in _ERF:
            total = (total + factor) * ratio
        erf = np.copysign(1 - total * np.exp(-np.square(size)), rows)
        return np.asarray(0.5 * rows * (1 + erf), np.float32)
    from polyrank.tasks.heads import NONLINEARITIES

    return NONLINEARITIES[name](rows)  # type: ignore[index]
