"""What happened in a run: losses, measurements, time; kept with each checkpoint."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from polyrank._files import replacing
from polyrank.errors import CheckpointError
from polyrank.training.finetune.monitor import Measurement

JOURNAL_FILE = "journal.json"
MOST_POINTS = 200


@dataclass
class Journal:
    """The course of a run.

    Attributes:
        losses: Step, loss, and each weighted part by name.
        evaluations: Step, seconds since the start, and a `Measurement`'s fields.
        elapsed_s: Seconds spent, runs before a resumption included.
        trained_from_s: Second at which the first step began.
        num_marks: Evaluations due so far.
        num_lists: Lists trained on.
        num_cross_language: Those with query and answer in different languages.
        num_passages: Passages in the lists.
    """

    losses: list[dict[str, float]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    elapsed_s: float = 0.0
    trained_from_s: float | None = None
    num_marks: int = 0
    num_lists: int = 0
    num_cross_language: int = 0
    num_passages: int = 0

    @property
    def best(self) -> dict[str, Any] | None:
        """The evaluation with the highest value, the earliest of equal ones."""
        return max(self.evaluations, key=lambda entry: entry["value"], default=None)

    def add_measurement(self, step: int, found: Measurement) -> bool:
        """Note an evaluation; return whether it is the best so far."""
        before = self.best
        self.evaluations.append(
            {"step": step, "seconds": round(self.elapsed_s, 1), **asdict(found)}
        )
        return before is None or found.value > before["value"]

    def mean_losses(self) -> list[dict[str, float]]:
        """Return the losses in at most `MOST_POINTS` means of neighbours."""
        size = -(-len(self.losses) // MOST_POINTS) or 1
        means = []
        for start in range(0, len(self.losses), size):
            part = self.losses[start : start + size]
            names = [name for name in part[0] if name != "step"]
            mean = {name: sum(p.get(name, 0.0) for p in part) / len(part) for name in names}
            means.append({"step": part[-1]["step"], **mean})
        return means

    def write(self, folder: Path) -> None:
        """Write the journal into a folder."""
        with replacing(folder / JOURNAL_FILE) as path:
            path.write_text(json.dumps(asdict(self)), "utf8")

    @classmethod
    def read(cls, folder: Path) -> "Journal":
        """Read the journal of a folder.

        Args:
            folder: A checkpoint's folder.

        Returns:
            The journal.

        Raises:
            CheckpointError: If it is broken.
        """
        path = folder / JOURNAL_FILE
        try:
            return cls(**json.loads(path.read_text("utf8")))
        except (OSError, ValueError, TypeError) as exc:
            raise CheckpointError(
                f"{path} cannot be read: {exc}. Remove its folder to resume from the one before."
            ) from exc
