"""Start checkpoints in sentence-transformers' classes: heads, frozen parts, adapters, saving."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, LoraModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor, nn

from polyrank.checkpoint.files import read_plain
from polyrank.checkpoint.first_stage import FIRST_STAGE_KEY
from polyrank.checkpoint.layouts import CONFIG_FILE, EXTRA_HEADS_KEY, TOKENIZER_FILE
from polyrank.checkpoint.reader import Checkpoint
from polyrank.errors import CapabilityError, CheckpointError, ConfigError
from polyrank.training.config import RELEVANCE_LABELS, TrainingConfig

STATE_FILE = "trainable.safetensors"
"""What training changes, in the folder of a checkpoint."""

_ADAPTED = r".*encoder\.layer\.\d+\..*\.(query|key|value|dense)"
_BODY_PARTS = (".embeddings.", ".encoder.")
_ACTIVATIONS = {1: nn.Sigmoid, len(RELEVANCE_LABELS): nn.Identity}

_FLOAT32: Mapping[str, Any] = {"dtype": torch.float32, "attn_implementation": "sdpa"}


@dataclass
class Start:
    """A checkpoint ready to train.

    Attributes:
        model: The cross-encoder or sentence transformer.
        is_new_head: Whether the head was made here and knows nothing yet.
        checkpoint: The checkpoint that it was; its limit and tokenizer go into the new folder.
        classes: Output of the head for each grade (classifiers).
        adapters: The body with low-rank adapters, or None.
    """

    model: Any
    is_new_head: bool
    checkpoint: Checkpoint
    classes: tuple[int, ...] = ()
    adapters: LoraModel | None = field(default=None, repr=False)

    @property
    def num_trainable(self) -> int:
        """Parameters that training changes."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    def merge_adapters(self) -> None:
        """Add the adapters' products to the weights and remove them."""
        if self.adapters is not None:
            self.adapters.merge_and_unload()
            self.adapters = None

    def save(self, folder: Path) -> None:
        """Write the model as the Hub publishes one, adapters merged.

        Args:
            folder: Folder to write into.
        """
        self.merge_adapters()
        training_length = self.model.max_seq_length
        self.model.max_seq_length = self.checkpoint.spec.max_length
        self.model.save_pretrained(str(folder), create_model_card=False)
        self.model.max_seq_length = training_length
        # the one just written has the truncation and padding of the last batch in it
        shutil.copyfile(self.checkpoint.tokenizer_file, folder / TOKENIZER_FILE)


def load_start(checkpoint: Checkpoint, config: TrainingConfig, device: str) -> Start:
    """Load a checkpoint for a task.

    Args:
        checkpoint: The start checkpoint.
        config: Task, head, adapters, what is frozen.
        device: Where to train.

    Returns:
        The model, its parameters set to train or not.

    Raises:
        ConfigError: If the checkpoint's labels are not those of the task, or a new head was
            asked for where there is one.
        CapabilityError: If the checkpoint cannot be trained.
    """
    _check_trainable(checkpoint)
    torch.manual_seed(config.seed)
    if config.task == "embedder":
        start = _load_embedder(checkpoint, device)
    else:
        start = _load_cross_encoder(checkpoint, config, device)
    # learnt for the checkpoint as it was (`polyrank train first-stage-weight`)
    vars(start.model[0].model.config).pop(FIRST_STAGE_KEY, None)
    start.model.max_seq_length = min(config.max_length, checkpoint.spec.max_length)
    for module in start.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = config.dropout
    if config.lora_rank:
        start.adapters = _add_adapters(start.model, config.lora_rank)
    if config.freeze_embeddings or config.lora_rank:
        for name, parameter in start.model.named_parameters():
            if ".embeddings." in name:
                parameter.requires_grad = False
    return start


def load_teacher(teacher: Checkpoint, student: Checkpoint, start: Start) -> Any:
    """Load an embedder whose rows a student learns.

    Args:
        teacher: The embedder.
        student: What is trained.
        start: The same, loaded.

    Returns:
        A sentence transformer that is not trained, on the student's device.

    Raises:
        ConfigError: If the two do not read the same tokens, or give rows of other widths.
        CapabilityError: If the teacher is int8 or no embedder.
    """
    _check_trainable(teacher)
    files = teacher.tokenizer_file, student.tokenizer_file
    widths = teacher.spec.body.hidden_size, student.spec.body.hidden_size
    if len({read_plain(file) for file in files}) > 1 or len(set(widths)) > 1:
        raise ConfigError(
            f"{teacher.spec.name} cannot teach {student.spec.name} its rows: tokenizer and width "
            f"must be the same; they are {widths[0]} and {widths[1]} wide. Start from the "
            "teacher's own layers (`polyrank compress drop-layers`)."
        )
    model = _load_embedder(teacher, str(start.model.device)).model
    model.max_seq_length = start.model.max_seq_length
    return model.requires_grad_(requires_grad=False).eval()


def _check_trainable(checkpoint: Checkpoint) -> None:
    spec = checkpoint.spec
    if spec.quantization is not None:
        raise CapabilityError(
            f"{spec.name} is int8, which cannot be trained. Train the float checkpoint that it "
            "was made of, then quantise the result."
        )
    config = json.loads((checkpoint.tokenizer_file.parent / CONFIG_FILE).read_text("utf8"))
    if EXTRA_HEADS_KEY in config:
        raise CapabilityError(
            f"{spec.name} has several heads ({EXTRA_HEADS_KEY}), which sentence-transformers "
            "cannot read. Train a folder with one head and put the heads together afterwards."
        )


