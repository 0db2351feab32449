"""From a folder on disk to a `Checkpoint`: specification, tensors and tokenizer file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyrank.checkpoint.body import locate_body, read_body, tensor_shapes
from polyrank.checkpoint.files import read_object, read_optional
from polyrank.checkpoint.first_stage import read_first_stage_weights
from polyrank.checkpoint.gate import GateStatus, read_gate
from polyrank.checkpoint.heads import Modules, read_heads
from polyrank.checkpoint.int4 import unpack_int4
from polyrank.checkpoint.layouts import (
    COMPRESSED_TOKENIZER_FILE,
    CONFIG_FILE,
    DOCUMENTED_PROMPTS,
    PROMPTS_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    TRANSFORMER_CONFIG_FILES,
)
from polyrank.checkpoint.mixed import MixedTable, is_mixed, read_mixed, unpack_mixed
from polyrank.checkpoint.panels import PANELS_NDIM, unpack_panels
from polyrank.checkpoint.quantization import multiplier_name, read_quantization, scale_name
from polyrank.checkpoint.spec import ModelSpec, PromptsSpec
from polyrank.checkpoint.tables import RowLookup, int4_rows, int8_rows, mixed_rows
from polyrank.checkpoint.weights import FLOAT_DTYPES, TensorInfo, Weights
from polyrank.errors import CheckpointError, CheckpointNotFoundError
from polyrank.types import Float16Array, Float32Array, UInt8Array


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An opened checkpoint folder.

    Attributes:
        spec: What the checkpoint is and can do.
        weights: Tensors of the folder, or of its transformer module.
        body_tensors: Where each tensor of the body lies, by its name without prefix.
        tokenizer_file: Path of tokenizer.json, or of tokenizer.json.gz.
    """

    spec: ModelSpec
    weights: Weights
    body_tensors: Mapping[str, TensorInfo]
    tokenizer_file: Path

    def module_weights(self, folder: str) -> Weights:
        """Return the tensors of a module's own sub-folder ("" for the checkpoint's)."""
        return Weights.open(self.spec.folder / folder) if folder else self.weights

    def is_quantised(self, name: str) -> bool:
        """Return whether a tensor of the body, named without prefix, is steps or codes.

        Such a tensor has another type in the file, and often another shape, than the body needs;
        only `body_float32` gives its values.
        """
        return self.body_tensors[name].dtype not in FLOAT_DTYPES

    def body_float32(self, name: str) -> Float32Array:
        """Return a tensor of the body as float32, dequantised where it is stored as steps.

        Encoders without int8 products run int8 folders on what this returns, and the native one
        does where float32 is asked for.

        Args:
            name: Name without prefix.

        Returns:
            The tensor, of the shape that `tensor_shapes` says; a view of the mapped file where
            that holds float32.

        Raises:
            CorruptWeightsError: If the tensors of a mixed table contradict each other.
        """
        info = self.body_tensors[name]
        if is_mixed(name, self.body_tensors):
            return unpack_mixed(self.body_mixed(name))
        if info.dtype == "U8":
            return unpack_int4(*self._int4(name))
        if info.dtype != "I8":
            return self.weights.get_float32(info.name)
        steps, multiplier = self.weights.get_int8(info.name), multiplier_name(name)
        if len(info.shape) == PANELS_NDIM:
            width = tensor_shapes(self.spec.body)[name][1]
            steps = unpack_panels(steps, width)
        values = steps * self.body_float32(scale_name(name))[:, None]
        if multiplier in self.body_tensors:
            values *= self.body_float32(multiplier)
        return values

    def body_rows(self, name: str) -> RowLookup:
        """Return what looks up rows of a quantised table, dequantising only those.

        Args:
            name: Name without prefix, of which `is_quantised` is true.

        Returns:
            The lookup; it reads the mapped file.

        Raises:
            CorruptWeightsError: If the tensors of a mixed table contradict each other.
        """
        if is_mixed(name, self.body_tensors):
            return mixed_rows(self.body_mixed(name))
        if self.body_tensors[name].dtype == "U8":
            return int4_rows(*self._int4(name))
        steps = self.weights.get_int8(self.body_tensors[name].name)
        return int8_rows(steps, self.body_float32(scale_name(name)))

    def _int4(self, name: str) -> tuple[UInt8Array, Float16Array]:
        scales = self.weights.get(self.body_tensors[scale_name(name)].name)
        return self.weights.get_uint8(self.body_tensors[name].name), scales

    def body_mixed(self, name: str) -> MixedTable:
        """Return a mixed table of the body as views of the mapped file.

        Args:
            name: Name without prefix.

        Returns:
            The table.

        Raises:
            CorruptWeightsError: If its tensors contradict each other.
        """
        num_rows = tensor_shapes(self.spec.body)[name][0]
        return read_mixed(self.body_tensors[name].name, num_rows, self.weights)

    def gate(self) -> GateStatus:
        """Return whether int8 passed the quality gate on these weights; see `read_gate`."""
        return read_gate(self.spec.folder, self.weights)


