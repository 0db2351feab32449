"""Training of one body for three tasks: rerank, classify, and embed as it did before.

A pair gives a logit and three class logits from one pooled row. The score that lists are ranked
by is the logit plus a learnt multiple of the cosine of the two texts' vectors, so that training
starts from what the embedder knows, across languages above all, and adds to it. A second term
ranks by the logit alone. The vectors themselves are held to those of the untouched embedder.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, TrainerControl, TrainerState

from polyrank._files import replacing
from polyrank.checkpoint.first_stage import FIRST_STAGE_KEY
from polyrank.checkpoint.heads import EXTRA_HEADS_KEY
from polyrank.checkpoint.layouts import CONFIG_FILE
from polyrank.checkpoint.reader import Checkpoint
from polyrank.config import TruncationConfig
from polyrank.errors import CapabilityError
from polyrank.inference.embedder import Embedder
from polyrank.tasks.heads import Head, softmax
from polyrank.text.pairs import SequenceBuilder
from polyrank.text.prompts import prompt_for_input_type
from polyrank.text.tokenizer import Tokenizer
from polyrank.training.config import RELEVANCE_LABELS, TrainingConfig
from polyrank.training.drawing import RELEVANT, Drawer, RankedList
from polyrank.training.journal import Journal
from polyrank.training.models import STATE_FILE, read_state, write_state
from polyrank.training.replicas import LocalReplica, ProcessReplicas, Replicas, trained
from polyrank.types import Float32Array, InputType, PackedBatch

WEIGHTS_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.pt"

_RERANK, _CLASSIFY = "heads.rerank", "heads.classify"
_FIRST_WEIGHT = 40.0  # of the cosine; about the inverse of the temperature that fits a ranking
_ALONE, _BCE, _CLASSES = 0.5, 0.3, 0.4
_HEAD_RATE = 1e-3
_WEIGHT_DECAY = 0.01
_KEPT_CHECKPOINTS = 2


class JointModel(nn.Module):
    """A body, a linear layer of four outputs, and the weight of the cosine."""

    def __init__(self, body: Any, seed: int) -> None:
        super().__init__()
        self.body = body
        width = body.config.hidden_size
        generator = torch.Generator().manual_seed(seed)
        self.heads = nn.Linear(width, 1 + len(RELEVANCE_LABELS))
        with torch.no_grad():
            self.heads.weight.normal_(std=0.02, generator=generator)
            self.heads.bias.zero_()
        self.log_weight = nn.Parameter(torch.tensor(float(np.log(_FIRST_WEIGHT))))
        self.offset = nn.Parameter(torch.zeros(()))

    @property
    def device(self) -> torch.device:
        """Where the body is."""
        return self.log_weight.device

    @property
    def similarity_weight(self) -> Tensor:
        """What a cosine counts for in a score."""
        return torch.exp(self.log_weight)


@dataclass
class JointStart:
    """A checkpoint ready for joint training; stands where `models.Start` does.

    Attributes:
        model: The model.
        checkpoint: The embedding checkpoint that it was.
        max_length: Tokens of a sequence while training.
        center: Cosine that adds nothing to a score while training, so that the weight of the
            cosine can move without the offset.
    """

    model: JointModel
    checkpoint: Checkpoint
    max_length: int
    center: float = 0.0
    is_new_head: bool = True

    @property
    def num_trainable(self) -> int:
        """Parameters that training changes."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        is_lowercased = self.checkpoint.spec.is_lowercased
        return Tokenizer(self.checkpoint.tokenizer_file, is_lowercased=is_lowercased)

    def builder(self, max_length: int | None = None) -> SequenceBuilder:
        """Return what makes sequences of texts and pairs."""
        spec = self.checkpoint.spec
        return SequenceBuilder(
            self._tokenizer,
            TruncationConfig(max_length),
            model_limit=spec.max_length,
            has_segments=spec.body.type_vocab_size > 1,
        )

    def save(self, folder: Path) -> None:
        """Write the embedding checkpoint with the trained body and its two further heads.

        Args:
            folder: Folder to write into.
        """
        shutil.copytree(self.checkpoint.spec.folder, folder, dirs_exist_ok=True)
        weights = load_file(folder / WEIGHTS_FILE)
        prefix = self.checkpoint.spec.body.prefix
        for name, value in self.model.body.state_dict().items():
            stored = weights.get(prefix + name)
            if stored is not None and "embeddings." not in name:
                weights[prefix + name] = value.detach().cpu().numpy().astype(stored.dtype)
        weight = float(self.model.similarity_weight.detach())
        rows = self.model.heads.weight.detach().cpu().numpy()
        bias = self.model.heads.bias.detach().cpu().numpy().copy()
        bias[0] += float(self.model.offset.detach()) - weight * self.center
        for name, part in ((_RERANK, slice(0, 1)), (_CLASSIFY, slice(1, None))):
            weights[f"{name}.weight"] = np.ascontiguousarray(rows[part])
            weights[f"{name}.bias"] = np.ascontiguousarray(bias[part])
        save_file(weights, folder / WEIGHTS_FILE, {"format": "pt"})
        config = json.loads((folder / CONFIG_FILE).read_text("utf8"))
        config[EXTRA_HEADS_KEY] = {
            "rerank": {
                "pooling": "mean",
                "layers": [{"weight": f"{_RERANK}.weight", "bias": f"{_RERANK}.bias"}],
                "activation": "sigmoid",
                "labels": ["relevant"],
                "similarity_weight": weight,
            },
            "classify": {
                "pooling": "mean",
                "layers": [{"weight": f"{_CLASSIFY}.weight", "bias": f"{_CLASSIFY}.bias"}],
                "activation": "softmax",
                "labels": list(RELEVANCE_LABELS),
            },
        }
        config.pop(FIRST_STAGE_KEY, None)  # learnt for the checkpoint as it was
        with replacing(folder / CONFIG_FILE) as path:
            path.write_text(json.dumps(config, indent=2) + "\n", "utf8")


