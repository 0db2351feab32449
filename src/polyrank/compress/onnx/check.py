"""Whether a written ONNX file computes what the checkpoint does, on texts in many languages."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from polyrank.checkpoint.reader import Checkpoint
from polyrank.compress.onnx.graph import (
    ATTENTION_MASK,
    INPUT_IDS,
    ROWS,
    TOKEN_TYPE_IDS,
    Weights,
)
from polyrank.config import EngineConfig, TruncationConfig
from polyrank.encoder.choose import choose_encoder
from polyrank.encoder.onnx import ERRORS_ONLY, ORT_ERRORS
from polyrank.encoder.pooling import pool
from polyrank.errors import CapabilityError, EncoderError
from polyrank.tasks.heads import Head
from polyrank.text.pairs import SequenceBuilder
from polyrank.text.tokenizer import Tokenizer
from polyrank.types import Float32Array, PackedBatch

TEXTS = (
    "Cats live twelve to eighteen years.",
    "Los gatos duermen unas quince horas al día, a veces más.",
    "室内で飼われている猫の平均寿命は約十五年です。",
    "يعيش القط المنزلي عادة بين اثنتي عشرة وخمس عشرة سنة.",
    "Домашние кошки живут в среднем двенадцать–пятнадцать лет.",
    "बिल्लियाँ औसतन पंद्रह वर्ष जीती हैं।",
    "แมวที่เลี้ยงในบ้านมีอายุเฉลี่ยประมาณสิบห้าปี",
    "Bread needs flour, water, salt and time. " * 12,
)
"""What is compared, in one padded batch; pairs are each text with the first."""

LARGEST: dict[Weights, float] = {"float32": 1e-3, "float16": 2e-2}
"""Most that a logit or a value of a vector may be off. int8 is held to the cosine of results."""

LEAST_COSINE = 0.98
"""Of a text's vector in int8 with that in float32, or of the logits of all texts."""


@dataclass(frozen=True, slots=True)
class Distance:
    """How far a file's results lie from the checkpoint's in float32.

    Attributes:
        largest: Difference of any value.
        least_cosine: Of any text's vector; of the logits of all texts where there are logits.
    """

    largest: float
    least_cosine: float


def check_file(
    path: Path, checkpoint: Checkpoint, head: Head, output: str, weights: Weights
) -> Distance:
    """Run a file on some texts and compare it with the checkpoint.

    Args:
        path: The file.
        checkpoint: What it was made of.
        head: The head that is inside.
        output: Name of the output that is compared.
        weights: Type of its weights.

    Returns:
        The distance.

    Raises:
        CapabilityError: If ONNX Runtime lacks an operator of it.
        EncoderError: If results lie too far apart.
    """
    batch = _batch(checkpoint, is_pairs=bool(head.spec.labels))
    encoder = choose_encoder(checkpoint, EngineConfig(compute_dtype="float32"))
    expected = head(encoder.run(batch, head.spec.pooling))
    encoder.close()
    found = _run(path, batch, output, checkpoint.spec.body.pad_token_id)
    if output == ROWS:  # which the consumer pools
        rows = [own[:length] for own, length in zip(found, batch.lengths, strict=True)]
        found = head(pool(np.concatenate(rows), batch.cu_seqlens, head.spec.pooling))
    if head.spec.labels:  # of all texts: a logit alone has no direction
        cosine = _cosine(found.ravel(), expected.ravel())
    else:
        cosine = min(_cosine(a, b) for a, b in zip(found, expected, strict=True))
    distance = Distance(float(np.abs(found - expected).max()), cosine)
    is_near = (
        distance.least_cosine >= LEAST_COSINE
        if weights == "int8"
        else distance.largest <= LARGEST[weights]
    )
    if not is_near:
        raise EncoderError(
            f"{path.name} does not compute what {checkpoint.spec.name} does: off by "
            f"{distance.largest:.3g}, cosine {distance.least_cosine:.4f}. Nothing was written; "
            "choose --weights float32, or report it with `polyrank info`."
        )
    return distance


def _batch(checkpoint: Checkpoint, *, is_pairs: bool) -> PackedBatch:
    spec = checkpoint.spec
    tokenizer = Tokenizer(checkpoint.tokenizer_file, is_lowercased=spec.is_lowercased)
    builder = SequenceBuilder(
        tokenizer,
        TruncationConfig(),
        model_limit=spec.max_length,
        has_segments=spec.body.type_vocab_size > 1,
    )
    if is_pairs:
        return builder.pairs([(TEXTS[0], text) for text in TEXTS]).batch
    return builder.texts(list(TEXTS)).batch


def padded(batch: PackedBatch, pad_token_id: int) -> dict[str, np.ndarray[Any, Any]]:
    """Return a batch as other runtimes take it: int64 (batch, seq_len), padded at the end."""
    longest = int(batch.lengths.max())
    ids = np.full((len(batch), longest), pad_token_id, np.int64)
    mask = np.zeros_like(ids)
    types = np.zeros_like(ids)
    for i, (start, length) in enumerate(zip(batch.cu_seqlens, batch.lengths, strict=False)):
        ids[i, :length] = batch.input_ids[start : start + length]
        mask[i, :length] = 1
        if batch.token_type_ids is not None:
            types[i, :length] = batch.token_type_ids[start : start + length]
    return {INPUT_IDS: ids, ATTENTION_MASK: mask, TOKEN_TYPE_IDS: types}


def _run(path: Path, batch: PackedBatch, output: str, pad_token_id: int) -> Float32Array:
    options = ort.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    try:
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        named = {each.name for each in session.get_inputs()}
        feed = {name: each for name, each in padded(batch, pad_token_id).items() if name in named}
        (found,) = session.run([output], feed)
    except ORT_ERRORS as exc:
        raise CapabilityError(
            f"ONNX Runtime {ort.__version__} cannot run the graph: {exc!s:.300}"
        ) from exc
    return np.asarray(found, np.float32)


def _cosine(a: Float32Array, b: Float32Array) -> float:
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))
