"""`polyrank train pruning`: how many candidates vectors may drop before a reranker."""

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from polyrank.cli import screen
from polyrank.cli.config_file import read_settings, settings_options, split
from polyrank.cli.fields import settings_of, takes
from polyrank.cli.memory import row_cache_bytes
from polyrank.cli.progress import steps
from polyrank.cli.train.finetuning import sources
from polyrank.cli.train.options import DATA
from polyrank.search.settings import PruningConfig

COMMAND = "train pruning"


@dataclass(frozen=True, slots=True)
class PruningRun:
    """What a run is told beside its `PruningConfig`.

    Attributes:
        data: Training data, PATH or PATH:WEIGHT; may be given several times.
        reranker: Checkpoint whose first documents are to be handed on. Left out: the default
            model.
        embedder: Checkpoint whose vectors prune. Left out: the default model.
        threads: Threads. Left out: all that this process may use.
    """

    data: tuple[str, ...] = field(default=(), metadata=DATA)
    reranker: str | None = None
    embedder: str | None = None
    threads: int | None = None


KNOWN = settings_of(PruningRun, PruningConfig)
Output = Annotated[
    Path, typer.Option("--output", "-o", help="File to write, or folder for polyrank_pruning.json.")
]


@takes(
    *settings_options(
        KNOWN, ("data", "reranker", "embedder", "top_n", "probability", "confidence"), COMMAND
    )
)
def pruning(output: Output = Path("polyrank_pruning.json"), **options: Any) -> None:
    """Calibrate how many candidates vectors may drop before a reranker reads the rest.

    Questions of your data are compared with all passages of their source, by vectors and by the
    reranker. No judgement is used: the reranker's own first documents are what should be handed
    on. The threshold holds for questions like these with the probability that you name; it is
    checked on a quarter of them, which it has not seen. `polyrank.Search` takes the file.

    For example:

        polyrank train pruning -d qa
        polyrank train pruning -d qa --top-n 5 --probability 0.9 --output search/
    """
    from polyrank.inference.embedder import Embedder
    from polyrank.inference.reranker import Reranker
    from polyrank.search.calibrating import calibrate_on
    from polyrank.search.pruning import PRUNING_FILE
    from polyrank.training.data.reading import read_mixture

    quiet = options["quiet"]
    values = read_settings(KNOWN, options, COMMAND)
    (run,), (config,) = split(values, PruningRun), split(values, PruningConfig)
    path = output / PRUNING_FILE if output.is_dir() else output
    settings: dict[str, Any] = {
        "num_threads": run.threads,
        "compute_dtype": config.compute_dtype,
    }
    data = read_mixture(sources(run.data))
    reranker = Reranker(
        run.reranker, row_cache_bytes=row_cache_bytes(None), passages=None, **settings
    )
    with steps(quiet=quiet) as progress:
        found = calibrate_on(data, Embedder(run.embedder, **settings), reranker, config, progress)
    found.pruning.save(path)
    held = asdict(found.check) | {"share_kept": found.check.share_kept}
    if screen.is_table_wanted(False, None):
        sys.stdout.write(
            f"{found.pruning.guarantee}\nOn {found.check.num_questions:,} other questions they "
            f"were for {found.check.share_kept:.1%}, with {found.check.mean_share:.1%} of the "
            "candidates.\n"
        )
    else:
        record = asdict(found.pruning) | {"check": held}
        sys.stdout.write(json.dumps(record, ensure_ascii=False) + "\n")
    screen.remark(f"wrote {path}", quiet=quiet)
