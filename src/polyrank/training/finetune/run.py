"""From a start checkpoint and data to a folder that polyrank and sentence-transformers run.

While a run goes on, its checkpoints lie in ``OUTPUT.checkpoints``; the output folder appears at
the end, whole. The folder of checkpoints is removed when the run is complete.
"""

import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from polyrank._extras import require
from polyrank._files import building, holding, publish, replacing
from polyrank.checkpoint.gate import fingerprint
from polyrank.checkpoint.hub import resolve_float
from polyrank.checkpoint.reader import Checkpoint, read_checkpoint
from polyrank.errors import ConfigError
from polyrank.inference.embedder import Embedder
from polyrank.inference.reranker import Reranker
from polyrank.progress import StepProgress, unheard
from polyrank.text.prompts import prompt_for_input_type
from polyrank.training.config import DataSource, TrainingConfig
from polyrank.training.data.negatives import Miner, make_miner
from polyrank.training.data.reading import read_mixture
from polyrank.training.data.sampling import Drawer, Teacher
from polyrank.training.data.schedule import Schedule, plan_draws
from polyrank.training.data.source import TrainingSource
from polyrank.training.finetune.journal import JOURNAL_FILE, Journal
from polyrank.training.finetune.monitor import Monitor, MonitorConfig, check_apart, make_monitor
from polyrank.training.record import (
    PLOT_FILE,
    RECORD_FILE,
    describe_course,
    describe_sources,
    settled,
    versions,
)
from polyrank.types import Float32Array

if TYPE_CHECKING:
    from polyrank.evaluation.retrievers import Retriever
    from polyrank.training.finetune.monitor import LiveModel

BM25 = "bm25"
RUN_FILE = "run.json"

