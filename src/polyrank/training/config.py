"""The settings of a training run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from polyrank.errors import ConfigError

TrainTask = Literal["reranker", "classifier", "embedder"]
HeadChoice = Literal["auto", "mean", "cls", "transformers"]
TrainingDtype = Literal["auto", "float32", "bfloat16"]

RELEVANCE_LABELS = ("irrelevant", "neutral", "relevant")
"""Labels of the three-way task; a new head has them in this order, an old one may have another."""

LOSSES: Mapping[TrainTask, tuple[str, ...]] = {
    "reranker": ("listnet", "lambda", "bce", "margin-mse", "mse", "distill"),
    "classifier": ("cross-entropy",),
    "embedder": ("contrastive", "margin-mse", "distill", "vectors"),
}
"""Losses of each task, the default first."""

TEACHER_LOSSES = frozenset({"margin-mse", "mse", "distill"})
"""Losses whose targets are scores: a teacher's, or those that JSONL rows hold."""

_SECOND_LOSS: Mapping[TrainTask, str] = {"reranker": "bce", "embedder": "contrastive"}
_SECOND_WEIGHTS = {"listnet": 0.3, "lambda": 0.3}
_RATES: Mapping[TrainTask, float] = {
    "reranker": 5e-5,
    "classifier": 5e-5,
    "embedder": 3e-5,
}
_LORA_RATE = 3e-4
_BATCHES: Mapping[TrainTask, int] = {
    "reranker": 8,
    "classifier": 16,
    "embedder": 64,
}
_NEGATIVES: Mapping[TrainTask, tuple[int, int, int]] = {
    "reranker": (1, 2, 1),
    "classifier": (1, 1, 1),
    "embedder": (0, 1, 0),
}


