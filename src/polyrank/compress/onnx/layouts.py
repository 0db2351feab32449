"""Folders of ONNX files, each as its consumer reads it.

What each wants was read in its source (Transformers.js 4.2, fastembed 0.8, Text Embeddings
Inference 1.9, sentence-transformers 6); a test opens each by the consumer itself, but for Text
Embeddings Inference, whose documented rules a test follows.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import onnx
from onnx import ModelProto

from polyrank._files import building, publish
from polyrank.checkpoint.building import check_free, copy_rest
from polyrank.checkpoint.files import read_object, read_plain
from polyrank.checkpoint.layouts import CONFIG_FILE, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE
from polyrank.checkpoint.reader import Checkpoint
from polyrank.compress.onnx.check import Distance, check_file
from polyrank.compress.onnx.graph import LOGITS, ROWS, VECTORS, GraphForm, Weights, export_graph
from polyrank.errors import CapabilityError, ConfigError
from polyrank.progress import StepProgress, unheard
from polyrank.tasks.heads import Head
from polyrank.types import TaskName

Layout = Literal["transformers.js", "fastembed", "tei", "sentence-transformers", "plain"]

RECORD_FILE = "polyrank_onnx.json"
_MOST_BYTES = 2_000_000_000  # of one protobuf message, less some
_SPECIAL_TOKENS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_SPECIAL_FILE = "special_tokens_map.json"


@dataclass(frozen=True, slots=True)
class _Shape:
    """What a consumer wants.

    Attributes:
        files: Where the graph of each type of weights goes.
        outputs: Of an embedder, in order; the first is what consumers by place take.
        default: Types of weights that are written unless asked for otherwise.
    """

    files: Mapping[Weights, str]
    outputs: tuple[str, ...]
    default: tuple[Weights, ...]


_LAYOUTS: Mapping[Layout, _Shape] = {
    "transformers.js": _Shape(
        {
            "float32": "onnx/model.onnx",
            "float16": "onnx/model_fp16.onnx",
            "int8": "onnx/model_quantized.onnx",
        },
        (ROWS, VECTORS),  # its pipeline pools the rows itself
        ("int8",),
    ),
    # it takes the first output, and pools unless told not to
    "fastembed": _Shape(
        {
            "float32": "onnx/model.onnx",
            "float16": "onnx/model_fp16.onnx",
            "int8": "onnx/model_quantized.onnx",
        },
        (VECTORS,),
        ("int8",),
    ),
    # it reads one name alone, whatever the type
    "tei": _Shape(
        {"float32": "model.onnx", "float16": "model.onnx", "int8": "model.onnx"},
        (VECTORS,),
        ("int8",),
    ),
    "sentence-transformers": _Shape(
        {
            "float32": "onnx/model.onnx",
            "float16": "onnx/model_fp16.onnx",
            "int8": "onnx/model_qint8_avx512_vnni.onnx",
        },
        (ROWS,),  # its own modules pool them
        ("float32", "int8"),
    ),
    "plain": _Shape(
        {"float32": "model.onnx", "float16": "model_fp16.onnx", "int8": "model_int8.onnx"},
        (VECTORS, ROWS),
        ("int8",),
    ),
}


@dataclass(frozen=True, slots=True)
class Written:
    """A file that was written.

    Attributes:
        path: Within the folder.
        weights: Type of its weights.
        size_bytes: Its size, external data included.
        distance: How far its results lie from the checkpoint's in float32.
    """

    path: str
    weights: Weights
    size_bytes: int
    distance: Distance


def export_onnx(
    checkpoint: Checkpoint,
    output: Path,
    layout: Layout,
    *,
    weights: Sequence[Weights] = (),
    task: TaskName | None = None,
    progress: StepProgress | None = None,
) -> tuple[Written, ...]:
    """Write a checkpoint as a folder of ONNX files, each checked against the checkpoint.

    Args:
        checkpoint: The checkpoint; quantised tensors are written by their values.
        output: Folder to make, whole or not at all.
        layout: Whose folder.
        weights: Types of weights; none takes what the consumer's users load.
        task: Whose head is inside; None takes rerank, then classify, then embed.
        progress: Called as work goes on.

    Returns:
        What was written.

    Raises:
        ConfigError: If there is something of that name already, or two types would get one name.
        CapabilityError: If no head of the checkpoint can be inside, or ONNX Runtime cannot run it.
        EncoderError: If a file does not compute what the checkpoint does.
        OSError: If it cannot be written.
    """
    check_free(output)
    shape, told = _LAYOUTS[layout], progress or unheard
    types = tuple(dict.fromkeys(weights or shape.default))
    if len({shape.files[each] for each in types}) < len(types):
        raise ConfigError(
            f"{layout} reads one file alone, so {' and '.join(types)} cannot lie in one folder. "
            "Name one of them with --weights."
        )
    head = Head.load(checkpoint, checkpoint.spec.head(task or _task(checkpoint)))
    _check_head(checkpoint, head)
    outputs = (LOGITS,) if head.spec.labels else shape.outputs
    shown = VECTORS if VECTORS in outputs else outputs[0]
    with building(output) as folder:
        if layout == "sentence-transformers":
            copy_rest(checkpoint.spec.folder, folder, ())
        written, is_external = [], False
        for number, each in enumerate(types):
            told("ONNX files", number, len(types), each)
            model = export_graph(checkpoint, head, GraphForm(each, outputs))
            path = folder / shape.files[each]
            is_external |= _save(model, path)
            distance = check_file(path, checkpoint, head, shown, each)
            written.append(Written(shape.files[each], each, _size(path), distance))
        told("ONNX files", len(types), len(types))
        _write_settings(checkpoint, head, folder, layout, is_external=is_external)
        record = {"source": checkpoint.spec.name, "files": [asdict(each) for each in written]}
        _write(folder / RECORD_FILE, record)
        publish(folder, output)
    return tuple(written)


def _task(checkpoint: Checkpoint) -> TaskName:
    """Return the task whose head is inside unless another is asked for."""
    heads = checkpoint.spec.heads
    fit: tuple[TaskName, ...] = tuple(task for task, head in heads.items() if head.pooling)
    for task in ("rerank", "classify", "embed"):
        if task in fit:
            return task
    return next(iter(heads))


def _check_head(checkpoint: Checkpoint, head: Head) -> None:
    if not head.spec.pooling:
        raise CapabilityError(
            f"{checkpoint.spec.name} compares texts token by token, which the consumers of ONNX "
            "files do not. Export its vectors with --task embed, or its token rows with `polyrank "
            "compress export --format multi-vector`."
        )


def _save(model: ModelProto, path: Path) -> bool:
    """Write a graph, large ones with their weights in a file beside; return whether it is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_large = model.ByteSize() > _MOST_BYTES
    if is_large:
        onnx.save(
            model,
            path,
            save_as_external_data=True,
            all_tensors_to_one_file=True,
            location=f"{path.name}_data",
        )
    else:
        onnx.save(model, path)
    return is_large


