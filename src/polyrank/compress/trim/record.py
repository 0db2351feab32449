"""What trimming did, as it is written beside the weights."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from polyrank._files import replacing
from polyrank.compress.trim.coverage import CoverageFigures, ScriptFigures

VERSION = 1
RECORD_FILE, PLOT_FILE = "polyrank_trim.json", "polyrank_trim.png"


@dataclass(frozen=True, slots=True)
class RankingFigures:
    """nDCG@10 of one language, or of all queries where the data names no languages.

    Attributes:
        num_queries: Queries measured.
        before: Mean over the queries with the whole vocabulary.
        after: The same with the trimmed one.
    """

    num_queries: int
    before: float
    after: float

    @property
    def change(self) -> float:
        """After less before."""
        return self.after - self.before


@dataclass(frozen=True, slots=True)
class CheckRecord:
    """Ranking before and after trimming.

    Attributes:
        dataset: Name of the evaluation set.
        tolerance: How much nDCG@10 of a language may fall.
        reasons: What was beyond it; empty where the trimmed checkpoint passed.
        tasks: Figures by task and language.
    """

    dataset: str
    tolerance: float
    reasons: tuple[str, ...]
    tasks: Mapping[str, Mapping[str, RankingFigures]]


@dataclass(frozen=True, slots=True)
class TrimRecord:
    """What trimming did to a checkpoint.

    Attributes:
        model: Name of the checkpoint before.
        created: Date, as in 2026-01-31.
        pieces: Pieces before.
        pieces_after: Pieces after.
        settings: How texts were read and pieces chosen.
        weights_bytes: Size of the weight files, before and after.
        tokenizer_bytes: Size of tokenizer.json, before and after.
        languages: Texts held out, before and after, by language.
        scripts: What is left of each script.
        check: Ranking before and after, where it was measured.
        version: Of this form.
    """

    model: str
    created: str
    pieces: int
    pieces_after: int
    settings: Mapping[str, Any]
    weights_bytes: tuple[int, int]
    tokenizer_bytes: tuple[int, int]
    languages: Mapping[str, CoverageFigures]
    scripts: Mapping[str, ScriptFigures]
    check: CheckRecord | None = None
    version: int = VERSION

    @property
    def passed(self) -> bool:
        """Whether no check spoke against it."""
        return self.check is None or not self.check.reasons

    def as_dict(self) -> dict[str, Any]:
        """Return the record as plain values."""
        return asdict(self) | {"passed": self.passed}


def write_trim_record(record: TrimRecord, path: Path) -> None:
    """Write a record as JSON.

    Args:
        record: The record.
        path: The file, which is replaced as a whole.
    """
    text = json.dumps(record.as_dict(), ensure_ascii=False, indent=1)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", "utf8")