def load_joint(checkpoint: Checkpoint, config: TrainingConfig, device: str) -> JointStart:
    """Load an embedding checkpoint for joint training.

    Args:
        checkpoint: The start checkpoint.
        config: Seed, dropout, length.
        device: Where to train.

    Returns:
        The model, its body's encoder and its heads set to train.

    Raises:
        CapabilityError: If the checkpoint is no embedder by the mean of token rows, or int8, or has
            heads of another kind.
    """
    spec = checkpoint.spec
    head = spec.heads.get("embed")
    if spec.quantization is not None or head is None or head.pooling != ("mean",) or head.layers:
        raise CapabilityError(
            f"{spec.name} cannot be trained jointly: that takes an embedding checkpoint with float "
            "weights whose vectors are the mean of the token rows, such as multilingual-e5-small."
        )
    body = AutoModel.from_pretrained(
        str(spec.folder), dtype=torch.float32, attn_implementation="eager", add_pooling_layer=False
    )
    for module in body.modules():
        if isinstance(module, nn.Dropout):
            module.p = config.dropout
    for name, parameter in body.named_parameters():
        parameter.requires_grad = name.startswith("encoder.")
    model = JointModel(body, config.seed)
    is_new_head = not _take_heads(model, checkpoint)
    model = model.to(device)
    length = min(config.max_length, spec.max_length)
    return JointStart(model, checkpoint, length, is_new_head=is_new_head)


def _take_heads(model: JointModel, checkpoint: Checkpoint) -> bool:
    """Load the heads that an earlier joint training left; return whether there were any."""
    heads = checkpoint.spec.heads
    if "rerank" not in heads or not heads["rerank"].similarity_weight or "classify" not in heads:
        return False
    rerank, classify = (Head.load(checkpoint, heads[task]) for task in ("rerank", "classify"))
    labels = [label.lower() for label in classify.spec.labels]
    is_ours = len(rerank.layers) == len(classify.layers) == 1 and labels == list(RELEVANCE_LABELS)
    if not is_ours or rerank.spec.similarity_weight <= 0:
        raise CapabilityError(
            f"{checkpoint.spec.name} has heads that joint training does not make: it goes on from "
            f"one linear layer each, with the labels {', '.join(RELEVANCE_LABELS)}."
        )
    layers = (*rerank.layers, *classify.layers)
    with torch.no_grad():
        model.heads.weight.copy_(torch.from_numpy(np.concatenate([la.weight for la in layers])))
        model.heads.bias.copy_(torch.from_numpy(np.concatenate([la.bias for la in layers])))
        model.log_weight.fill_(float(np.log(rerank.spec.similarity_weight)))
    return True


