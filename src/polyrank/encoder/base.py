"""The seam between the engine and whatever computes: packed batches in, rows out.

An encoder knows tokens and tensors, not texts or tasks. Padding is its private affair; it tells
the engine only whether padded tokens cost time, so that batches can be cut accordingly.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from polyrank.checkpoint.spec import BodySpec
from polyrank.types import Float32Array, Int32Array, PackedBatch, PoolingMode


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the engine and `polyrank info` may know of an encoder.

    Attributes:
        name: Name users choose it by.
        is_padding: Whether a batch costs as much as its longest sequence times its count.
        compute_dtype: Type of weights and products, for instance "float32".
        device: Where it runs.
        tolerance: Largest change of a unit-scale row value that batch mates can cause.
    """

    name: str
    is_padding: bool
    compute_dtype: str
    device: str
    tolerance: float


class Encoder(Protocol):
    """A loaded body that runs packed batches. Safe to call from several threads."""

    @property
    def capabilities(self) -> Capabilities:
        """What this encoder is."""
        ...

    def run(self, batch: PackedBatch, pooling: tuple[PoolingMode, ...]) -> Float32Array:
        """Return one row per sequence, or one per token.

        Args:
            batch: At least one sequence, none empty.
            pooling: Modes whose rows are laid side by side; empty for token rows.

        Returns:
            Shape (num_sequences, hidden_size * len(pooling)) in input order, or
            (total_tokens, hidden_size) in packed order where `pooling` is empty.

        Raises:
            EncoderError: If the computation fails, for instance for want of memory.
        """
        ...

    def close(self) -> None:
        """Free memory and threads. The encoder cannot be used afterwards."""
        ...


def position_ids(batch: PackedBatch, body: BodySpec) -> Int32Array:
    """Return the row of the position table for each token.

    BERT counts from 0. RoBERTa counts from padding index + 1 and leaves out padding ids, which
    matters when a text itself spells the padding token: such a token takes the padding index.

    Args:
        batch: The packed sequences.
        body: The body, for its offset and padding id.

    Returns:
        Positions, shape (total_tokens,).
    """
    starts = np.repeat(batch.cu_seqlens[:-1], batch.lengths)
    if body.position_offset == 0:
        return np.arange(batch.total_tokens, dtype=np.int32) - starts
    counted = batch.input_ids != body.pad_token_id
    running = np.concatenate(([0], np.cumsum(counted)))
    ordinal = running[1:] - running[starts]  # 1 for the first counted token of a sequence
    return np.asarray(ordinal * counted + (body.position_offset - 1), np.int32)


def padded_indices(batch: PackedBatch) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return where packed tokens stand in a padded matrix.

    Args:
        batch: The packed sequences.

    Returns:
        Packed index of each cell, shape (num_sequences, max_seqlen), 0 where padded; and
        whether the cell holds a token, same shape. ``rows[mask]`` of padded rows gives packed
        order back.
    """
    columns = np.arange(batch.max_seqlen)
    mask = columns[None, :] < batch.lengths[:, None]
    indices = np.where(mask, batch.cu_seqlens[:-1, None] + columns[None, :], 0)
    return indices, mask


def segments_in_range(batch: PackedBatch, body: BodySpec) -> bool:
    """Return whether every segment id has a row in the body's segment table."""
    types = batch.token_type_ids
    if types is None:
        return True
    return int(types.min(initial=0)) >= 0 and int(types.max(initial=0)) < body.type_vocab_size
