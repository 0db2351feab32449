"""PyTorch on the CPU or an accelerator, as plain functions on the checkpoint's tensors.

Linear layers see packed tokens; only attention is padded, with a mask.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from polyrank.checkpoint.body import LAYER, tensor_shapes
from polyrank.checkpoint.formats.quantization import WORD_TABLE
from polyrank.checkpoint.reader import Checkpoint
from polyrank.checkpoint.spec import BodySpec, Nonlinearity
from polyrank.config import EngineConfig
from polyrank.encoder.base import Capabilities, padded_indices, position_ids
from polyrank.encoder.checks import check_batch, check_rows
from polyrank.encoder.pooling import pool
from polyrank.errors import ConfigError, EncoderError
from polyrank.types import Float32Array, PackedBatch, PoolingMode

NONLINEARITIES: Mapping[Nonlinearity, Callable[[Tensor], Tensor]] = {
    "identity": lambda rows: rows,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "gelu_tanh": lambda rows: F.gelu(rows, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
}
TABLES = (
    "embeddings.word_embeddings.weight",
    "embeddings.token_type_embeddings.weight",
    "embeddings.position_embeddings.weight",
)


@dataclass(frozen=True, slots=True)
class _Padding:
    """How packed rows are laid out for attention.

    Attributes:
        cells: Packed row of each cell, shape (num_sequences, max_seqlen).
        places: Cell of each packed row in the flattened layout, shape (total_tokens,).
        mask: Added to attention scores, shape (num_sequences, 1, 1, max_seqlen), or None where
            all sequences are equally long.
    """

    cells: Tensor
    places: Tensor
    mask: Tensor | None


class PytorchEncoder:
    """A body in PyTorch, float32. Safe to call from several threads.

    ``torch.set_num_threads`` counts for the whole process, other users of torch included, so it
    is called only when `EngineConfig.num_threads` is given.

    Args:
        checkpoint: The opened checkpoint; on the CPU float32 tensors stay in its mapped files.
            int8 weights are dequantised to float32, tensor by tensor, and of a quantised table of
            word embeddings the rows that a batch needs.
        config: Device, and threads if torch is to be told.

    Raises:
        ConfigError: If torch knows no such device, or it is not there.
        EncoderError: If the weights cannot be placed on it.
        CorruptWeightsError: If the tensors of a mixed table contradict each other.
    """

    def __init__(self, checkpoint: Checkpoint, config: EngineConfig) -> None:
        self._checkpoint = checkpoint
        self._device = _device(config.device)
        if config.num_threads is not None:
            torch.set_num_threads(config.num_threads)
        self._capabilities = Capabilities(
            name="pytorch",
            is_padding=True,
            compute_dtype="float32",
            device=str(self._device),
            # measured on the CPU; for accelerators a cautious guess
            tolerance=1e-5 if self._device.type == "cpu" else 1e-3,
        )
        is_table_quantised = checkpoint.is_quantised(WORD_TABLE)
        self._word_rows = checkpoint.body_rows(WORD_TABLE) if is_table_quantised else None
        with _translated(f"could not load {checkpoint.spec.name}"):
            self._parameters = {
                name: _tensor(checkpoint, name, keeps_dtype=name in TABLES).to(self._device)
                for name in tensor_shapes(checkpoint.spec.body)
                if name != WORD_TABLE or not is_table_quantised
            }

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
            EncoderError: If an id or a length is out of range, the computation fails,
                or the encoder was closed.
            CorruptWeightsError: If weights hold NaN or infinity.
        """
        check_batch(batch, self._checkpoint.spec.body)
        parameters = self._parameters
        if not parameters:
            raise EncoderError("this pytorch encoder was closed. Load the checkpoint again.")
        with _translated("could not run a batch"), torch.inference_mode():
            token_rows = self._token_rows(batch, parameters).cpu().numpy()
        rows = pool(token_rows, batch.cu_seqlens, pooling) if pooling else token_rows
        check_rows(rows, self._checkpoint)
        return rows

    def close(self) -> None:
        """Free memory."""
        self._parameters = {}

    def _token_rows(self, batch: PackedBatch, parameters: Mapping[str, Tensor]) -> Tensor:
        body = self._checkpoint.spec.body
        types = batch.token_type_ids
        ids = (
            batch.input_ids,
            np.zeros_like(batch.input_ids) if types is None else types,
            position_ids(batch, body),
        )
        words, segments, positions = (
            torch.from_numpy(self._word_rows(values)).to(self._device)
            if self._word_rows is not None and table == WORD_TABLE
            else F.embedding(
                torch.as_tensor(values, device=self._device), parameters[table]
            ).float()
            for values, table in zip(ids, TABLES, strict=True)
        )
        rows = _norm(words + segments + positions, parameters, "embeddings.LayerNorm", body)
        padding = _padding(batch, self._device)
        for layer in range(body.num_layers):
            rows = _layer(rows, parameters, LAYER.format(layer), body, padding)
        return rows


