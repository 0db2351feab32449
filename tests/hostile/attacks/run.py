"""Loads folders one after another and tells how each ended: run as a process of its own.

Arguments: a JSON file of ``{name: folder}``. Standard output: a JSON object a line. Memory is
limited, so that a folder that gets past the checks ends this process and not the machine.
"""

import json
import resource
import sys
import time
from pathlib import Path

MAX_MEMORY = 2 << 30  # address space: the library alone maps half of it


def attempt(folder: Path) -> BaseException | None:
    """Load a checkpoint as far as its first score would; return what was raised."""
    from polyrank.config import EngineConfig
    from polyrank.inference.model import load_model

    try:
        model = load_model(folder, EngineConfig(num_threads=1))
        for task in model.spec.tasks:
            model.computations.head(task)
        assert model.engine
    except BaseException as exc:  # noqa: BLE001 - panics of Rust code are no Exception
        return exc
    return None


def main(listing: Path) -> None:
    """Load all folders. Times are of the processor: other work of the machine is not theirs."""
    import polyrank.encoder.native
    import polyrank.inference.model  # noqa: F401

    warm, *folders = json.loads(listing.read_text()).items()
    attempt(Path(warm[1]))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    for name, folder in folders:
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        error = attempt(Path(folder))
        told = {
            "name": name,
            "error": type(error).__name__,
            "classes": [cls.__name__ for cls in type(error).__mro__],
            "message": str(error),
            "seconds": time.process_time() - start,
            "more_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
        }
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