@dataclass(frozen=True, slots=True)
class Batch:
    """The lists of an update, as numbers.

    Attributes:
        lists: The lists.
        sequences: Token ids of all pairs, then of all kept texts.
        list_of: List of each pair, shape (num_pairs,).
        grades: Grade of each pair, shape (num_pairs,).
        cosines: Cosine of each pair by the untouched embedder, shape (num_pairs,).
        kept: Vectors of the kept texts by the untouched embedder, shape (num_kept, dim).
    """

    lists: list[RankedList]
    sequences: list[list[int]]
    list_of: Tensor
    grades: Tensor
    cosines: Tensor
    kept: Tensor


class Batcher:
    """Draws lists and adds what the untouched embedder says of their texts."""

    def __init__(
        self,
        drawer: Drawer,
        embedder: Embedder,
        keeper: Embedder,
        start: JointStart,
        config: TrainingConfig,
    ) -> None:
        self._drawer, self._config = drawer, config
        self._embedder, self._keeper = embedder, keeper
        self._builder = start.builder(start.max_length)
        self._device = start.model.device
        prompts = start.checkpoint.spec.prompts
        self._query_prompt = prompt_for_input_type(prompts, "query")
        self._document_prompt = prompt_for_input_type(prompts, "document")

    def batch(self, step: int) -> Batch:
        """Return the batch of a step; it depends on the seed and the step alone."""
        size = self._config.lists_per_step
        lists = self._drawer.draw(range(step * size, (step + 1) * size))
        queries = [entry.query for entry in lists]
        passages = [text for entry in lists for text in entry.passages]
        list_of = np.repeat(np.arange(size), [len(entry.passages) for entry in lists])
        asked = self._embedder.encode(queries, input_type="query")
        answered = self._embedder.encode(passages, input_type="document")
        generator = np.random.default_rng((self._config.seed, 4, step))
        drawn = generator.choice(len(passages), min(len(passages), size), replace=False)
        # what the embedder says of the part that is read here, not of the whole text
        held = self._keeper.encode([passages[i] for i in drawn], input_type="document")
        asked_of = [queries[i] for i in list_of]
        pairs = self._builder.pairs(list(zip(asked_of, passages, strict=True)))
        kept = [self._query_prompt + text for text in queries]
        kept += [self._document_prompt + passages[i] for i in drawn]
        grades = [grade for entry in lists for grade in entry.grades]
        tensors = (
            list_of,
            np.array(grades),
            np.einsum("nd,nd->n", asked[list_of], answered),
            np.concatenate([asked, held]),
        )
        sequences = _ids(pairs.batch) + _ids(self._builder.texts(kept).batch)
        return Batch(lists, sequences, *(torch.from_numpy(t).to(self._device) for t in tensors))


def _ids(batch: PackedBatch) -> list[list[int]]:
    bounds = batch.cu_seqlens
    return [batch.input_ids[a:b].tolist() for a, b in pairwise(bounds.tolist())]


def joint_losses(
    model: JointModel, rows: Tensor, batch: Batch, config: TrainingConfig, center: float
) -> dict[str, Tensor]:
    """Return the weighted losses of an update.

    Args:
        model: Its heads make logits of the rows.
        rows: Pooled rows of the batch's sequences, shape (num_sequences, hidden_size).
        batch: Grades, cosines and vectors to keep.
        config: Weight of the kept vectors.
        center: Cosine that adds nothing.

    Returns:
        "blended" and "alone" (softmax over a list, with and without the cosine), "bce", "classes"
        and "keep".
    """
    outputs = model.heads(rows[: len(batch.grades)])
    alone = outputs[:, 0]
    blended = alone + model.similarity_weight * (batch.cosines - center)
    is_relevant = (batch.grades == RELEVANT).float()
    weight = is_relevant.new_tensor(float(max(1, sum(config.num_negatives))))
    kept = functional.normalize(rows[len(batch.grades) :], dim=-1)
    losses = {
        "blended": _ranking_loss(blended, batch),
        "alone": _ALONE * _ranking_loss(alone, batch),
        "bce": _BCE
        * functional.binary_cross_entropy_with_logits(
            blended + model.offset, is_relevant, pos_weight=weight
        ),
        "classes": _CLASSES * functional.cross_entropy(outputs[:, 1:], batch.grades),
    }
    if config.keep_weight:
        losses["keep"] = config.keep_weight * (1 - (kept * batch.kept).sum(-1)).mean()
    return losses


