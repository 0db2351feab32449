"""sentence-transformers' trainers with our lists, schedule, checkpoints and evaluation."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import CrossEncoderTrainer, SentenceTransformerTrainer
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.cross_encoder.data_collator import CrossEncoderDataCollator
from sentence_transformers.cross_encoder.training_args import CrossEncoderTrainingArguments
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
from sentence_transformers.sentence_transformer.training_args import (
    SentenceTransformerTrainingArguments,
)
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, TrainerCallback

from polyrank.errors import TrainingError
from polyrank.tasks.heads import softmax
from polyrank.text.prompts import prompt_for_input_type
from polyrank.training.config import TrainingConfig
from polyrank.training.data.sampling import RELEVANT, Drawer, RankedList
from polyrank.training.finetune.journal import Journal
from polyrank.training.finetune.losses import PairLoss, embedder_loss
from polyrank.training.finetune.monitor import Measurement
from polyrank.training.finetune.start import STATE_FILE, Start, read_state, write_state
from polyrank.types import Float32Array, InputType

BEST_FILE = "best.safetensors"

_WARM_UP = 0.1
_NEW_HEAD_RATE = 1e-3
_HEAD = r"^(?!.*\.(embeddings|encoder)\.)"
_EVALUATION_BATCH = 32


class TrainingReport(Protocol):
    """Told how far the training is."""

    def __call__(self, share: float, step: int, loss: float | None) -> None:
        """Take the share done, from 0 to 1, the step and the last loss."""
        ...


class StopRequest:
    """Whether somebody pressed Ctrl-C; a second press stops at once."""

    def __init__(self) -> None:
        self.is_set = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen for SIGINT, if this is the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGINT, self._handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self.is_set:
            raise KeyboardInterrupt
        self.is_set = True


class Conductor(TrainerCallback):
    """Decides when to evaluate, to save and to end, and keeps the journal."""

    def __init__(
        self,
        config: TrainingConfig,
        journal: Journal,
        folder: Path,
        *,
        max_steps: int,
        measure: Callable[[], Measurement] | None,
        begun: float,
        stop: StopRequest,
        report: TrainingReport | None = None,
    ) -> None:
        """Make a conductor.

        Args:
            config: The settings.
            journal: Taken over from the checkpoint when a run is resumed.
            folder: Where checkpoints are.
            max_steps: Steps at most.
            measure: Evaluates the model as it is.
            begun: `time.monotonic()` when this run began.
            stop: Set when the run is to end early.
            report: Told how far the training is.
        """
        self._config, self._journal, self._folder = config, journal, folder
        self._max_steps, self._measure = max_steps, measure
        self._earlier_s, self._begun = journal.elapsed_s, begun
        self._stop, self._report = stop, report
        self._saved_s = self._elapsed()
        self._evaluation_s = 0.0

    def share(self, step: int) -> float:
        """Return how much of the run is done after some steps, from 0 to 1."""
        by_steps = step / self._max_steps
        if self._config.minutes is None or self._journal.trained_from_s is None:
            return min(1.0, by_steps)
        # the last evaluation comes after the last step
        whole = self._config.minutes * 60 - self._evaluation_s - self._journal.trained_from_s
        spent = self._elapsed() - self._journal.trained_from_s
        return min(1.0, max(by_steps, spent / whole if whole > 0 else 1.0))

    def rate(self, step: int) -> float:
        """Return the factor of the learning rate: up over the warm-up, then down to 0."""
        share = self.share(step)
        if self._config.minutes is None:  # so that the first step learns something
            share = (step + 1) / (self._max_steps + 1)
        return share / _WARM_UP if share < _WARM_UP else (1 - share) / (1 - _WARM_UP)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Evaluate before the first step."""
        del args, control
        if state.global_step == 0:
            self._evaluate(state, kwargs["model"])
        if self._journal.trained_from_s is None:
            self._journal.trained_from_s = self._elapsed()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Evaluate, save or end where it is time."""
        del args
        share = self.share(state.global_step)
        is_over = share >= 1 or self._stop.is_set
        marks = self._config.evaluations
        is_marked = share * marks >= self._journal.num_marks + 1
        if is_over:
            control.should_training_stop = True
        elif is_marked:
            self._journal.num_marks = int(share * marks)
            self._evaluate(state, kwargs["model"])
        if is_over or is_marked or self._elapsed() - self._saved_s > self._save_every_s:
            control.should_save = True
        if self._report is not None:
            losses = self._journal.losses
            self._report(share, state.global_step, losses[-1]["loss"] if losses else None)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, float], **_: Any
    ) -> None:
        """Note the loss."""
        del args, control
        if "loss" not in logs:
            return
        if not isfinite(logs["loss"]):
            raise TrainingError(
                f"the loss is {logs['loss']} at step {state.global_step}. Lower "
                f"--learning-rate (it is {self._config.body_rate:g}); --resume goes on from the "
                "last checkpoint only with the same settings, so start again without it."
            )
        kept = {name: logs[name] for name in ("loss", *self._config.losses) if name in logs}
        self._journal.losses.append({"step": state.global_step, **kept})

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Complete the checkpoint with the journal: without one it does not count."""
        del args, control
        self._saved_s = self._journal.elapsed_s = self._elapsed()
        self._journal.write(self._folder / f"checkpoint-{state.global_step}")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Evaluate what the last step left, unless somebody waits."""
        del args, control
        entries = self._journal.evaluations
        is_measured = bool(entries) and entries[-1]["step"] == state.global_step
        if not self._stop.is_set and not is_measured:
            self._evaluate(state, kwargs["model"])
        self._journal.elapsed_s = self._elapsed()

    @property
    def _save_every_s(self) -> float:
        return self._config.save_minutes * 60 or float("inf")

    def _elapsed(self) -> float:
        return self._earlier_s + time.monotonic() - self._begun

    def _evaluate(self, state: Any, model: nn.Module) -> None:
        if self._measure is None:
            return
        start = time.monotonic()
        found = self._measure()
        self._evaluation_s = time.monotonic() - start
        self._journal.elapsed_s = self._elapsed()
        if self._journal.add_measurement(state.global_step, found):
            write_state(model, self._folder / BEST_FILE)


class _Tallied:
    """Draws lists for a collator and counts them."""

    def __init__(self, drawer: Drawer, journal: Journal) -> None:
        self._drawer, self._journal = drawer, journal

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> list[RankedList]:
        lists = self._drawer.draw([int(row["draw"]) for row in features])
        self._journal.num_lists += len(lists)
        self._journal.num_passages += sum(len(entry.passages) for entry in lists)
        self._journal.num_cross_language += sum(
            entry.query_language != entry.passage_language for entry in lists
        )
        return lists


class _PairCollator(CrossEncoderDataCollator):
    tallied: _Tallied

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        return super().__call__([_pair_row(entry) for entry in self.tallied(features)])


def _pair_row(entry: RankedList) -> dict[str, Any]:
    targets = [[float(g), s] for g, s in zip(entry.grades, entry.scores, strict=True)]
    return {"query": entry.query, "passages": list(entry.passages), "labels": targets}


class _VectorCollator(SentenceTransformerDataCollator):
    tallied: _Tallied
    num_negatives: int
    has_scores: bool

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        lists = self.tallied(features)
        return super().__call__([self._row(entry) for entry in lists])

    def _row(self, entry: RankedList) -> dict[str, Any]:
        """One column for each passage; a short list repeats its negatives."""
        assert entry.grades[0] == RELEVANT
        others = list(range(1, len(entry.passages)))
        if not others:
            raise TrainingError(
                f"no negative was found for the query {entry.query[:60]!r}. Add passages to the "
                "data, or queries with negatives."
            )
        rows = [others[i % len(others)] for i in range(self.num_negatives)]
        row: dict[str, Any] = {"query": entry.query, "positive": entry.passages[0]}
        row |= {f"negative_{i}": entry.passages[place] for i, place in enumerate(rows)}
        if self.has_scores:
            row["labels"] = [entry.scores[place] for place in (0, *rows)]
        return row


class _Ours:
    """What both trainers do our way; stands before the library's class."""

    conductor: Conductor
    lr_scheduler: Any
    optimizer: Any
    model: Any

    def add_model_card_callback(self, default_args_dict: Mapping[str, Any]) -> None:
        """Leave model cards alone: they would read the data a second time."""

    def get_batch_sampler(
        self, dataset: Dataset, batch_size: int, drop_last: bool, **_: Any
    ) -> DefaultBatchSampler:
        """Keep the order of the schedule."""
        sampler = SequentialSampler(dataset)
        return DefaultBatchSampler(sampler, batch_size=batch_size, drop_last=drop_last)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """Let the conductor set the rate, which may go by the clock."""
        del num_training_steps
        if self.lr_scheduler is None:
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, self.conductor.rate)
        return self.lr_scheduler

    def _save(self, output_dir: str, state_dict: Any = None) -> None:
        del state_dict
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        write_state(self.model, Path(output_dir) / STATE_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        del model
        read_state(self.model, Path(resume_from_checkpoint) / STATE_FILE)


class _PairTrainer(_Ours, CrossEncoderTrainer):
    pass


class _VectorTrainer(_Ours, SentenceTransformerTrainer):
    pass


def make_trainer(
    start: Start,
    drawer: Drawer,
    num_draws: int,
    config: TrainingConfig,
    conductor: Conductor,
    journal: Journal,
    folder: Path,
    prompts: Mapping[str, str],
    teacher: Any = None,
) -> Any:
    """Return a trainer for a start checkpoint.

    Args:
        start: The model.
        drawer: Gives the lists.
        num_draws: Lists in the schedule.
        config: The settings.
        conductor: The callback that steers.
        journal: Where lists are counted.
        folder: Where checkpoints go.
        prompts: Text before each column's texts (embedders).
        teacher: A sentence transformer whose rows are learnt (the loss "vectors"), or None.

    Returns:
        The trainer; its `train` starts or resumes.
    """
    tallied = _Tallied(drawer, journal)
    arguments = _arguments(start, num_draws, config, folder)
    common = {"model": start.model, "train_dataset": Dataset.from_dict({"draw": range(num_draws)})}
    trainer: Any
    if config.task == "embedder":
        vectors = _VectorCollator(start.model.preprocess, prompts=dict(prompts))
        vectors.tallied, vectors.num_negatives = tallied, sum(config.num_negatives)
        vectors.has_scores = config.needs_scores
        trainer = _VectorTrainer(
            **common,
            args=SentenceTransformerTrainingArguments(**arguments),
            loss=embedder_loss(start.model, config, teacher),
            data_collator=vectors,
        )
    else:
        pairs = _PairCollator(start.model.preprocess)
        pairs.tallied = tallied
        trainer = _PairTrainer(
            **common,
            args=CrossEncoderTrainingArguments(**arguments),
            loss=PairLoss(start.model, config, start.classes),
            data_collator=pairs,
        )
    trainer.conductor = conductor
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(conductor)
    return trainer


def _arguments(
    start: Start, num_draws: int, config: TrainingConfig, folder: Path
) -> dict[str, Any]:
    is_gpu = start.model.device.type == "cuda"
    rates = {}
    if config.task != "embedder":
        own = _NEW_HEAD_RATE if start.is_new_head else config.body_rate
        rates[_HEAD] = config.head_learning_rate or own
    return {
        "output_dir": str(folder),
        "max_steps": num_draws // config.lists_per_step,
        "per_device_train_batch_size": config.lists_per_step,
        "learning_rate": config.body_rate,
        "learning_rate_mapping": rates,
        "weight_decay": 0.01,
        "bf16": settle_compute_dtype(config, start.model.device.type) == "bfloat16",
        "use_cpu": start.model.device.type == "cpu",
        "seed": config.seed,
        "eval_strategy": "no",
        "save_strategy": "no",
        "save_total_limit": 2,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_drop_last": True,
        "dataloader_pin_memory": is_gpu,
    }


def settle_compute_dtype(config: TrainingConfig, device_type: str) -> str:
    """Return the type of the products while training, "float32" or "bfloat16"."""
    if config.compute_dtype != "auto":
        return config.compute_dtype
    if device_type == "cuda":
        is_quicker = torch.cuda.is_bf16_supported()
    else:
        # of PyTorch 2.13; older ones do not tell
        tell: Callable[[], Mapping[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
        is_quicker = device_type == "cpu" and bool(tell().get("amx_bf16"))
    return "bfloat16" if is_quicker else "float32"


class Live:
    """A model in training, as evaluation sees it; implements `LiveModel`."""

    def __init__(self, start: Start, prompts: Mapping[InputType, str]) -> None:
        self._start, self._prompts = start, prompts

    def encode(self, texts: Sequence[str], *, input_type: InputType) -> Float32Array:
        """Return vectors of unit length, shape (num_texts, dim)."""
        return self._start.model.encode(
            list(texts),
            prompt=self._prompts[input_type],
            normalize_embeddings=True,
            batch_size=_EVALUATION_BATCH,
            show_progress_bar=False,
        )

    def score(self, pairs: Sequence[tuple[str, str]]) -> Float32Array:
        """Return logits; a classifier's are the log-odds of relevant, shape (num_pairs,)."""
        logits = self._logits(pairs)
        if logits.shape[1] == 1:
            return logits[:, 0]
        place = self._start.classes[RELEVANT]
        others = np.delete(logits, place, axis=1)
        return logits[:, place] - np.logaddexp.reduce(others, axis=1)

    def probabilities(self, pairs: Sequence[tuple[str, str]]) -> Float32Array:
        """Return shape (num_pairs, 3), columns as in `RELEVANCE_LABELS`."""
        return softmax(self._logits(pairs))[:, list(self._start.classes)]

    def _logits(self, pairs: Sequence[tuple[str, str]]) -> Float32Array:
        found = self._start.model.predict(
            list(pairs),
            activation_fn=nn.Identity(),
            batch_size=_EVALUATION_BATCH,
            show_progress_bar=False,
        )
        return np.asarray(found, np.float32).reshape(len(pairs), -1)


def column_prompts(spec_prompts: Any, num_negatives: int) -> dict[str, str]:
    """Return the prompt of each column of an embedder's data.

    Args:
        spec_prompts: The checkpoint's prompts.
        num_negatives: Columns of negatives.

    Returns:
        Prompts by column, those that are empty left out.
    """
    document = prompt_for_input_type(spec_prompts, "document")
    columns = {"query": prompt_for_input_type(spec_prompts, "query"), "positive": document}
    columns |= {f"negative_{i}": document for i in range(num_negatives)}
    return {column: prompt for column, prompt in columns.items() if prompt}
