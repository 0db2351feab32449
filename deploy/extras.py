"""Refuse a misspelt extra before anything is downloaded, which pip would only warn of."""

import sys
from importlib.metadata import metadata
from importlib.util import find_spec

WITH_TORCH = {"torch", "train", "test", "dev"}
CPU_BUILD = "python -m pip install torch --index-url https://download.pytorch.org/whl/cpu"


def main() -> None:
    """Check the extras of the first argument, names parted by commas."""
    wanted = [name.strip() for name in sys.argv[1].split(",") if name.strip()]
    known = metadata("polyrank").get_all("Provides-Extra") or []
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        sys.exit(f"no extra {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    if WITH_TORCH & set(wanted) and sys.platform == "linux" and find_spec("torch") is None:
        print(
            "On Linux pip takes the torch that brings CUDA: gigabytes. For the CPU alone stop "
            f"here, run\n  {sys.prefix}/bin/{CPU_BUILD}\nand then this again.",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
