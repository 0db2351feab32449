"""The ONNX graph that other runtimes run: padded sequences, the head inside, weights in the file.

It differs from `polyrank.encoder.onnx_graph`, whose sequences are packed and whose weights stay in
the checkpoint: what is written here is a file of its own, for runtimes that know nothing of
polyrank. Operators are ONNX's own, none of a vendor's, but for SiLU.
"""

from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from polyrank.checkpoint.body import LAYER
from polyrank.checkpoint.reader import Checkpoint
from polyrank.encoder.onnx_graph import CONTRIB, IR_VERSION, NONLINEARITIES, OPSET
from polyrank.tasks.heads import Dense, Head
from polyrank.types import Float32Array, PoolingMode

Weights = Literal["float32", "float16", "int8"]

INPUT_IDS, ATTENTION_MASK, TOKEN_TYPE_IDS = "input_ids", "attention_mask", "token_type_ids"
ROWS, VECTORS, LOGITS = "last_hidden_state", "sentence_embedding", "logits"
_STEPS = 127
_MASKED = -1e9  # added to scores of padding: e^it is 0 in float32


@dataclass(frozen=True, slots=True)
class GraphForm:
    """What a graph is to be.

    Attributes:
        weights: "float32"; "float16", half of the bytes, computed in float32; or "int8": weights
            of linear layers by output, activations by tensor as they come, the table of words by
            row.
        outputs: Names of its outputs, in order: `ROWS`, `VECTORS` or `LOGITS`.
    """

    weights: Weights
    outputs: tuple[str, ...]


def export_graph(checkpoint: Checkpoint, head: Head, form: GraphForm) -> ModelProto:
    """Return the graph of a body and a head.

    Inputs: `INPUT_IDS`, `ATTENTION_MASK` and, of bodies with segments, `TOKEN_TYPE_IDS`, int64
    (batch, seq_len). Outputs, float32: `ROWS` (batch, seq_len, hidden_size), `VECTORS` (batch,
    dim), as the checkpoint says of unit length or not, `LOGITS` (batch, num_labels).

    Args:
        checkpoint: The checkpoint; quantised tensors are written by their values.
        head: Its head for the task: one that reads pooled rows.
        form: Types and outputs.

    Returns:
        The model.
    """
    return _Graph(checkpoint, head, form).build()


