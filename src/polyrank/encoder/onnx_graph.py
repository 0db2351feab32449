"""The ONNX graph of a BERT-shaped body, built from its specification without an exporter.

Weights are not copied: they are external data that points into the safetensors files. int8 weights
are float32 tensors that the session must be given, and the rows of a quantised table of word
embeddings are an input of each run. Sequences are not padded: linear layers see packed tokens, and
attention loops over groups of sequences of equal length. Each pass of the loop runs one
MultiHeadAttention without a mask, which is the condition under which ONNX Runtime takes its
blockwise (flash) kernel on the CPU, so that scores of shape (seq_len, seq_len) are never held in
memory.
"""

import os
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from polyrank.checkpoint.body import LAYER, tensor_shapes
from polyrank.checkpoint.formats.quantization import WORD_TABLE
from polyrank.checkpoint.header import TensorInfo
from polyrank.checkpoint.spec import BodySpec, Nonlinearity

OPSET = 20  # the first with Gelu
IR_VERSION = 9  # what opset 20 came with; older ONNX Runtimes refuse what newer onnx writes
CONTRIB = "com.microsoft"

ELEMENT_TYPES: Mapping[str, int] = {
    "F64": TensorProto.DOUBLE,
    "F32": TensorProto.FLOAT,
    "F16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
}

# Operator, domain and attributes of each nonlinearity.
NONLINEARITIES: Mapping[Nonlinearity, tuple[str, str, Mapping[str, Any]]] = {
    "identity": ("Identity", "", {}),
    "tanh": ("Tanh", "", {}),
    "gelu": ("Gelu", "", {"approximate": "none"}),
    "gelu_tanh": ("Gelu", "", {"approximate": "tanh"}),
    "relu": ("Relu", "", {}),
    "silu": ("QuickGelu", CONTRIB, {"alpha": 1.0}),  # x * sigmoid(alpha * x)
    "sigmoid": ("Sigmoid", "", {}),
}

TABLES: Mapping[str, str] = {
    "embeddings.word_embeddings.weight": "input_ids",
    "embeddings.token_type_embeddings.weight": "token_type_ids",
    "embeddings.position_embeddings.weight": "position_ids",
}
"""Input that is looked up in each table, in the order in which transformers adds the rows."""

GROUP_INPUTS: Mapping[str, int] = {"group_starts": 1, "group_ends": 1, "group_shapes": 3}
"""Inputs that describe groups of equally long sequences, with their width."""

GIVEN = "given to the session"
"""Where external data that no file holds is said to lie; ONNX Runtime never looks there."""

WORD_ROWS = "word_rows"
"""Input in place of ``input_ids`` where the table of word embeddings is quantised."""

FIRST_AXIS = "first_axis"
PACKED_SHAPE = "packed_shape"
OUTPUT = "token_rows"
"""Output of the rows of an earlier layer, 0 for what enters the first one."""