_FREE = ("minutes", "evaluations", "save_minutes", "device")
"""Settings that may change between a run and its resumption."""


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """What to train on what, and where to put it.

    Attributes:
        model: Folder or Hub id of the start checkpoint; None takes the base model.
        data: Training data.
        output: Folder to make.
        config: The settings.
        monitor: What to measure on; None measures nothing.
        retriever: What finds documents in evaluation: "bm25", or an embedding checkpoint.
        use_miner: Whether to mine hard negatives.
        miner: Embedding checkpoint that mines them; None takes the default model.
        teacher: Checkpoint whose scores are targets.
        cache_dir: Where vectors of passages are kept; None keeps them in memory.
        resume: Whether to go on from the last checkpoint of an earlier run.
        revision: Branch, tag or commit of a Hub id of the start checkpoint.
        num_threads: Threads; None takes the libraries' defaults.
    """

    model: str | None
    data: tuple[DataSource, ...]
    output: Path
    config: TrainingConfig
    monitor: MonitorConfig | None = None
    retriever: str = BM25
    use_miner: bool = True
    miner: str | None = None
    teacher: str | None = None
    cache_dir: Path | None = None
    resume: bool = False
    revision: str | None = None
    num_threads: int | None = None

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints while the run goes on."""
        return self.output.with_name(f"{self.output.name}.checkpoints")


@dataclass(frozen=True, slots=True)
class TrainingOutcome:
    """What a run left.

    Attributes:
        folder: The output folder.
        record: Content of its training.json.
        is_complete: Whether the run came to its end; if not, it can be resumed.
    """

    folder: Path
    record: Mapping[str, Any]
    is_complete: bool


def train(job: TrainingJob, *, progress: StepProgress | None = None) -> TrainingOutcome:
    """Train a checkpoint.

    Args:
        job: What to train, on what, where to.
        progress: Called as work goes on.

    Returns:
        The folder and its record.

    Raises:
        ConfigError: If settings contradict each other, or the output exists.
        DataError: If data cannot be read or used.
        CheckpointError: If a checkpoint cannot be used.
        CapabilityError: If the start checkpoint or the teacher cannot do what is asked.
        TrainingError: If the loss stops being a number.
        MissingExtraError: If a library is missing.
    """
    begun = time.monotonic()
    require("train", purpose="polyrank train")
    _check(job)
    sources = read_mixture(job.data)
    schedule = plan_draws(sources, job.config)
    folder, name = resolve_float(job.model, revision=job.revision)
    checkpoint = read_checkpoint(folder, name)
    with _quiet_libraries(), _torch_threads(job.num_threads), ExitStack() as held:
        run = _Run(job, checkpoint, sources, schedule, progress or unheard, begun, held)
        return run.go()


def _check(job: TrainingJob) -> None:
    if not job.data:
        raise ConfigError("nothing to train on: name a file or folder with --data.")
    if job.monitor is not None:
        check_apart([source.path for source in job.data], job.monitor.path)
    if job.output.exists() and not (job.resume and _is_unfinished(job.output)):
        raise ConfigError(f"{job.output} exists already. Choose another --output, or remove it.")
    if _last_checkpoint(job.checkpoints) and not job.resume:
        raise ConfigError(
            f"{job.checkpoints} holds checkpoints of an earlier run. Go on with --resume, choose "
            "another --output, or remove the folder."
        )
    if job.resume and not (job.checkpoints / RUN_FILE).is_file():
        raise ConfigError(
            f"there is nothing to resume: no folder {job.checkpoints}. Leave --resume out, or "
            "name the --output of the earlier run."
        )


def _last_checkpoint(folder: Path) -> Path | None:
    """Return the last checkpoint that is whole."""
    found = [
        (int(path.parent.name.rpartition("-")[2]), path.parent)
        for path in folder.glob(f"checkpoint-*/{JOURNAL_FILE}")
    ]
    return max(found)[1] if found else None


def _is_unfinished(output: Path) -> bool:
    path = output / RECORD_FILE
    return path.is_file() and not json.loads(path.read_text("utf8")).get("is_complete", True)


class _Run:
    """A run whose settings are sound."""

    def __init__(
        self,
        job: TrainingJob,
        checkpoint: Checkpoint,
        sources: Sequence[TrainingSource],
        schedule: Schedule,
        progress: StepProgress,
        begun: float,
        held: ExitStack,
    ) -> None:
        from polyrank.training.finetune import trainers
        from polyrank.training.finetune.start import load_start

        self.job, self.checkpoint, self.config = job, checkpoint, job.config
        self.sources, self.schedule, self.progress = sources, schedule, progress
        self.monitor = _monitor(job)
        self.start = load_start(checkpoint, job.config, _device(job))
        drawer = Drawer(sources, schedule, job.config, miner=self._miner(), teacher=self._teacher())
        self.resumed = self._claim(held)
        self.journal = Journal.read(self.resumed) if self.resumed else Journal()
        self.compute_dtype = trainers.settle_compute_dtype(job.config, self.start.model.device.type)
        self.stop = trainers.StopRequest()
        self.max_steps = len(schedule) // job.config.lists_per_step
        conductor = trainers.Conductor(
            job.config,
            self.journal,
            job.checkpoints,
            max_steps=self.max_steps,
            measure=self._measure if self.monitor else None,
            begun=begun,
            stop=self.stop,
            report=self._report,
        )
        prompts = checkpoint.spec.prompts
        self.live: LiveModel = trainers.Live(
            self.start,
            {
                "query": prompt_for_input_type(prompts, "query"),
                "document": prompt_for_input_type(prompts, "document"),
            },
        )
        self.trainer = trainers.make_trainer(
            self.start,
            drawer,
            len(schedule),
            job.config,
            conductor,
            self.journal,
            job.checkpoints,
            trainers.column_prompts(prompts, sum(job.config.num_negatives)),
            self._embedder_teacher(),
        )

    def go(self) -> TrainingOutcome:
        """Train, keep the best, write the folder."""
        from polyrank.training.finetune.start import read_state
        from polyrank.training.finetune.trainers import BEST_FILE

        resumed = str(self.resumed) if self.resumed else None
        with self.stop.listening():
            self.trainer.train(resume_from_checkpoint=resumed)
        step = self.trainer.state.global_step
        is_complete = not self.stop.is_set or step >= self.max_steps
        best = self.job.checkpoints / BEST_FILE
        if best.is_file():
            read_state(self.start.model, best)
        record = self._record(step, is_complete=is_complete)
        self._publish(record)
        if is_complete:
            shutil.rmtree(self.job.checkpoints)
        return TrainingOutcome(self.job.output, record, is_complete)

    def _claim(self, held: ExitStack) -> Path | None:
        """Make the folder of checkpoints, or check it and return the last checkpoint."""
        folder = self.job.checkpoints
        facts = {
            "model": self.checkpoint.spec.name,
            "weights": fingerprint(self.checkpoint.weights.paths),
            "data": [source.sha256 for source in self.sources],
            "teacher": self.job.teacher,
            "miner": self.job.miner if self.job.use_miner else False,
            **{k: v for k, v in asdict(self.config).items() if k not in _FREE},
        }
        if not self.job.resume:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(holding(folder, folder))
            with replacing(folder / RUN_FILE) as path:
                path.write_text(json.dumps(facts, indent=1), "utf8")
            return None
        held.enter_context(holding(folder, folder))
        before = json.loads((folder / RUN_FILE).read_text("utf8"))
        changed = sorted(key for key in {*facts, *before} if facts.get(key) != before.get(key))
        if changed:
            raise ConfigError(
                "the run that is to be resumed had other settings: "
                + ", ".join(f"{k} {before.get(k)!r}, now {facts.get(k)!r}" for k in changed)
                + ". Give the same ones, or start anew with another --output."
            )
        return _last_checkpoint(folder)

    def _miner(self) -> Miner | None:
        if not self.job.use_miner or not self.config.num_negatives[1]:
            return None
        embedder = Embedder(self.job.miner, num_threads=self.job.num_threads)
        miner = make_miner(
            embedder,
            self.config,
            self.job.cache_dir,
            lambda done, total: self.progress("encoding passages", done, total),
        )
        for place in np.unique(self.schedule.source_of):
            for language in self.sources[place].by_language:
                miner.pool(self.sources[place], language)
        return miner

    def _embedder_teacher(self) -> Any:
        """Return the embedder whose rows are learnt, or None."""
        from polyrank.training.finetune.losses import VECTORS
        from polyrank.training.finetune.start import load_teacher

        if self.config.main_loss != VECTORS:
            return None
        if self.job.teacher is None:
            raise ConfigError('the loss "vectors" learns the rows of a --teacher: name one.')
        folder, name = resolve_float(self.job.teacher)
        return load_teacher(read_checkpoint(folder, name), self.checkpoint, self.start)

    def _teacher(self) -> Teacher | None:
        if self.job.teacher is None or self.config.main_loss == "vectors":
            return None
        if not self.config.needs_scores:
            raise ConfigError(
                f"--teacher is given, and the loss {self.config.main_loss!r} asks none. Choose "
                "the loss margin-mse or distill."
            )
        reranker = Reranker(self.job.teacher, num_threads=self.job.num_threads, passages=None)
        return _remembering(lambda pairs: reranker.score(pairs, logits=True))

    def _measure(self) -> Any:
        assert self.monitor is not None
        self.progress("evaluating", 0, 1)
        found = self.monitor.measure(self.live)
        self.progress("evaluating", 1, 1, f"{found.measure} {found.value:.4f}")
        return found

    def _report(self, share: float, step: int, loss: float | None) -> None:
        # under a limit of minutes, as many steps as they allow at the speed so far
        total = self.max_steps if self.config.minutes is None else round(step / max(share, 1e-9))
        note = "" if loss is None else f"loss {loss:.4f}"
        self.progress("training (steps)", step, max(step, min(total, self.max_steps)), note)

    def _record(self, step: int, *, is_complete: bool) -> dict[str, Any]:
        job, num_lists = self.job, step * self.config.lists_per_step
        drawn = np.bincount(self.schedule.source_of[:num_lists], minlength=len(self.sources))
        return {
            "task": self.config.task,
            "is_complete": is_complete,
            "start": self.checkpoint.spec.name,
            "start_sha256": fingerprint(self.checkpoint.weights.paths),
            "is_new_head": self.start.is_new_head,
            "num_trainable": self.start.num_trainable,
            "device": str(self.start.model.device),
            "compute_dtype": self.compute_dtype,
            "versions": versions(),
            "settings": settled(self.config),
            "teacher": job.teacher and Path(job.teacher).name,
            "miner": Path(job.miner or "default").name if job.use_miner else None,
            "evaluation": self.monitor and self.monitor.name,
            "data": describe_sources(self.sources, self.schedule.num_usable, drawn.tolist()),
            **describe_course(self.journal, step, self.config),
        }

    def _publish(self, record: Mapping[str, Any]) -> None:
        output = self.job.output
        with building(output) as folder:
            self.start.save(folder)
            with replacing(folder / RECORD_FILE) as path:
                path.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", "utf8")
            self._draw(folder / PLOT_FILE)
            mode = (folder / RECORD_FILE).stat().st_mode  # safetensors writes for the owner alone
            for path in folder.rglob("*.safetensors"):
                path.chmod(mode)
            publish(folder, output)  # in place of that of a run that was stopped and resumed

    def _draw(self, path: Path) -> None:
        from polyrank.training.finetune.plot import draw_training

        draw_training(self.journal, f"{self.job.output.name}: {self.config.task}", path)


def _monitor(job: TrainingJob) -> Monitor | None:
    if job.monitor is None:
        return None
    from polyrank.evaluation import Bm25Retriever, EmbeddingRetriever

    stage: Retriever[Any, Any] = Bm25Retriever()
    if job.retriever != BM25 and job.config.task != "embedder":
        stage = EmbeddingRetriever(Embedder(job.retriever, num_threads=job.num_threads))
    return make_monitor(job.monitor, job.config.task, stage)


def _device(job: TrainingJob) -> str:
    import torch

    has_gpu = torch.cuda.is_available()
    device = job.config.device or ("cuda" if has_gpu else "cpu")
    if device.startswith("cuda") and not has_gpu:
        raise ConfigError(f"device = {device!r}: PyTorch finds no GPU. Leave it out for cpu.")
    return device


def _remembering(score: Teacher) -> Teacher:
    """Return a teacher that scores no pair twice."""
    known: dict[tuple[str, str], float] = {}

    def remembered(pairs: Sequence[tuple[str, str]]) -> Float32Array:
        new = [pair for pair in dict.fromkeys(pairs) if pair not in known]
        if new:
            known.update(zip(new, score(new).tolist(), strict=True))
        return np.array([known[pair] for pair in pairs], np.float32)

    return remembered


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep the libraries' bars and load reports away: polyrank shows its own."""
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    had_bars = transformers_logging.is_progress_bar_enabled()
    logger = logging.getLogger("sentence_transformers")
    level = logger.level
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if had_bars:
            transformers_logging.enable_progress_bar()
        logger.setLevel(level)


@contextmanager
def _torch_threads(count: int | None) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
