"""Settings of the training of late interaction."""

import math
from dataclasses import dataclass
from pathlib import Path

from polyrank.errors import ConfigError
from polyrank.training.config import DataSource, TrainingConfig
from polyrank.types import ComputeDtype

PREFIX = "heads.late_interaction"


@dataclass(frozen=True, slots=True)
class LateInteractionConfig:
    """Settings of a run.

    Attributes:
        lists: Queries with their passages to learn from.
        directions: Directions in which languages differ that are taken out of token rows: more
            help pools of several languages, fewer the single ones; 0 leaves them in.
        length_weight: What a document's match loses for each unit of the natural logarithm of its
            length: among more tokens a good match is easier to find. Not learnt, since lists of
            training have lengths of their own.
        epochs: Passes over the lists.
        batch_size: Lists an update.
        max_length: Tokens of a text that are read while training.
        neutrals: Passages of the answer's own group in a list, at most.
        hard_negatives: Mined or given negatives in a list, at most.
        random_negatives: Random negatives in a list.
        mine_pool: Passages of a source and language that are searched, a random sample.
        cross_language: Share of lists whose query and passages are in different languages.
        mixed_languages: Share of lists whose negatives are in several languages.
        shortened: Share of lists that come a second time, with each passage cut to the sentences
            that fit the query best, so that short texts are judged well too.
        compute_dtype: Type of the body's products: int8 fits the head to the rows that the
            quantised model will have.
        seed: Of the draws and of the first weights.

    Raises:
        ConfigError: If a value is out of range.
    """

    lists: int = 24_000
    directions: int = 24
    length_weight: float = 0.008
    epochs: int = 5
    batch_size: int = 64
    max_length: int = 192
    neutrals: int = 2
    hard_negatives: int = 4
    random_negatives: int = 2
    mine_pool: int = 1_500
    cross_language: float = 0.5
    mixed_languages: float = 0.5
    shortened: float = 0.25
    compute_dtype: ComputeDtype = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("lists", 1), ("directions", 0), ("epochs", 1), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be {least} or more, not {getattr(self, name)}")
        if not 0 <= self.length_weight < math.inf:
            raise ConfigError(f"length_weight must be 0 or more, not {self.length_weight}")
        if not 0 <= self.shortened <= 1:
            raise ConfigError(f"shortened must be between 0 and 1, not {self.shortened}")
        _ = self.drawing  # checks the rest

    @property
    def drawing(self) -> TrainingConfig:
        """How lists are drawn."""
        return TrainingConfig(
            "classifier",
            steps=self.lists,
            batch_size=1,
            max_length=self.max_length,
            neutrals=self.neutrals,
            hard_negatives=self.hard_negatives,
            random_negatives=self.random_negatives,
            mine_pool=self.mine_pool,
            cross_language=self.cross_language,
            mixed_languages=self.mixed_languages,
            seed=self.seed,
        )


@dataclass(frozen=True, slots=True)
class LateInteractionJob:
    """What to train on what, and where to put it.

    Attributes:
        model: Folder or Hub id of an embedding checkpoint with float weights; None takes the
            base model.
        data: Training data.
        output: Folder to make.
        config: The settings.
        miner: Embedding checkpoint that mines hard negatives; None takes the default model.
        cache_dir: Where the miner's vectors are kept; None keeps them in memory.
        num_threads: Threads; None takes what this process may use.
    """

    model: str | None
    data: tuple[DataSource, ...]
    output: Path
    config: LateInteractionConfig
    miner: str | None = None
    cache_dir: Path | None = None
    num_threads: int | None = None
