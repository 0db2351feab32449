"""Checks that every encoder makes: ids that the tables hold, and rows that are numbers."""

from collections.abc import Sequence

import numpy as np

from polyrank.checkpoint.reader import Checkpoint
from polyrank.checkpoint.spec import BodySpec
from polyrank.encoder.base import segments_in_range
from polyrank.errors import CorruptWeightsError, EncoderError
from polyrank.types import Float32Array, PackedBatch

WIDTH_STEP = 32  # of what the native kernels take at once
HEAD_STEP = 16


def check_batch(batch: PackedBatch, body: BodySpec) -> None:
    """Raise unless every token, segment and position has a row in the body's tables.

    Args:
        batch: The sequences to be run, at least one and none empty.
        body: The body that would run them.

    Raises:
        EncoderError: If an id is out of range, a sequence is empty or too long, or positions would
            begin before the table.
    """
    if not len(batch) or batch.lengths.min() < 1:
        raise EncoderError("a batch needs one sequence or more, each of one token or more.")
    lowest, highest = int(batch.input_ids.min()), int(batch.input_ids.max())
    if lowest < 0 or highest >= body.vocab_size:
        raise EncoderError(
            f"token id {highest if lowest >= 0 else lowest} is outside the vocabulary of "
            f"{body.vocab_size:,}. The tokenizer and the weights belong to different checkpoints."
        )
    if not segments_in_range(batch, body):
        raise EncoderError(
            f"token_type_ids name a segment beyond the {body.type_vocab_size} that the checkpoint "
            "has. Leave them out, or take the checkpoint's own tokenizer."
        )
    # With the next check this bounds all rows that `position_ids` can name: a padding id takes the
    # row before the offset, the last token the one `max_seqlen` after it.
    if body.pad_token_id < 0 or body.position_offset not in (0, body.pad_token_id + 1):
        raise EncoderError(
            f"positions would begin at row {body.position_offset} beside padding id "
            f"{body.pad_token_id}; the position table begins at 0. Correct pad_token_id in "
            "config.json: the tokenizer's padding id, 1 for XLM-R."
        )
    if batch.max_seqlen > body.max_seqlen:
        raise EncoderError(
            f"a sequence has {batch.max_seqlen:,} tokens; the checkpoint has positions for "
            f"{body.max_seqlen:,}. Truncate it, or split the document into passages."
        )


def native_misfit(body: BodySpec) -> str | None:
    """Return what the native encoder needs that a body lacks, or None where it can run it."""
    widths = body.hidden_size, body.intermediate_size
    if not any(width % WIDTH_STEP for width in widths) and not body.head_size % HEAD_STEP:
        return None
    return (
        f"the native encoder needs hidden and intermediate sizes that are multiples of "
        f"{WIDTH_STEP} and heads of a multiple of {HEAD_STEP}; this body has {widths[0]}, "
        f"{widths[1]} and {body.head_size}"
    )


def check_rows(rows: Float32Array, checkpoint: Checkpoint) -> None:
    """Raise unless all results are finite.

    Args:
        rows: Rows that an encoder returns, shape (num_rows, hidden_size * modes).
        checkpoint: Where the weights came from; read in full only when a row is not finite.

    Raises:
        CorruptWeightsError: If weights of the body hold NaN or infinity.
        EncoderError: If they do not, so that the computation itself overflowed.
    """
    if np.isfinite(rows).all():
        return
    used = {info.name for info in checkpoint.body_tensors.values()}
    faulty = [name for name in checkpoint.weights.nonfinite() if name in used]
    if faulty:
        raise CorruptWeightsError(
            f"tensor {faulty[0]!r} in {checkpoint.weights.info(faulty[0]).path} holds NaN or "
            f"infinity ({len(faulty)} such tensor(s)). Download the file again."
        )
    raise EncoderError(
        f"{checkpoint.spec.name} gave NaN or infinity though its weights are finite: values grew "
        "beyond float32. The checkpoint was trained or converted wrongly; try another one."
    )


def check_weights(
    checkpoint: Checkpoint, names: Sequence[str], arrays: Sequence[Float32Array]
) -> None:
    """Raise unless weights are finite: int8 steps could not hold NaN or infinity.

    Args:
        checkpoint: Where they came from.
        names: Their names without prefix.
        arrays: The weights, in the same order.

    Raises:
        CorruptWeightsError: If one holds NaN or infinity.
    """
    for name, array in zip(names, arrays, strict=True):
        if not np.isfinite(array).all():
            info = checkpoint.body_tensors[name]
            raise CorruptWeightsError(
                f"tensor {info.name!r} in {info.path} holds NaN or infinity. "
                "Download the file again."
            )
