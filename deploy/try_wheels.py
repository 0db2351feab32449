"""Install the built wheels where there is no compiler, and run the first command of the README.

For each Python of this machine that a wheel in `dist` is made for: a new environment, a search path
that holds this environment alone, wheels only, and `tests/native/smoke_wheel.py`.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pythons import Python, find_pythons

DIST = Path("dist")
TEST = Path("tests/native/smoke_wheel.py")
COMPILERS = ("cc", "c++", "gcc", "g++", "clang", "clang++", "cmake", "ninja", "make")
# what a network behind a proxy or a package index of one's own needs
KEPT = ("HOME", "LANG", "SSL_CERT_FILE", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")


def main() -> None:
    """Try every wheel on every Python that it is for."""
    wheels = sorted(DIST.glob("polyrank-*.whl"))
    pairs = [
        (wheel, python) for python in find_pythons() for wheel in wheels if fits(wheel, python)
    ]
    if not pairs:
        sys.exit("dist holds no wheel for a Python of this machine: make wheels")
    for wheel, python in pairs:
        try_wheel(wheel, python)


def fits(wheel: Path, python: Python) -> bool:
    """Return whether a wheel is made for a Python.

    Args:
        wheel: The wheel, its name as the standard says.
        python: The Python.
    """
    tags = re.search(r"-cp3(\d+)-(cp3\d+|abi3)-", wheel.name)
    if tags is None:
        return False
    wanted = (3, int(tags[1]))
    return python.version >= wanted if tags[2] == "abi3" else python.version == wanted


def try_wheel(wheel: Path, python: Python) -> None:
    """Install a wheel into a new environment without a compiler and use it.

    Args:
        wheel: The wheel.
        python: The Python to make the environment with.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder) / "environment"
        subprocess.run([python.path, "-m", "venv", environment], check=True)
        search_path = str(environment / "bin")
        found = [name for name in COMPILERS if shutil.which(name, path=search_path)]
        assert not found, found
        kept = {k: v for k, v in os.environ.items() if k in KEPT or k.startswith("PIP_")}
        settings = {**kept, "PATH": search_path}
        pip = [str(environment / "bin/python"), "-m", "pip", "--quiet", "install"]
        subprocess.run(
            [*pip, "--only-binary", ":all:", wheel.resolve()], check=True, env=settings, cwd=folder
        )
        installed = time.monotonic()
        subprocess.run(
            [environment / "bin/python", TEST.resolve()], check=True, env=settings, cwd=folder
        )
    sys.stdout.write(
        f"{wheel.name} on Python {python.name}, no compiler: installed in "
        f"{installed - began:.0f} s, all done in {time.monotonic() - began:.0f} s\n"
    )


if __name__ == "__main__":
    main()