def _load_embedder(checkpoint: Checkpoint, device: str) -> Start:
    spec = checkpoint.spec
    if "embed" not in spec.heads:
        raise CapabilityError(
            f"{spec.name} is a {' and '.join(spec.heads)} checkpoint and makes no vectors. Start "
            "from an embedder or a bare encoder."
        )
    model = SentenceTransformer(str(spec.folder), device=device, model_kwargs=dict(_FLOAT32))
    if spec.prompts.by_name:  # those of a model card get into the folder that is written
        model.prompts = dict(spec.prompts.by_name)
    return Start(model, is_new_head=False, checkpoint=checkpoint)


def _load_cross_encoder(checkpoint: Checkpoint, config: TrainingConfig, device: str) -> Start:
    spec = checkpoint.spec
    head_task = "rerank" if config.task == "reranker" else "classify"
    if head_task in spec.heads:
        if config.head != "auto":
            raise ConfigError(
                f"{spec.name} has a head for this task, and head = {config.head!r} asks for a new "
                "one. Leave it out to train on, or start from a checkpoint without a head."
            )
        model = CrossEncoder(str(spec.folder), device=device, model_kwargs=dict(_FLOAT32))
        classes = _classes(checkpoint) if config.task == "classifier" else ()
        return Start(model, is_new_head=False, checkpoint=checkpoint, classes=classes)
    labels = RELEVANCE_LABELS if config.task == "classifier" else ("LABEL_0",)
    make = _published_head if config.head == "transformers" else _pooled_head
    model = make(checkpoint, config, len(labels), device)
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: i for i, label in enumerate(labels)}
    classes = tuple(range(len(labels))) if config.task == "classifier" else ()
    return Start(model, is_new_head=True, checkpoint=checkpoint, classes=classes)


def _classes(checkpoint: Checkpoint) -> tuple[int, ...]:
    labels = checkpoint.spec.heads["classify"].labels
    places = {label.lower(): i for i, label in enumerate(labels)}
    if set(places) != set(RELEVANCE_LABELS):
        raise ConfigError(
            f"{checkpoint.spec.name} has the labels {list(labels)}, and the classifier that is "
            f"trained here {list(RELEVANCE_LABELS)}. Start from another checkpoint."
        )
    return tuple(places[label] for label in RELEVANCE_LABELS)


def _published_head(
    checkpoint: Checkpoint, config: TrainingConfig, num_labels: int, device: str
) -> CrossEncoder:
    """Return transformers' class for sequence classification, with a new head."""
    del config
    folder = str(checkpoint.spec.folder)
    return CrossEncoder(folder, num_labels=num_labels, device=device, model_kwargs=dict(_FLOAT32))


def _pooled_head(
    checkpoint: Checkpoint, config: TrainingConfig, num_labels: int, device: str
) -> CrossEncoder:
    """Return the body with one linear layer on pooled rows."""
    spec = checkpoint.spec
    body = Transformer(str(checkpoint.tokenizer_file.parent), model_kwargs=dict(_FLOAT32))
    own = next(iter(spec.heads.values())).pooling[0] if spec.heads else "mean"
    pooling = config.head if config.head != "auto" else own
    if pooling not in ("mean", "cls"):
        raise ConfigError(
            f"{spec.name} pools by {pooling!r}, which a new head cannot. Set head to mean or cls."
        )
    width = body.get_embedding_dimension()
    dense = Dense(width, num_labels, activation_function=nn.Identity(), module_output_name="scores")
    body.model.config.num_labels = num_labels
    modules = [body, Pooling(width, pooling), dense]
    return CrossEncoder(modules=modules, device=device, activation_fn=_ACTIVATIONS[num_labels]())


def _add_adapters(model: Any, rank: int) -> LoraModel:
    """Put low-rank adapters on the linear layers of the body; heads train whole.

    Reference: Hu et al., arXiv:2106.09685.
    """
    settings = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=_ADAPTED)
    # not get_peft_model, whose wrapper asks transformers for a property that goes away
    adapters = LoraModel(model[0].model, settings, "default")
    for name, parameter in model.named_parameters():
        is_body = any(part in name for part in _BODY_PARTS)
        parameter.requires_grad = "lora_" in name or not is_body
    return adapters


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of what training changes, on the CPU, by name."""
    return {
        name: parameter.detach().cpu().clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def write_state(model: nn.Module, path: Path) -> None:
    """Write what training changes into a safetensors file."""
    save_file(trainable_state(model), str(path))


def read_state(model: nn.Module, path: Path) -> None:
    """Put back what `write_state` wrote.

    Args:
        model: The model, with the same parameters to train.
        path: The file.

    Raises:
        CheckpointError: If the file is broken or of another run.
    """
    try:
        state = load_file(str(path))
    except (OSError, SafetensorError) as exc:
        raise CheckpointError(
            f"{path} cannot be read: {exc}. Remove its folder to resume from the one before."
        ) from exc
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if {name: value.shape for name, value in state.items()} != {n: p.shape for n, p in own.items()}:
        raise CheckpointError(
            f"{path} holds other parameters than those that this run trains. Resume with the "
            "settings of the first run."
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])