@dataclass(frozen=True, slots=True)
class DataSource:
    """Training data to read and their share in the mixture.

    Attributes:
        path: File or folder.
        weight: Share of the lists, relative to the other sources; None goes by the number of
            examples.
    """

    path: Path
    weight: float | None = None

    @classmethod
    def parse(cls, text: str) -> "DataSource":
        """Read ``PATH`` or ``PATH:WEIGHT``; a path that exists is taken as it is.

        Args:
            text: What was typed.

        Returns:
            The source.

        Raises:
            ConfigError: If the weight is not above 0.
        """
        path, colon, weight = text.rpartition(":")
        if not colon or Path(text).exists():
            return cls(Path(text))
        try:
            value = float(weight)
        except ValueError:
            return cls(Path(text))
        if not 0 < value < float("inf"):
            raise ConfigError(f"the weight of {path} must be above 0, not {weight}")
        return cls(Path(path), value)


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """Settings of a run. None takes the default of the task, which the properties give.

    Attributes:
        task: What is trained.
        loss: What is minimised. A reranker's listnet and lambda look at whole lists, bce at each
            pair. An embedder's contrastive ranks each answer above all others of the batch.
            margin-mse and distill (a list's distribution), and mse for rerankers, learn a
            teacher's scores, or those of the rows. An embedder's vectors learns a teacher's rows:
            1 - cosine of the vectors and, on average, of the tokens' rows. Left out: listnet,
            contrastive, and a classifier's cross-entropy.
        second_weight: Weight of the second loss: BCE beside a reranker's, which makes scores
            comparable across queries (0.3 beside listnet and lambda), contrastive beside an
            embedder's margin-mse or distill. 0 leaves it out.
        teacher_scale: The teacher's raw values are multiplied by this; cosines need about 20.
        steps: Updates at most.
        epochs: Passes over the queries at most. Without any limit: one.
        minutes: Wall time at most, evaluations included.
        batch_size: Lists an update. Left out: 8 for a reranker, 16 for a classifier, 64 for an
            embedder; from 128 on, an embedder's contrastive loss keeps gradients instead of
            activations.
        max_batch_tokens: Tokens, padding included, in one forward pass of a cross-encoder.
        max_length: Tokens of a text or pair while training; the checkpoint keeps its own limit.
        learning_rate: Highest rate; it rises over the first tenth of the run, then falls to 0.
            Left out: 5e-5 for cross-encoders, 3e-5 for embedders, 3e-4 with low-rank adapters.
        head_learning_rate: Rate of a cross-encoder's head. Left out: 1e-3 for a new head, else
            the same as the body's.
        lora_rank: Rank of low-rank adapters, merged at the end; 0 trains the weights themselves.
        freeze_embeddings: Whether the embedding tables stay as they are: languages without
            training data keep theirs.
        compute_dtype: Type of the products while training; the weights stay float32. "auto" takes
            bfloat16 on GPUs that have it and on processors with AMX, where it is about twice as
            fast.
        dropout: Dropout while training, from 0 up to 1.
        head: What a new head reads, where the checkpoint has none for the task: auto is the
            checkpoint's own pooling; mean or cls; transformers makes the class for sequence
            classification, which transformers alone runs too.
        neutrals: Passages of the answer's own group in a list, at most.
        hard_negatives: Mined or given negatives in a list, at most.
        random_negatives: Random negatives in a list.
        mine_depth: Nearest passages that hard negatives are drawn from.
        mine_margin: A passage nearer to the query than this share of the answer's similarity
            counts as a false negative and is dropped.
        mine_pool: Passages of a source and language that are searched, a random sample.
        cross_language: Share of lists whose query and passages are in different languages,
            where the data allow both.
        mixed_languages: Share of lists whose negatives are in several languages, where passages
            have several.
        evaluations: Evaluations after the first, spread evenly over the run.
        save_minutes: Minutes between checkpoints, besides those at evaluations; 0 saves at
            evaluations alone.
        device: Where to train: cpu, or cuda. Left out: a GPU where there is one.
        seed: Of the draws, of new heads and of dropout.

    Raises:
        ConfigError: If a value is out of range or contradicts another.

    Reference: de Souza P. Moreira et al., arXiv:2407.15831 (false negatives by a share of the
    positive's similarity).
    """

    task: TrainTask
    loss: str | None = None
    second_weight: float | None = None
    teacher_scale: float = 1.0
    steps: int | None = None
    epochs: float | None = None
    minutes: float | None = None
    batch_size: int | None = None
    max_batch_tokens: int = 4096
    max_length: int = 192
    learning_rate: float | None = None
    head_learning_rate: float | None = None
    lora_rank: int = 0
    freeze_embeddings: bool = True
    compute_dtype: TrainingDtype = "auto"
    dropout: float = 0.0
    head: HeadChoice = "auto"
    neutrals: int | None = None
    hard_negatives: int | None = None
    random_negatives: int | None = None
    mine_depth: int = 50
    mine_margin: float = 0.95
    mine_pool: int = 5_000
    cross_language: float = 0.5
    mixed_languages: float = 0.0
    evaluations: int = 5
    save_minutes: float = 10.0
    device: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.task not in get_args(TrainTask):
            raise ConfigError(f"task must be one of {get_args(TrainTask)}, not {self.task!r}")
        if self.loss is not None and self.loss not in LOSSES[self.task]:
            raise ConfigError(
                f"a {self.task} cannot be trained with the loss {self.loss!r}. "
                f"Choose one of {', '.join(LOSSES[self.task])}."
            )
        for name, choices in (("head", HeadChoice), ("compute_dtype", TrainingDtype)):
            value = getattr(self, name)
            if value not in get_args(choices):
                raise ConfigError(f"{name} must be one of {get_args(choices)}, not {value!r}")
        self._check_ranges()
        if not sum(self.num_negatives):
            raise ConfigError(
                "a list needs a negative: neutrals, hard_negatives and random_negatives are all 0"
            )
        if self.second_weight and (self.second_loss in (None, self.main_loss)):
            raise ConfigError(f"the loss {self.main_loss!r} has no second loss to weigh")

    def _check_ranges(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and not least <= value < float("inf"):
                raise ConfigError(f"{name} must be {least} or more, not {value}")
        for name in ("steps", "epochs", "minutes", "learning_rate", "head_learning_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"{name} must be above 0, not {value}")
        for name in ("cross_language", "mixed_languages", "mine_margin"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be from 0 to 1, not {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be from 0 up to 1, not {self.dropout}")

    @property
    def main_loss(self) -> str:
        """The loss, settled."""
        return self.loss or LOSSES[self.task][0]

    @property
    def second_loss(self) -> str | None:
        """What may be added to the loss."""
        return _SECOND_LOSS.get(self.task)

    @property
    def losses(self) -> Mapping[str, float]:
        """Weight of each loss by its name, the main one first."""
        weights = {self.main_loss: 1.0}
        second = self.second_weight
        if second is None:
            second = _SECOND_WEIGHTS.get(self.main_loss, 0.0)
        if second and self.second_loss:
            weights[self.second_loss] = second
        return weights

    @property
    def needs_scores(self) -> bool:
        """Whether the targets are a teacher's scores."""
        return self.main_loss in TEACHER_LOSSES

    @property
    def has_classes(self) -> bool:
        """Whether lists must tell neutral passages from irrelevant ones."""
        return self.task == "classifier"

    @property
    def num_negatives(self) -> tuple[int, int, int]:
        """Neutrals, hard and random negatives of a list."""
        given = (self.neutrals, self.hard_negatives, self.random_negatives)
        own = zip(given, _NEGATIVES[self.task], strict=True)
        neutrals, hard, random = (default if value is None else value for value, default in own)
        return neutrals, hard, random

    @property
    def lists_per_step(self) -> int:
        """Lists an update."""
        return self.batch_size or _BATCHES[self.task]

    @property
    def settled(self) -> Mapping[str, object]:
        """What the task takes for settings that are None."""
        neutrals, hard, random = self.num_negatives
        return {
            "loss": self.main_loss,
            "batch_size": self.lists_per_step,
            "learning_rate": self.body_rate,
            "neutrals": neutrals,
            "hard_negatives": hard,
            "random_negatives": random,
        }

    @property
    def body_rate(self) -> float:
        """Highest learning rate of the body."""
        return self.learning_rate or (_LORA_RATE if self.lora_rank else _RATES[self.task])


_LEAST: Mapping[str, float] = {
    "batch_size": 1,
    "max_batch_tokens": 1,
    "max_length": 8,
    "lora_rank": 0,
    "neutrals": 0,
    "hard_negatives": 0,
    "random_negatives": 0,
    "mine_depth": 1,
    "mine_pool": 2,
    "second_weight": 0,
    "evaluations": 1,
    "save_minutes": 0,
    "seed": 0,
}
