"""From a folder on disk to a `Checkpoint`: specification, tensors and tokenizer file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from polyrank.checkpoint.body import locate_body, read_body, tensor_shapes
from polyrank.checkpoint.files import is_file
from polyrank.checkpoint.first_stage import read_first_stage_weights
from polyrank.checkpoint.formats.int4 import unpack_int4
from polyrank.checkpoint.formats.mixed import MixedTable, is_mixed, read_mixed, unpack_mixed
from polyrank.checkpoint.formats.panels import PANELS_NDIM, unpack_panels
from polyrank.checkpoint.formats.quantization import multiplier_name, read_quantization, scale_name
from polyrank.checkpoint.formats.tables import RowLookup, int4_rows, int8_rows, mixed_rows
from polyrank.checkpoint.gate import GateStatus, read_gate
from polyrank.checkpoint.header import TensorInfo
from polyrank.checkpoint.heads import Heads, read_heads
from polyrank.checkpoint.layouts import (
    COMPRESSED_TOKENIZER_FILE,
    CONFIG_FILE,
    DOCUMENTED_PROMPTS,
    PROMPTS_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
)
from polyrank.checkpoint.leftovers import (
    check_leftovers,
    check_module_leftovers,
    refuse_adapters,
)
from polyrank.checkpoint.modules import Modules
from polyrank.checkpoint.settings import Settings, is_text
from polyrank.checkpoint.spec import BodySpec, ModelSpec, PromptsSpec
from polyrank.checkpoint.state import FolderState, read_state
from polyrank.checkpoint.weights import FLOAT_DTYPES, Weights
from polyrank.errors import CheckpointError, CheckpointNotFoundError
from polyrank.types import Float16Array, Float32Array, UInt8Array

MODEL_CARD = "model card"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An opened checkpoint folder.

    Attributes:
        spec: What the checkpoint is and can do.
        weights: Tensors of the folder, or of its transformer module.
        body_tensors: Where each tensor of the body lies, by its name without prefix.
        tokenizer_file: Path of tokenizer.json, or of tokenizer.json.gz.
        state: Of all files that decide an output, before the first was read; see `read_state`.
    """

    spec: ModelSpec
    weights: Weights
    body_tensors: Mapping[str, TensorInfo]
    tokenizer_file: Path
    state: FolderState

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
            return unpack_int4(*self.body_int4(name))
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
            return int4_rows(*self.body_int4(name))
        steps = self.weights.get_int8(self.body_tensors[name].name)
        return int8_rows(steps, self.body_float32(scale_name(name)))

    def body_int4(self, name: str) -> tuple[UInt8Array, Float16Array]:
        """Return a tensor of 4-bit blocks as it is stored.

        Args:
            name: Name without prefix, of a tensor that the file holds as U8.

        Returns:
            Packed steps and the scales of their blocks, views of the mapped file.
        """
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
        return read_gate(self.spec.folder, self.weights, self.tokenizer_file)


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
    state = read_state(modules)  # before all else: what is read from now on is no older
    config = Settings.read(modules.body_folder / CONFIG_FILE)
    weights = Weights.open(modules.body_folder)
    refuse_adapters(modules.body_folder, weights)
    body = read_body(config, weights)
    quantization = read_quantization(config)
    heads, assumptions = read_heads(config, body, modules)
    tensors = locate_body(body, weights, quantization)
    is_declared = not assumptions  # something in the folder describes a head
    used = {info.name for info in tensors.values()} | _head_tensors(heads, modules)
    assumptions += check_leftovers(config, weights, used, body, is_declared=is_declared)
    prompts = _prefixed(read_prompts(folder, name), heads)
    settings = modules.transformer_settings()
    spec = ModelSpec(
        name=name or folder.name,
        folder=folder,
        body=body,
        heads=heads,
        prompts=prompts,
        max_length=_max_length(settings, modules.body_folder, body),
        is_lowercased=settings.flag("do_lower_case", default=False),
        assumptions=assumptions + _assumed_prompts(prompts),
        quantization=quantization,
        first_stage_weights=read_first_stage_weights(config),
    )
    file = _tokenizer_file(folder, modules.body_folder)
    return Checkpoint(spec, weights, tensors, file, state)


def _head_tensors(heads: Heads, modules: Modules) -> set[str]:
    """Return the tensors of heads in the body's files; those of Dense modules are checked here."""
    for layer in (layer for head in heads.values() for layer in head.layers if layer.folder):
        names = [name for name in (layer.weight, layer.bias) if name is not None]
        check_module_leftovers(Weights.open(modules.folder / layer.folder), names)
    return {name for head in heads.values() for name in head.tensors}


def _prefixed(prompts: PromptsSpec, heads: Heads) -> PromptsSpec:
    """Return prompts with the markers before them that folders of late interaction name apart."""
    spec = heads["rerank"].multi_vector if "rerank" in heads else None
    if spec is None or not spec.markers:
        return prompts
    markers = {"query": spec.query_prefix, "document": spec.document_prefix}
    texts = {
        name: marker + prompts.by_name.get(name, "").removeprefix(marker)
        for name, marker in markers.items()
    }
    return PromptsSpec({**prompts.by_name, **texts}, prompts.default, PROMPTS_FILE)


def _assumed_prompts(prompts: PromptsSpec) -> tuple[str, ...]:
    if prompts.origin != MODEL_CARD:
        return ()
    texts = ", ".join(f"{name} {text!r}" for name, text in prompts.by_name.items())
    return (f"The folder holds no prompts: those of the model card are used ({texts}).",)


def _max_length(settings: Settings, folder: Path, body: BodySpec) -> int:
    if "max_seq_length" in settings:
        return min(settings.integer("max_seq_length", low=1, high=None), body.max_seqlen)
    limits = Settings.read_optional(folder / TOKENIZER_CONFIG_FILE)
    if "model_max_length" not in limits:
        return body.max_seqlen
    # a whole number in transformers' files, 1e30 where a tokenizer has no limit
    return min(int(limits.number("model_max_length", low=1, high=1e300)), body.max_seqlen)


def _tokenizer_file(folder: Path, body_folder: Path) -> Path:
    for place in (body_folder, folder):
        for name in (TOKENIZER_FILE, COMPRESSED_TOKENIZER_FILE):
            if is_file(place / name):
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
    settings = Settings.read_optional(folder / PROMPTS_FILE)
    entries, default = settings.mapping("prompts"), settings.text("default_prompt_name")
    prompts = {key: _prompt(entries, key) for key in entries}
    if default is not None and default not in prompts:
        raise CheckpointError(
            f"{settings.path} names the default prompt {default!r:.200}, which is not among "
            f"{list(prompts)!r:.200}."
        )
    if any(prompts.values()):
        return PromptsSpec(prompts, default, PROMPTS_FILE)
    if documented := DOCUMENTED_PROMPTS.get(name or ""):
        return PromptsSpec(documented, None, MODEL_CARD)
    return PromptsSpec()


def _prompt(entries: Settings, key: str) -> str:
    if not is_text(key):
        raise entries.error(key, "called by a text")
    # sentence-transformers 6 writes null for a prompt that is not there
    return "" if entries.content.get(key) is None else entries.needed_text(key)