def _layer(
    rows: Tensor, parameters: Mapping[str, Tensor], layer: str, body: BodySpec, padding: _Padding
) -> Tensor:
    heads = (*padding.cells.shape, body.num_heads, body.head_size)
    queries, keys, values = (
        _linear(rows, parameters, f"{layer}attention.self.{part}")[padding.cells]
        .view(heads)
        .transpose(1, 2)  # (num_sequences, num_heads, max_seqlen, head_size)
        for part in ("query", "key", "value")
    )
    mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=padding.mask)
    mixed = mixed.transpose(1, 2).reshape(-1, body.hidden_size)[padding.places]
    mixed = _linear(mixed, parameters, f"{layer}attention.output.dense")
    rows = _norm(mixed + rows, parameters, f"{layer}attention.output.LayerNorm", body)
    inner = _linear(rows, parameters, f"{layer}intermediate.dense")
    outer = _linear(NONLINEARITIES[body.activation](inner), parameters, f"{layer}output.dense")
    return _norm(outer + rows, parameters, f"{layer}output.LayerNorm", body)


def _linear(rows: Tensor, parameters: Mapping[str, Tensor], name: str) -> Tensor:
    return F.linear(rows, parameters[f"{name}.weight"], parameters[f"{name}.bias"])


def _norm(rows: Tensor, parameters: Mapping[str, Tensor], name: str, body: BodySpec) -> Tensor:
    weight, bias = parameters[f"{name}.weight"], parameters[f"{name}.bias"]
    return F.layer_norm(rows, (body.hidden_size,), weight, bias, body.layer_norm_eps)


def _padding(batch: PackedBatch, device: torch.device) -> _Padding:
    indices, mask = padded_indices(batch)
    bias = None
    if not mask.all():
        additive = np.where(mask, np.float32(0), np.finfo(np.float32).min)
        bias = torch.from_numpy(additive[:, None, None, :]).to(device)
    places = torch.from_numpy(np.flatnonzero(mask)).to(device)
    return _Padding(torch.from_numpy(indices).to(device), places, bias)


def _tensor(checkpoint: Checkpoint, name: str, *, keeps_dtype: bool) -> Tensor:
    """Return a tensor on the CPU: the mapped file itself where its values need no conversion.

    Args:
        checkpoint: The opened checkpoint.
        name: Name without prefix.
        keeps_dtype: Whether it stays in the file's floating-point type; else it is float32. Tables
            do, because only a few of their rows are used at a time.

    Returns:
        The tensor, of the shape that the body needs.
    """
    if checkpoint.is_quantised(name):
        return torch.from_numpy(checkpoint.body_float32(name))
    info = checkpoint.body_tensors[name]
    # torch wants items at addresses that are multiples of their size; a file promises nothing
    array = np.require(checkpoint.weights.get(info.name, info.shape), requirements="A")
    with warnings.catch_warnings():
        # nothing here writes to parameters, which are views of a read-only file
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        tensor = torch.from_numpy(array)
    if info.dtype == "BF16":
        tensor = tensor.view(torch.bfloat16)
    return tensor if keeps_dtype else tensor.float()


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as exc:
        raise ConfigError(
            f'device {name!r} cannot be used: {exc}. Choose "cpu", or a device that this build of '
            'torch sees, such as "cuda", "cuda:0" or "mps".'
        ) from exc
    return device


@contextmanager
def _translated(action: str) -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as exc:
        raise EncoderError(
            f"PyTorch {action} for want of memory: {exc}. Lower max_batch_tokens, or max_length "
            "for one long text."
        ) from exc
    except RuntimeError as exc:
        # out of memory on the CPU comes as a plain RuntimeError
        raise EncoderError(
            f"PyTorch {action}: {exc}. If memory ran out, lower max_batch_tokens; else try "
            'encoder="onnx".'
        ) from exc