def _size(path: Path) -> int:
    beside = path.with_name(f"{path.name}_data")
    return path.stat().st_size + (beside.stat().st_size if beside.is_file() else 0)


def _write_settings(
    checkpoint: Checkpoint, head: Head, folder: Path, layout: Layout, *, is_external: bool
) -> None:
    """Write what consumers read beside the graph."""
    spec, source = checkpoint.spec, checkpoint.tokenizer_file.parent
    config = {
        key: value
        for key, value in read_object(source / CONFIG_FILE).items()
        if not key.startswith("polyrank_") and key != "torch_dtype"
    }
    config |= {"dtype": "float32"}  # of inputs and outputs, which is all that consumers ask
    if head.spec.labels:
        labels = dict(enumerate(head.spec.labels))
        config |= {"id2label": {str(i): name for i, name in labels.items()}}
        config |= {"label2id": {name: i for i, name in labels.items()}}
        config |= {"architectures": [_classifier(config)]}
    if layout == "transformers.js":
        settings: dict[str, Any] = {"dtype": "q8"}
        if is_external:
            settings["use_external_data_format"] = True
        config |= {"transformers.js_config": settings}
    _write(folder / CONFIG_FILE, config)
    (folder / TOKENIZER_FILE).write_bytes(read_plain(checkpoint.tokenizer_file))
    tokens = _tokens(source)
    own = source / TOKENIZER_CONFIG_FILE
    given = read_object(own) if own.is_file() else {}
    limits = {"model_max_length": spec.max_length}
    _write(folder / TOKENIZER_CONFIG_FILE, tokens | given | limits)
    _write(folder / _SPECIAL_FILE, tokens)


def _classifier(config: Mapping[str, Any]) -> str:
    """Return the class of transformers whose logits these are."""
    known = [name for name in config.get("architectures") or () if "ForSequence" in name]
    names = {"bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta"}
    base = names.get(str(config.get("model_type")), "Camembert")
    return known[0] if known else f"{base}ForSequenceClassification"


def _tokens(source: Path) -> dict[str, str]:
    """Return the special tokens by name, from what lies beside the tokenizer."""
    found: dict[str, str] = {}
    for name in (TOKENIZER_CONFIG_FILE, _SPECIAL_FILE):
        path = source / name
        content = read_object(path) if path.is_file() else {}
        for kind in _SPECIAL_TOKENS:
            token = content.get(f"{kind}_token")
            text = token.get("content") if isinstance(token, dict) else token
            if isinstance(text, str):
                found[f"{kind}_token"] = text
    if "pad_token" not in found:
        raise CapabilityError(
            f"{source} names no pad_token in {TOKENIZER_CONFIG_FILE} or {_SPECIAL_FILE}, which "
            "every consumer of ONNX files needs. Add it there."
        )
    return found


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf8")
