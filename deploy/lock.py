"""Keep `requirements/ci.txt`: every release that CI installs, with its hashes.

It is for one platform, CPython 3.11 on x86-64 Linux. torch is left out: CI takes a build for the
CPU, whose hash depends on where it comes from. Without arguments: is every requirement of
pyproject.toml met by what is written down? `--write` writes it anew, `--fits` asks whether this
Python can use it (by the exit code).
"""

import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCK = Path("requirements/ci.txt")
EXTRA = "dev"
LEFT_OUT = "torch"
OPTIONS = (
    "--generate-hashes",
    "--strip-extras",
    "--no-annotate",
    "--no-header",
    "--no-emit-index-url",
    "--no-emit-trusted-host",
    "--no-emit-find-links",
    "--no-emit-build-options",
    "--no-emit-options",
    "--unsafe-package=torch",
)


def main() -> None:
    """Check the file; with `--write` make it first."""
    if "--write" in sys.argv:
        write()
    wanted = [line for line in read_requirements() if line.name != LEFT_OUT]
    unmet = [str(line) for line in wanted if not is_met(line)]
    if unmet:
        sys.exit(f"{LOCK} does not meet {', '.join(unmet)}: run make lock")


def write() -> None:
    """Write the file with pip-tools, and nothing about this machine into it."""
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "asked.in", Path(folder) / "answered.txt"
        # torch takes part in the choice, so that what it needs is written down too
        asked.write_text("".join(f"{line}\n" for line in read_requirements()))
        command = [sys.executable, "-m", "piptools", "compile", "--quiet", *OPTIONS]
        subprocess.run([*command, "--output-file", str(answered), str(asked)], check=True)
        lines = [line for line in answered.read_text().splitlines() if not line.startswith("#")]
    text = "\n".join(lines).strip() + "\n"
    assert not re.search(r"://|^ *-(?!-hash)|^/", text, re.MULTILINE), "a place got in"
    LOCK.write_text(text)


def read_requirements() -> Iterator[Requirement]:
    """Yield what the package and its extra for development ask of this platform."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    waiting = [*map(Requirement, project["dependencies"] + extras[EXTRA])]
    while waiting:
        wanted = waiting.pop()
        if canonicalize_name(wanted.name) == project["name"]:
            waiting += [Requirement(line) for name in wanted.extras for line in extras[name]]
        elif wanted.marker is None or wanted.marker.evaluate():
            yield wanted


def is_met(wanted: Requirement) -> bool:
    """Return whether the file names a release that a requirement allows.

    Args:
        wanted: The requirement.
    """
    pins = dict(re.findall(r"^([\w.-]+)==([^\s;\\]+)", LOCK.read_text(), re.MULTILINE))
    version = pins.get(canonicalize_name(wanted.name))
    return version is not None and wanted.specifier.contains(version, prereleases=True)


if __name__ == "__main__":
    main()