class _Nodes:
    """Nodes of a graph or of a loop's body, in the order in which they run."""

    def __init__(self, names: "count[int]") -> None:
        self.names = names
        self.nodes: list[NodeProto] = []

    def add(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output and return the output's name."""
        output = f"{operator}_{next(self.names)}"
        self.nodes.append(
            helper.make_node(operator, list(inputs), [output], domain=domain, **attributes)
        )
        return output


class BodyGraph:
    """Builds the model of one body.

    Args:
        body: Sizes and conventions.
        tensors: Where each tensor of the body lies, by its name without prefix.

    Attributes:
        folder: Folder that the locations of the external data are relative to.
        takes_rows: Whether rows of word embeddings are an input.
        given: Weights that no file holds as floating-point numbers, by their names without prefix;
            the session must be given their float32 values. Filled by `build`.
    """

    def __init__(self, body: BodySpec, tensors: Mapping[str, TensorInfo]) -> None:
        self.body = body
        self.tensors = tensors
        # Real paths, because ONNX Runtime refuses links that lead out of its folder, and files
        # of the Hub's cache are such links. Shards may lie in several folders.
        self._paths = {info.path: info.path.resolve() for info in tensors.values()}
        self.folder = Path(os.path.commonpath([path.parent for path in self._paths.values()]))
        self.takes_rows = tensors[WORD_TABLE].dtype not in ELEMENT_TYPES
        self.given: list[str] = []
        self._nodes = _Nodes(count())
        self._initializers: dict[str, TensorProto] = {}

    def build(self) -> ModelProto:
        """Return the model.

        Inputs: those of `TABLES`, int32 (total_tokens,), sequences in ascending order of length,
        with `WORD_ROWS`, float32 (total_tokens, hidden_size), for the first if `takes_rows`;
        and of each group of equally long sequences ``group_starts`` and ``group_ends``, int64
        (num_groups, 1), its tokens, and ``group_shapes``, int64 (num_groups, 3): sequences,
        seq_len, hidden_size. Output: `OUTPUT`, float32 (total_tokens, hidden_size).
        """
        self._constant(FIRST_AXIS, np.array([0], np.int64))
        self._constant(PACKED_SHAPE, np.array([-1, self.body.hidden_size], np.int64))
        rows = self._embeddings()
        num_groups = self._nodes.add("Shape", "group_shapes", start=0, end=1)
        for layer in range(self.body.num_layers):
            rows = self._layer(rows, LAYER.format(layer), num_groups)
        self._nodes.nodes.append(helper.make_node("Identity", [rows], [OUTPUT]))
        return self._model()

    def _model(self) -> ModelProto:
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.INT32, ["total_tokens"])
            for table, name in TABLES.items()
            if not self._is_looked_up(table)
        ] + [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["num_groups", width])
            for name, width in GROUP_INPUTS.items()
        ]
        row_shape: list[str | int] = ["total_tokens", self.body.hidden_size]
        if self.takes_rows:
            inputs.append(helper.make_tensor_value_info(WORD_ROWS, TensorProto.FLOAT, row_shape))
        outputs = [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, row_shape)]
        graph = helper.make_graph(
            self._nodes.nodes, "body", inputs, outputs, list(self._initializers.values())
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)

    def _embeddings(self) -> str:
        # Rows are looked up before they are cast, so that a half-precision table stays as it is.
        words, segments, positions = (
            WORD_ROWS
            if self._is_looked_up(table)
            else self._float32(self._nodes.add("Gather", self._weight(table), ids), table)
            for table, ids in TABLES.items()
        )
        rows = self._nodes.add("Add", self._nodes.add("Add", words, segments), positions)
        return self._norm(rows, "embeddings.LayerNorm")

    def _is_looked_up(self, table: str) -> bool:
        return self.takes_rows and table == WORD_TABLE

    def _layer(self, rows: str, layer: str, num_groups: str) -> str:
        queries, keys, values = (
            self._linear(rows, f"{layer}attention.self.{part}")
            for part in ("query", "key", "value")
        )
        mixed = self._nodes.add(
            "ConcatFromSequence",
            self._nodes.add(
                "Loop",
                num_groups,
                "",
                self._nodes.add("SequenceEmpty", dtype=TensorProto.FLOAT),
                body=self._attention((queries, keys, values)),
            ),
            axis=0,
        )
        mixed = self._linear(mixed, f"{layer}attention.output.dense")
        rows = self._norm(self._nodes.add("Add", mixed, rows), f"{layer}attention.output.LayerNorm")
        inner = self._linear(rows, f"{layer}intermediate.dense")
        operator, domain, attributes = NONLINEARITIES[self.body.activation]
        inner = self._nodes.add(operator, inner, domain=domain, **attributes)
        outer = self._linear(inner, f"{layer}output.dense")
        return self._norm(self._nodes.add("Add", outer, rows), f"{layer}output.LayerNorm")

    def _attention(self, projections: tuple[str, str, str]) -> GraphProto:
        """Return the body of a loop that appends one group's attention to a list."""
        inner = _Nodes(self._nodes.names)
        number, go_on, before = (f"{name}_{next(inner.names)}" for name in ("group", "go", "done"))
        start = inner.add("Gather", "group_starts", number)  # (1,)
        end = inner.add("Gather", "group_ends", number)  # (1,)
        shape = inner.add("Gather", "group_shapes", number)  # (3,)
        padless = [
            inner.add("Reshape", inner.add("Slice", packed, start, end, FIRST_AXIS), shape)
            for packed in projections
        ]  # each (num_sequences, seq_len, hidden_size)
        mixed = inner.add(
            "MultiHeadAttention", *padless, domain=CONTRIB, num_heads=self.body.num_heads
        )
        mixed = inner.add("Reshape", mixed, PACKED_SHAPE)  # (tokens of the group, hidden_size)
        after = inner.add("SequenceInsert", before, mixed)
        still = inner.add("Identity", go_on)
        return helper.make_graph(
            inner.nodes,
            "attention",
            [
                helper.make_tensor_value_info(number, TensorProto.INT64, []),
                helper.make_tensor_value_info(go_on, TensorProto.BOOL, []),
                helper.make_tensor_sequence_value_info(before, TensorProto.FLOAT, None),
            ],
            [
                helper.make_tensor_value_info(still, TensorProto.BOOL, []),
                helper.make_tensor_sequence_value_info(after, TensorProto.FLOAT, None),
            ],
        )

    def _linear(self, rows: str, name: str) -> str:
        weight, bias = self._parameter(f"{name}.weight"), self._parameter(f"{name}.bias")
        return self._nodes.add("Gemm", rows, weight, bias, transB=1)

    def _norm(self, rows: str, name: str) -> str:
        return self._nodes.add(
            "LayerNormalization",
            rows,
            self._parameter(f"{name}.weight"),
            self._parameter(f"{name}.bias"),
            axis=-1,
            epsilon=self.body.layer_norm_eps,
        )

    def _parameter(self, name: str) -> str:
        return self._float32(self._weight(name), name)

    def _float32(self, value: str, name: str) -> str:
        if self.tensors[name].dtype == "F32" or name in self.given:
            return value
        return self._nodes.add("Cast", value, to=TensorProto.FLOAT)

    def _weight(self, name: str) -> str:
        info = self.tensors[name]
        if info.dtype in ELEMENT_TYPES:
            location = self._paths[info.path].relative_to(self.folder).as_posix()
            self._external(
                name,
                ELEMENT_TYPES[info.dtype],
                info.shape,
                location=location,
                offset=str(info.offset_bytes),
                length=str(info.size_bytes),
            )
        else:
            self.given.append(name)
            shape = tensor_shapes(self.body)[name]
            self._external(name, TensorProto.FLOAT, shape, location=GIVEN)
        return name

    def _external(self, name: str, data_type: int, shape: tuple[int, ...], **place: str) -> None:
        tensor = TensorProto(
            name=name, data_type=data_type, dims=shape, data_location=TensorProto.EXTERNAL
        )
        for key, value in place.items():
            tensor.external_data.add(key=key, value=value)
        self._initializers[name] = tensor

    def _constant(self, name: str, values: NDArray[Any]) -> None:
        self._initializers[name] = numpy_helper.from_array(values, name)
