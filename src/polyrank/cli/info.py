"""`polyrank info`: what a checkpoint is, what it can do, and what polyrank assumes of it."""

import json
import math
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from polyrank.calibration.reading import read_calibration
from polyrank.checkpoint.body import tensor_shapes
from polyrank.checkpoint.gate import GateStatus
from polyrank.checkpoint.header import TensorInfo
from polyrank.checkpoint.hub import resolve
from polyrank.checkpoint.reader import Checkpoint, read_checkpoint
from polyrank.checkpoint.spec import HeadSpec
from polyrank.cli import options
from polyrank.config import EngineConfig
from polyrank.encoder.choose import plan_encoder
from polyrank.types import TaskName

GATE_FIGURES = (
    "ndcg_float32",
    "ndcg_int8",
    "accuracy_float32",
    "accuracy_int8",
    "f1_float32",
    "f1_int8",
    "equal_labels",
    "rank_correlation",
    "largest_score_change",
    "largest_probability_change",
    "cosine_mean",
    "cosine_lowest",
)


def info(
    model: str | None = typer.Argument(
        None, help="Folder or Hub id. Left out: the default model.", show_default=False
    ),
    revision: options.Revision = None,
    as_json: options.Json = False,
) -> None:
    """Show what a checkpoint is and can do, without running it.

    For example:

        polyrank info
        polyrank info BAAI/bge-reranker-v2-m3
    """
    folder, name = resolve(model, revision=revision)
    facts = describe(read_checkpoint(folder, name))
    if as_json or not sys.stdout.isatty():
        sys.stdout.write(json.dumps(facts, ensure_ascii=False) + "\n")
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for key, value in facts.items():
        table.add_row(key.replace("_", " "), Text(_shown(value)))
    Console().print(table)


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the facts of a checkpoint as plain values."""
    spec, body = checkpoint.spec, checkpoint.spec.body
    heads, shapes = _head_tensors(checkpoint), tensor_shapes(body)
    dtypes = Counter(info.dtype for info in heads)
    dtypes.update(checkpoint.body_tensors[name].dtype for name in shapes)
    plan = plan_encoder(checkpoint, EngineConfig())
    return {
        "name": spec.name,
        "folder": str(spec.folder),
        "architecture": (
            f"{body.model_type}, {body.num_layers} layers, hidden size {body.hidden_size}, "
            f"{body.num_heads} heads"
        ),
        "parameters": sum(map(math.prod, [*shapes.values(), *(info.shape for info in heads)])),
        "weights": ", ".join(dtypes),
        "size_bytes": sum(path.stat().st_size for path in checkpoint.weights.paths),
        "encoder": plan.encoder,
        "encoder_because": plan.encoder_reason,
        "path": plan.path or None,
        "compute_dtype": plan.compute_dtype,
        "compute_dtype_because": plan.reason,
        "gate": _gate(checkpoint.gate()),
        "vocabulary": body.vocab_size,
        "max_length": spec.max_length,
        "tasks": {task: _head(head) for task, head in spec.heads.items()},
        "reranks_by": _reranks_by(spec.heads),
        "first_stage_weights": dict(spec.first_stage_weights),
        "calibration": _calibration(checkpoint),
        "prompts": dict(spec.prompts.by_name),
        "prompts_from": spec.prompts.origin,
        "assumptions": list(spec.assumptions),
    }


def _head_tensors(checkpoint: Checkpoint) -> list[TensorInfo]:
    """Return the tensors of heads that lie beside the body's."""
    names = {
        name
        for head in checkpoint.spec.heads.values()
        for name in head.tensors
        if name in checkpoint.weights
    }
    return [checkpoint.weights.info(name) for name in sorted(names)]


def _gate(gate: GateStatus) -> dict[str, Any]:
    """Return the figures of the gate's record, one entry a task; empty without a record."""
    facts: dict[str, Any] = {}
    for task in gate.figures.get("tasks", ()):
        facts[str(task.get("task"))] = {
            key: task[key] for key in GATE_FIGURES if isinstance(task.get(key), float | int)
        }
    return facts


def _calibration(checkpoint: Checkpoint) -> list[str]:
    """Return what is calibrated, one line each: by which map, on how many pairs."""
    found = read_calibration(checkpoint)
    lines = []
    for name, own in (("rerank", found.rerank), ("classify", found.classify)):
        if own is not None:
            data = own.fitted.get("data")  # written for people: anything may stand there
            names = ", ".join(map(str, data)) if isinstance(data, list) else "unnamed data"
            lines.append(f"{name}: {own.method}, fitted to {names:.300}")
    return lines


def _head(head: HeadSpec) -> str:
    late = head.late_interaction
    parts = [f"{' + '.join(head.pooling)} pooling"]
    if late is not None:
        parts = [f"late interaction of token rows by {', '.join(late.features)}"]
    if head.layers:
        parts.append(f"{len(head.layers)} linear layer{'s' if len(head.layers) > 1 else ''}")
    if head.is_normalized:
        parts.append("unit length")
    if head.labels:
        parts.append(f"{head.activation} over {', '.join(head.labels)}")
    return ", ".join(parts)


def _reranks_by(heads: Mapping[TaskName, HeadSpec]) -> str:
    if "rerank" not in heads:
        return "cosine of vectors" if "embed" in heads else "not at all"
    is_late = heads["rerank"].late_interaction is not None
    return "late interaction of token rows" if is_late else "cross-encoder score"


def _entry(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {entry:.5g}" for key, entry in value.items())
    return f"{value!r:.100}"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_entry(entry)}" for key, entry in value.items()) or "none"
    if isinstance(value, list):
        return "\n".join(value) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)
