"""The Pythons of this machine, wherever they were put."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# asked of each candidate; headers and venv are packages of their own on Debian
_QUESTION = """
import importlib.util, json, os, sys, sysconfig
print(json.dumps({
    "version": sys.version_info[:2],
    "path": os.path.realpath(sys.executable),
    "can_build": os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")),
    "can_make_environments": importlib.util.find_spec("ensurepip") is not None,
    "is_plain": sys.implementation.name == "cpython"
    and not sysconfig.get_config_var("Py_GIL_DISABLED"),
}))
"""
_MINORS = range(11, 21)  # 3.11 is the oldest that polyrank runs on
_INSTALLERS = (
    ".pyenv/versions",
    ".local/share/uv/python",
    "miniconda3/envs",
    ".asdf/installs/python",
)


@dataclass(frozen=True)
class Python:
    """One interpreter.

    Attributes:
        version: Major and minor version.
        path: The executable, links resolved.
        can_build: Whether its C headers are there.
    """

    version: tuple[int, int]
    path: Path
    can_build: bool

    @property
    def name(self) -> str:
        """Version as people write it, such as ``3.12``."""
        return "{}.{}".format(*self.version)


def find_pythons() -> list[Python]:
    """Return one CPython of each version from 3.11 on, oldest first; those with headers win."""
    found: dict[tuple[int, int], Python] = {}
    for candidate in _candidates():
        python = _ask(candidate)
        if python is None:
            continue
        known = found.get(python.version)
        if known is None or (python.can_build and not known.can_build):
            found[python.version] = python
    return [found[version] for version in sorted(found)]


def _candidates() -> Iterator[str]:
    for minor in _MINORS:
        found = shutil.which(f"python3.{minor}")
        if found is not None:
            yield found
    for folder in _INSTALLERS:
        for path in sorted(Path.home().glob(f"{folder}/*/bin/python3"), reverse=True):
            yield str(path)


def _ask(candidate: str) -> Python | None:
    """Return what a candidate says of itself, None where it does not run or is too old."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    try:
        answer = subprocess.run(
            [candidate, "-c", _QUESTION],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
            env=environment,
        ).stdout
        said = json.loads(answer)
    except (OSError, subprocess.SubprocessError, ValueError):  # such as a shim of pyenv's
        return None
    version = (int(said["version"][0]), int(said["version"][1]))
    if not (said["is_plain"] and said["can_make_environments"] and version >= (3, _MINORS[0])):
        return None
    return Python(version, Path(said["path"]), bool(said["can_build"]))