def _ranking_loss(scores: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy of the relevant passage among its list's, the mean over lists with one."""
    parts = []
    first = 0
    for entry in batch.lists:
        last = first + len(entry.passages)
        if entry.grades[0] == RELEVANT and len(entry.passages) > 1:
            parts.append(torch.logsumexp(scores[first:last], 0) - scores[first])
        first = last
    return torch.stack(parts).mean() if parts else scores.sum() * 0


class JointLive:
    """The model in training, as evaluation sees it; implements `LiveModel`."""

    def __init__(self, trainer: "JointTrainer") -> None:
        self._trainer = trainer

    def encode(self, texts: Sequence[str], *, input_type: InputType) -> Float32Array:
        """Return vectors of unit length, shape (num_texts, dim)."""
        start = self._trainer.start
        prompt = prompt_for_input_type(start.checkpoint.spec.prompts, input_type)
        rows = self._rows(start.builder().texts([prompt + text for text in texts]).batch)
        return np.asarray(functional.normalize(torch.from_numpy(rows), dim=-1).numpy())

    def score(self, pairs: Sequence[tuple[str, str]]) -> Float32Array:
        """Return logits with the cosines added, shape (num_pairs,)."""
        model, embedder = self._trainer.start.model, self._trainer.embedder
        queries = {query: i for i, query in enumerate(dict.fromkeys(q for q, _ in pairs))}
        texts = {text: i for i, text in enumerate(dict.fromkeys(d for _, d in pairs))}
        asked = embedder.encode(list(queries), input_type="query")
        answered = embedder.encode(list(texts), input_type="document")
        cosines = np.einsum(
            "nd,nd->n",
            asked[[queries[query] for query, _ in pairs]],
            answered[[texts[text] for _, text in pairs]],
        )
        return self._outputs(pairs)[:, 0] + float(model.similarity_weight.detach()) * cosines

    def probabilities(self, pairs: Sequence[tuple[str, str]]) -> Float32Array:
        """Return shape (num_pairs, 3), columns as in `RELEVANCE_LABELS`."""
        return softmax(self._outputs(pairs)[:, 1:])

    def _outputs(self, pairs: Sequence[tuple[str, str]]) -> Float32Array:
        rows = self._rows(self._trainer.start.builder().pairs(pairs).batch)
        model = self._trainer.start.model
        with torch.no_grad():
            outputs = model.heads(torch.from_numpy(rows).to(model.device))
        return np.asarray(outputs.cpu().numpy())

    def _rows(self, batch: PackedBatch) -> Float32Array:
        with torch.no_grad():
            return self._trainer.replicas.forward(_ids(batch))


class JointTrainer:
    """Runs the steps; stands where the library's trainers do.

    Attributes:
        start: The model.
        embedder: The untouched embedder.
        replicas: What computes rows and gradients.
        state: How far the run is.
    """

    def __init__(
        self,
        start: JointStart,
        drawer: Drawer,
        embedder: Embedder,
        keeper: Embedder,
        config: TrainingConfig,
        conductor: Any,
        journal: Journal,
        folder: Path,
        *,
        is_bfloat16: bool,
        num_steps: int,
        num_threads: int,
    ) -> None:
        """Load nothing, start the replicas.

        Args:
            start: The model.
            drawer: Gives the lists.
            embedder: The untouched embedder, whose cosines are added.
            keeper: The same, reading no more of a text than training does; its vectors are kept.
            config: The settings.
            conductor: Decides when to evaluate, to save and to end (`trainers.Conductor`).
            journal: Where lists are counted.
            folder: Where checkpoints go.
            is_bfloat16: Whether products are in bfloat16.
            num_steps: Steps at most.
            num_threads: Threads; on a CPU each is a process, if there are several.
        """
        self.start, self.embedder = start, embedder
        self._config, self._conductor, self._journal = config, conductor, journal
        self._folder = folder
        self._num_steps, self._num_threads = num_steps, num_threads
        self._is_bfloat16 = is_bfloat16
        self._batcher = Batcher(drawer, embedder, keeper, start, config)
        self.state = TrainerState()
        self._control = TrainerControl()
        self.replicas: Replicas = self._make_replicas()
        heads = [p for n, p in start.model.named_parameters() if not n.startswith("body.")]
        rate = config.head_learning_rate or _HEAD_RATE
        self._groups = [trained(start.model.body), heads]
        self._rates = [config.body_rate, rate]
        groups = [{"params": group} for group in self._groups]
        self._optimizer = torch.optim.AdamW(groups, weight_decay=_WEIGHT_DECAY)

    def _make_replicas(self) -> Replicas:
        body, tokens = self.start.model.body, self._config.max_batch_tokens
        if self.start.model.device.type == "cpu" and self._num_threads > 1:
            return ProcessReplicas(
                body, self._num_threads, is_bfloat16=self._is_bfloat16, max_tokens=tokens
            )
        return LocalReplica(body, is_bfloat16=self._is_bfloat16, max_tokens=tokens)

    def train(self, resume_from_checkpoint: str | None = None) -> None:
        """Train to the end, or until the conductor stops.

        Args:
            resume_from_checkpoint: Folder of the checkpoint to go on from.
        """
        batch = self._batcher.batch(0)
        self._center(float(batch.cosines.mean()))
        if resume_from_checkpoint:
            self._resume(Path(resume_from_checkpoint))
            batch = self._batcher.batch(self.state.global_step)
        try:
            self._steps(batch)
        finally:
            self.replicas.close()

    def _center(self, cosine: float) -> None:
        """Set the cosine that adds nothing; heads from a folder have it in their bias."""
        start = self.start
        start.center = cosine
        if not start.is_new_head:
            with torch.no_grad():
                start.model.heads.bias[0] += start.model.similarity_weight * cosine

    def _steps(self, batch: Batch) -> None:
        model, control = self.start.model, self._control
        last = self._num_steps
        self._call("on_train_begin")
        while self.state.global_step < last and not control.should_training_stop:
            step = self.state.global_step
            for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
                group["lr"] = rate * self._conductor.rate(step)
            rows = torch.from_numpy(self.replicas.forward(batch.sequences)).to(model.device)
            rows.requires_grad_()
            losses = joint_losses(model, rows, batch, self._config, self.start.center)
            total = torch.stack(list(losses.values())).sum()
            self._optimizer.zero_grad()
            total.backward()  # type: ignore[no-untyped-call]
            assert rows.grad is not None
            self.replicas.start_backward(rows.grad.cpu().numpy())
            self._tally(batch)
            following = self._batcher.batch(step + 1) if step + 1 < last else batch
            self.replicas.finish_backward()
            for parameters in self._groups:
                nn.utils.clip_grad_norm_(parameters, 1.0)
            self._optimizer.step()
            self.state.global_step += 1
            named = {name: float(value.detach()) for name, value in losses.items()}
            self._call("on_log", logs={"loss": float(total.detach()), **named})
            control.should_save = False
            self._call("on_step_end")
            if control.should_save:
                self._save()
            batch = following
        self._call("on_train_end")

    def _call(self, name: str, **more: Any) -> None:
        getattr(self._conductor, name)(
            None, self.state, self._control, model=self.start.model, **more
        )

    def _tally(self, batch: Batch) -> None:
        self._journal.num_lists += len(batch.lists)
        self._journal.num_passages += len(batch.grades)
        self._journal.num_cross_language += sum(
            entry.query_language != entry.passage_language for entry in batch.lists
        )

    def _save(self) -> None:
        folder = self._folder / f"checkpoint-{self.state.global_step}"
        folder.mkdir(parents=True, exist_ok=True)
        write_state(self.start.model, folder / STATE_FILE)
        torch.save(self._optimizer.state_dict(), folder / OPTIMIZER_FILE)
        self._call("on_save")
        steps = sorted(
            int(path.name.rpartition("-")[2]) for path in self._folder.glob("checkpoint-*")
        )
        for step in steps[:-_KEPT_CHECKPOINTS]:
            shutil.rmtree(self._folder / f"checkpoint-{step}")

    def _resume(self, folder: Path) -> None:
        read_state(self.start.model, folder / STATE_FILE)
        self._optimizer.load_state_dict(torch.load(folder / OPTIMIZER_FILE, weights_only=True))
        self.state.global_step = int(folder.name.rpartition("-")[2])
