"""ONNX Runtime on the CPU, fed straight from the safetensors files.

int8 weights are dequantised to float32 in memory, and of a quantised table of word embeddings the
rows that a batch needs.
Sequences are grouped by length rather than padded (see `onnx_graph`), so a row hardly depends on
its batch mates: what is left comes from matrix products of another number of rows.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from polyrank.checkpoint.formats.quantization import WORD_TABLE
from polyrank.checkpoint.reader import Checkpoint
from polyrank.config import EngineConfig
from polyrank.encoder.base import Capabilities, position_ids
from polyrank.encoder.checks import check_batch, check_rows
from polyrank.encoder.onnx_graph import OUTPUT, WORD_ROWS, BodyGraph
from polyrank.encoder.pooling import pool
from polyrank.encoder.threads import usable_threads
from polyrank.errors import EncoderError
from polyrank.types import Float32Array, Int32Array, PackedBatch, PoolingMode

# ONNX Runtime's exceptions share no base class of their own; a test keeps this list complete.
# Release 1.22 lacks four of them.
ORT_ERROR_NAMES = (
    "DeviceReset",
    "EPFail",
    "EngineError",
    "Fail",
    "InvalidArgument",
    "InvalidGraph",
    "InvalidProtobuf",
    "ModelLoadCanceled",
    "ModelLoaded",
    "ModelRequiresCompilation",
    "NoModel",
    "NoSuchFile",
    "NotFound",
    "NotImplemented",
    "RuntimeException",
)
ORT_ERRORS: tuple[type[Exception], ...] = tuple(
    getattr(ort_errors, name) for name in ORT_ERROR_NAMES if hasattr(ort_errors, name)
)
TRANSLATED: tuple[type[Exception], ...] = (MemoryError, *ORT_ERRORS)
OUT_OF_MEMORY = ("bad_alloc", "allocate memory", "bad allocation")

SESSION_SETTINGS: Mapping[str, str] = {
    # Threads spin inside a run (20 tokens alone take a fifth less time) and stop at its end, so
    # that calls with pauses between them cost hardly more processor time than without spinning.
    "session.intra_op.allow_spinning": "1",
    "session.force_spinning_stop": "1",
}
FOLDER_SETTING = "session.model_external_initializers_file_folder_path"
GIVE_BACK_MEMORY = ("memory.enable_memory_arena_shrinkage", "cpu:0")
ERRORS_ONLY = 3


class OnnxEncoder:
    """A body in ONNX Runtime, float32 on the CPU. Safe to call from several threads.

    Working memory is kept between batches and does not grow with their number; what a batch
    beyond `max_batch_tokens` (one long sequence) needed is given back.

    Args:
        checkpoint: The opened checkpoint; its files must stay where they are.
        config: Token budget and threads; None takes what affinity and cgroup quota allow.

    Raises:
        EncoderError: If ONNX Runtime cannot load the graph or the weights.
        CorruptWeightsError: If the tensors of a mixed table contradict each other.
    """

    def __init__(self, checkpoint: Checkpoint, config: EngineConfig) -> None:
        self._checkpoint = checkpoint
        self._max_kept_tokens = config.max_batch_tokens
        self._capabilities = Capabilities(
            name="onnx", is_padding=False, compute_dtype="float32", device="cpu", tolerance=1e-5
        )
        spec = checkpoint.spec
        graph = BodyGraph(spec.body, checkpoint.body_tensors)
        self._word_rows = checkpoint.body_rows(WORD_TABLE) if graph.takes_rows else None
        self._session: ort.InferenceSession | None = _load(
            checkpoint, graph, config.num_threads or usable_threads()
        )

    @property
    def capabilities(self) -> Capabilities:
        """What this encoder is."""
        return self._capabilities

    def run(self, batch: PackedBatch, pooling: tuple[PoolingMode, ...]) -> Float32Array:
        """Return one row per sequence, or one per token; see `Encoder.run`.

        Args:
            batch: At least one sequence, none empty.
            pooling: Modes whose rows are laid side by side; empty for token rows.

        Returns:
            Shape (num_sequences, hidden_size * len(pooling)), or (total_tokens, hidden_size).

        Raises:
            EncoderError: If an id or a length is out of range, the computation fails, or the
                encoder was closed.
            CorruptWeightsError: If weights hold NaN or infinity.
        """
        body = self._checkpoint.spec.body
        check_batch(batch, body)
        order = np.argsort(-batch.lengths, kind="stable")  # equal lengths stand together
        ordered = batch.select(order)
        token_rows = self._token_rows(ordered)
        found, places = token_rows, _token_places(batch, order)
        if pooling:
            found, places = pool(token_rows, ordered.cu_seqlens, pooling), order
        rows = np.empty_like(found)
        rows[places] = found
        check_rows(rows, self._checkpoint)
        return rows

    def close(self) -> None:
        """Free memory and threads."""
        self._session = None

    def _token_rows(self, ordered: PackedBatch) -> Float32Array:
        session = self._session
        if session is None:
            raise EncoderError("this onnx encoder was closed. Load the checkpoint again.")
        options = ort.RunOptions()
        if ordered.total_tokens > self._max_kept_tokens:
            options.add_run_config_entry(*GIVE_BACK_MEMORY)
        body = self._checkpoint.spec.body
        types = ordered.token_type_ids
        feed: dict[str, NDArray[Any]] = {
            "token_type_ids": np.zeros_like(ordered.input_ids) if types is None else types,
            "position_ids": position_ids(ordered, body),
            **length_groups(ordered.lengths, body.hidden_size),
        }
        with _translated("could not run a batch"):
            if self._word_rows is None:
                feed["input_ids"] = ordered.input_ids
            else:
                feed[WORD_ROWS] = self._word_rows(ordered.input_ids)
            (rows,) = session.run([OUTPUT], feed, options)
        return rows


def length_groups(lengths: Int32Array, hidden_size: int) -> dict[str, NDArray[np.int64]]:
    """Describe runs of equally long sequences to the graph.

    Args:
        lengths: Tokens of each sequence, equal ones next to each other, shape (num_sequences,).
        hidden_size: Width of a token row.

    Returns:
        ``group_starts`` and ``group_ends``, first token and the one after the last, shape
        (num_groups, 1); ``group_shapes``, (num_sequences, seq_len, hidden_size) of each group.
    """
    firsts = np.concatenate(([0], np.flatnonzero(np.diff(lengths)) + 1))
    counts = np.diff(np.append(firsts, len(lengths)))
    seq_lens = lengths[firsts].astype(np.int64)
    ends = np.cumsum(counts * seq_lens)
    widths = np.full_like(seq_lens, hidden_size)
    return {
        "group_starts": (ends - counts * seq_lens)[:, None],
        "group_ends": ends[:, None],
        "group_shapes": np.stack((counts, seq_lens, widths), axis=1),
    }


def _token_places(batch: PackedBatch, order: NDArray[np.intp]) -> NDArray[Any]:
    """Return where each token of the reordered batch stood, shape (total_tokens,)."""
    numbered = PackedBatch(np.arange(batch.total_tokens, dtype=np.int32), batch.cu_seqlens)
    return numbered.select(order).input_ids


def _load(checkpoint: Checkpoint, graph: BodyGraph, num_threads: int) -> ort.InferenceSession:
    model = graph.build().SerializeToString()
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY  # what matters is raised
    # A memory pattern is planned for each shape of input, and packed batches rarely repeat one:
    # over 36 batches memory rose from 194 to 283 MB (steady without), and nothing was faster.
    options.enable_mem_pattern = False
    for key, value in SESSION_SETTINGS.items():
        options.add_session_config_entry(key, value)
    options.add_session_config_entry(FOLDER_SETTING, str(graph.folder))
    with _translated(f"could not load {checkpoint.spec.name}"):
        # ONNX Runtime copies these values while it loads, and until then relies on their staying
        values = {name: checkpoint.body_float32(name) for name in graph.given}
        if values:
            given = [ort.OrtValue.ortvalue_from_numpy(value) for value in values.values()]
            options.add_external_initializers(list(values), given)
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@contextmanager
def _translated(action: str) -> Iterator[None]:
    try:
        yield
    except TRANSLATED as exc:
        if isinstance(exc, MemoryError) or any(text in str(exc) for text in OUT_OF_MEMORY):
            advice = "Memory ran out: lower max_batch_tokens, or max_length for one long text."
        else:
            advice = 'Try encoder="pytorch", and report the message.'
        raise EncoderError(f"ONNX Runtime {action}: {exc}. {advice}") from exc
