"""Check that no kernel object shares code with the rest of the binary.

An inline function or template that a kernel file emits is a weak symbol compiled with that
file's instructions. The linker keeps one copy of each for the whole binary, and if it keeps that
one, an older processor meets instructions that it lacks in code far from the kernels.

    python tests/native/check_symbols.py build/native
"""

import shutil
import subprocess
import sys
from pathlib import Path

# Weak, but data that is the same whatever the flags.
HARMLESS = ("DW.ref.__gxx_personality_v0",)
BASELINE = ("kernels_portable",)


def shared_symbols(path: Path) -> list[str]:
    """Return the weak and unique symbols that an object defines."""
    listing = subprocess.run(
        ["nm", "--demangle", "--defined-only", str(path)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    rows = [line.split(maxsplit=2) for line in listing.splitlines() if line]
    return [row[2] for row in rows if row[1] in "WVu" and row[2] not in HARMLESS]


def main() -> None:
    if shutil.which("nm") is None:
        sys.exit("nm is missing (Debian: apt-get install binutils)")
    paths = [
        path
        for path in sorted(Path(sys.argv[1]).rglob("kernels_*.o"))
        if not path.name.startswith(BASELINE)
    ]
    found = [f"  {path.name}: {name}" for path in paths for name in shared_symbols(path)]
    if found:
        sys.exit(
            "kernel files emit inline functions that the linker may keep for the whole binary; "
            "move them into anonymous namespaces:\n" + "\n".join(found)
        )
    sys.stdout.write(f"{len(paths)} kernel objects share no code with the rest\n")


if __name__ == "__main__":
    main()