class _Graph:
    def __init__(self, checkpoint: Checkpoint, head: Head, form: GraphForm) -> None:
        self._checkpoint, self._head, self._form = checkpoint, head, form
        self._body = checkpoint.spec.body
        self._names = count()
        self._nodes: list[NodeProto] = []
        self._initializers: dict[str, TensorProto] = {}
        self._quantised: dict[str, tuple[str, str, str]] = {}  # by name of a value

    def build(self) -> ModelProto:
        rows = self._embeddings()
        added = self._mask()
        for layer in range(self._body.num_layers):
            rows = self._layer(rows, LAYER.format(layer), added)
        made = {ROWS: rows}
        if set(self._form.outputs) != {ROWS}:
            made[VECTORS] = made[LOGITS] = self._finish(rows)
        for name in self._form.outputs:
            self._nodes.append(helper.make_node("Identity", [made[name]], [name]))
        return self._model()

    def _model(self) -> ModelProto:
        body = self._body
        names = [INPUT_IDS, ATTENTION_MASK]
        names += [TOKEN_TYPE_IDS] if body.type_vocab_size > 1 else []
        axes: list[str | int] = ["batch", "seq_len"]
        shapes: dict[str, list[str | int]] = {
            ROWS: [*axes, body.hidden_size],
            VECTORS: ["batch", self._head.out_features],
            LOGITS: ["batch", self._head.out_features],
        }
        info = helper.make_tensor_value_info
        graph = helper.make_graph(
            self._nodes,
            "polyrank",
            [info(name, TensorProto.INT64, axes) for name in names],
            [info(name, TensorProto.FLOAT, shapes[name]) for name in self._form.outputs],
            list(self._initializers.values()),
        )
        opsets = [helper.make_opsetid("", OPSET)]
        if body.activation == "silu" or any(
            layer.nonlinearity == "silu" for layer in self._head.layers
        ):
            opsets.append(helper.make_opsetid(CONTRIB, 1))
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="polyrank"
        )

    # --- body --------------------------------------------------------------------------------

    def _embeddings(self) -> str:
        words = self._words()
        if self._body.type_vocab_size > 1:
            segments = self._add("Gather", self._table("token_type"), TOKEN_TYPE_IDS)
        else:
            segments = self._add("Gather", self._table("token_type"), self._whole(0))
        positions = self._add("Gather", self._table("position"), self._positions())
        rows = self._add("Add", self._add("Add", words, segments), positions)
        return self._norm(rows, "embeddings.LayerNorm")

    def _words(self) -> str:
        name = "embeddings.word_embeddings.weight"
        values = self._checkpoint.body_float32(name)
        if self._form.weights != "int8":
            return self._add("Gather", self._weight(name, values), INPUT_IDS)
        codes, scales = _steps(values)
        found = self._add("Gather", self._constant(f"{name}_steps", codes), INPUT_IDS)
        scale = self._add("Gather", self._constant(f"{name}_scale", scales[:, None]), INPUT_IDS)
        return self._add("Mul", self._add("Cast", found, to=TensorProto.FLOAT), scale)

    def _table(self, kind: str) -> str:
        name = f"embeddings.{kind}_embeddings.weight"
        return self._weight(name, self._checkpoint.body_float32(name))

    def _positions(self) -> str:
        axis = self._constant("sequence_axis", np.array(1, np.int64))
        if self._body.position_offset == 0:
            shape = self._add("Shape", INPUT_IDS)
            ones = self._add("ConstantOfShape", shape, value=helper.make_tensor("", 7, [1], [1]))
            return self._add("Sub", self._add("CumSum", ones, axis), self._whole(1))
        pad = self._whole(self._body.pad_token_id)
        is_pad = self._add("Equal", INPUT_IDS, pad)
        counted = self._add("Cast", self._add("Not", is_pad), to=TensorProto.INT64)
        ordinal = self._add("Mul", self._add("CumSum", counted, axis), counted)
        return self._add("Add", ordinal, self._whole(self._body.position_offset - 1))

    def _mask(self) -> str:
        """Return what is added to scores, (batch, 1, 1, seq_len): 0, or far below all."""
        mask = self._add("Cast", ATTENTION_MASK, to=TensorProto.FLOAT)
        axes = self._constant("mask_axes", np.array([1, 2], np.int64))
        away = self._add("Sub", self._number(1.0), self._add("Unsqueeze", mask, axes))
        return self._add("Mul", away, self._number(_MASKED))

    def _layer(self, rows: str, layer: str, added: str) -> str:
        queries, keys, values = (
            self._heads(self._linear(rows, f"{layer}attention.self.{part}"))
            for part in ("query", "key", "value")
        )
        keys = self._add("Transpose", keys, perm=[0, 1, 3, 2])
        queries = self._add("Mul", queries, self._number(1 / np.sqrt(self._body.head_size)))
        scores = self._add("Add", self._add("MatMul", queries, keys), added)
        mixed = self._add("MatMul", self._add("Softmax", scores, axis=-1), values)
        mixed = self._add("Transpose", mixed, perm=[0, 2, 1, 3])
        width = self._constant("row_shape", np.array([0, 0, self._body.hidden_size], np.int64))
        mixed = self._add("Reshape", mixed, width)
        mixed = self._linear(mixed, f"{layer}attention.output.dense")
        rows = self._norm(self._add("Add", mixed, rows), f"{layer}attention.output.LayerNorm")
        inner = self._linear(rows, f"{layer}intermediate.dense")
        outer = self._linear(self._activated(inner), f"{layer}output.dense")
        return self._norm(self._add("Add", outer, rows), f"{layer}output.LayerNorm")

    def _activated(self, value: str) -> str:
        operator, domain, attributes = NONLINEARITIES[self._body.activation]
        return self._add(operator, value, domain=domain, **attributes)

    def _heads(self, rows: str) -> str:
        sizes = np.array([0, 0, self._body.num_heads, self._body.head_size], np.int64)
        shaped = self._add("Reshape", rows, self._constant("head_shape", sizes))
        return self._add("Transpose", shaped, perm=[0, 2, 1, 3])

    def _linear(self, rows: str, name: str) -> str:
        weight = self._checkpoint.body_float32(f"{name}.weight")
        bias = self._constant(f"{name}.bias", self._checkpoint.body_float32(f"{name}.bias"))
        if self._form.weights != "int8":
            product = self._add("MatMul", rows, self._weight(f"{name}.weight", weight.T))
            return self._add("Add", product, bias)
        steps, scales = _steps(weight)
        given, scale, zero = self._steps_of(rows)
        product = self._add(
            "MatMulInteger", given, self._constant(f"{name}.weight_steps", steps.T), zero
        )
        worth = self._add("Mul", scale, self._constant(f"{name}.weight_scale", scales))
        product = self._add("Mul", self._add("Cast", product, to=TensorProto.FLOAT), worth)
        return self._add("Add", product, bias)

    def _steps_of(self, value: str) -> tuple[str, str, str]:
        """Return a value as steps of 8 bits, with their scale and their zero; once for all uses."""
        if value not in self._quantised:
            names = [f"{part}_{next(self._names)}" for part in ("steps", "scale", "zero")]
            self._nodes.append(helper.make_node("DynamicQuantizeLinear", [value], names))
            self._quantised[value] = names[0], names[1], names[2]
        return self._quantised[value]

    def _norm(self, rows: str, name: str) -> str:
        weight, bias = (
            self._constant(f"{name}.{part}", self._checkpoint.body_float32(f"{name}.{part}"))
            for part in ("weight", "bias")
        )
        return self._add(
            "LayerNormalization", rows, weight, bias, axis=-1, epsilon=self._body.layer_norm_eps
        )

    # --- head --------------------------------------------------------------------------------

    def _finish(self, rows: str) -> str:
        pooled = [self._pooled(rows, mode) for mode in self._head.spec.pooling]
        row = pooled[0] if len(pooled) == 1 else self._add("Concat", *pooled, axis=-1)
        for number, layer in enumerate(self._head.layers):
            row = self._dense(row, layer, f"head.{number}")
        if not self._head.spec.is_normalized:
            return row
        axes = self._constant("row_axis", np.array([-1], np.int64))
        length = self._add("ReduceL2", row, axes, keepdims=1)
        return self._add("Div", row, self._add("Max", length, self._number(1e-12)))

    def _dense(self, row: str, layer: Dense, name: str) -> str:
        weight = self._constant(f"{name}.weight", layer.weight)
        made = self._add("Gemm", row, weight, self._constant(f"{name}.bias", layer.bias), transB=1)
        operator, domain, attributes = NONLINEARITIES[layer.nonlinearity]
        return self._add(operator, made, domain=domain, **attributes)

    def _pooled(self, rows: str, mode: PoolingMode) -> str:
        """Return one row of the tokens that are no padding."""
        if mode == "cls":
            return self._add("Gather", rows, self._whole(0), axis=1)
        axis = self._constant("sequence_axes", np.array([1], np.int64))
        last = self._constant("last_axes", np.array([2], np.int64))
        mask = self._add("Cast", ATTENTION_MASK, to=TensorProto.FLOAT)
        if mode == "max":
            is_pad = self._add("Sub", self._number(1.0), mask)
            away = self._add("Mul", is_pad, self._number(_MASKED))
            shifted = self._add("Add", rows, self._add("Unsqueeze", away, last))
            return self._add("ReduceMax", shifted, axis, keepdims=0)
        weights = mask
        if mode in ("weighted_mean", "last_token"):
            along = self._constant("sequence_axis", np.array(1, np.int64))
            weights = self._add("Mul", self._add("CumSum", mask, along), mask)
        total = self._add("ReduceSum", weights, axis, keepdims=1)
        if mode == "last_token":
            most = self._add("ReduceMax", weights, axis, keepdims=1)
            is_last = self._add("Cast", self._add("Equal", weights, most), to=TensorProto.FLOAT)
            weights, total = self._add("Mul", is_last, mask), self._number(1.0)
        elif mode == "mean_sqrt_len":
            total = self._add("Sqrt", total)
        weighted = self._add("Mul", rows, self._add("Unsqueeze", weights, last))
        return self._add("Div", self._add("ReduceSum", weighted, axis, keepdims=0), total)

    # --- parts -------------------------------------------------------------------------------

    def _add(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        output = f"{operator}_{next(self._names)}"
        self._nodes.append(
            helper.make_node(operator, list(inputs), [output], domain=domain, **attributes)
        )
        return output

    def _weight(self, name: str, values: Float32Array) -> str:
        """Return a large tensor, by which file size goes: in half precision where that is asked."""
        if self._form.weights != "float16":
            return self._constant(name, values)
        largest = float(np.finfo(np.float16).max)
        half = np.clip(values, -largest, largest).astype(np.float16)
        return self._add("Cast", self._constant(name, half), to=TensorProto.FLOAT)

    def _number(self, value: float) -> str:
        return self._constant(f"number_{value:g}", np.array(value, np.float32))

    def _whole(self, value: int) -> str:
        return self._constant(f"whole_{value}", np.array(value, np.int64))

    def _constant(self, name: str, values: NDArray[Any]) -> str:
        if name not in self._initializers:
            self._initializers[name] = numpy_helper.from_array(np.asarray(values, order="C"), name)
        return name


def _steps(values: Float32Array) -> tuple[NDArray[np.int8], Float32Array]:
    """Return whole numbers from -127 to 127, and what a step of each row is worth."""
    scales = np.abs(values).max(axis=1) / np.float32(_STEPS)
    scales = np.where(scales > 0, scales, np.float32(1)).astype(np.float32)
    steps = np.clip(np.rint(values / scales[:, None]), -_STEPS, _STEPS)
    return steps.astype(np.int8), scales