def read_checkpoint(folder: Path, name: str | None = None) -> Checkpoint:
    """Open a checkpoint folder: read its configuration, check that its tensors are there.

    No tensor is read yet.

    Args:
        folder: Folder as the Hub publishes it.
        name: What to call the checkpoint; its Hub id where it has one.

    Returns:
        The checkpoint.

    Raises:
        CheckpointNotFoundError: If the folder or one of its files does not exist.
        CheckpointError: If a file cannot be used; subclasses say how.
    """
    if not folder.is_dir():
        raise CheckpointNotFoundError(f"there is no folder {folder}.")
    modules = Modules(folder)
    path = modules.body_folder / CONFIG_FILE
    config = read_object(path)
    weights = Weights.open(modules.body_folder)
    body = read_body(config, path, weights)
    quantization = read_quantization(config, path)
    heads, assumptions = read_heads(config, path, body, modules)
    settings = _transformer_settings(modules.body_folder)
    limit = settings.get("max_seq_length") or _tokenizer_limit(modules.body_folder)
    spec = ModelSpec(
        name=name or folder.name,
        folder=folder,
        body=body,
        heads=heads,
        prompts=read_prompts(folder, name),
        max_length=min(int(limit), body.max_seqlen) if limit else body.max_seqlen,
        is_lowercased=bool(settings.get("do_lower_case", False)),
        assumptions=assumptions,
        quantization=quantization,
        first_stage_weights=read_first_stage_weights(config, path),
    )
    tensors = locate_body(body, weights, quantization)
    return Checkpoint(spec, weights, tensors, _tokenizer_file(folder, modules.body_folder))


def _transformer_settings(folder: Path) -> dict[str, Any]:
    for name in TRANSFORMER_CONFIG_FILES:
        if (folder / name).is_file():
            return read_object(folder / name)
    return {}


def _tokenizer_limit(folder: Path) -> int | None:
    limit = read_optional(folder / TOKENIZER_CONFIG_FILE).get("model_max_length")
    # transformers writes 1e30 where a tokenizer has no limit
    return int(limit) if isinstance(limit, int | float) and 0 < limit < 1e9 else None


def _tokenizer_file(folder: Path, body_folder: Path) -> Path:
    for place in (body_folder, folder):
        for name in (TOKENIZER_FILE, COMPRESSED_TOKENIZER_FILE):
            if (place / name).is_file():
                return place / name
    raise CheckpointNotFoundError(
        f"no {TOKENIZER_FILE} or {COMPRESSED_TOKENIZER_FILE} in {folder}. Download it, or write it "
        "from an older tokenizer with transformers: "
        'python -c "from transformers import AutoTokenizer as A; '
        f"A.from_pretrained('{folder}').save_pretrained('{folder}')\""
    )


def read_prompts(folder: Path, name: str | None) -> PromptsSpec:
    """Return the prompts of a folder, else those that its model card documents.

    Args:
        folder: The checkpoint's folder.
        name: Its Hub id, if it has one.

    Returns:
        Prompts by name.

    Raises:
        CheckpointError: If the folder's prompts are not texts.
    """
    path = folder / PROMPTS_FILE
    settings = read_optional(path)
    prompts, default = settings.get("prompts") or {}, settings.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(p, str) for p in prompts.values()):
        raise CheckpointError(f"{path} must map prompt names to texts, not {prompts!r}.")
    if default is not None and default not in prompts:
        raise CheckpointError(
            f"{path} names the default prompt {default!r}, which is not among {list(prompts)}."
        )
    if any(prompts.values()):
        return PromptsSpec(prompts, default, PROMPTS_FILE)
    if documented := DOCUMENTED_PROMPTS.get(name or ""):
        return PromptsSpec(documented, None, "model card")
    return PromptsSpec()
