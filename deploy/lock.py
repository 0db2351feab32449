"""Write `dist/requirements.lock`: what an installed polyrank[server] consists of, with hashes.

It is made for a release, by the Python and for the platform that run this, and holds no place that
a package came from. `pip install --require-hashes -r` takes it.
"""

import re
import subprocess
import sys
from pathlib import Path

LOCK = Path("dist/requirements.lock")
EXTRA = "server"
OPTIONS = (
    "--generate-hashes",
    "--strip-extras",
    "--no-annotate",
    "--no-header",
    "--no-emit-index-url",
    "--no-emit-trusted-host",
    "--no-emit-find-links",
    "--no-emit-options",
)


def main() -> None:
    """Write the file with pip-tools."""
    LOCK.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "piptools", "compile", "--quiet", "--upgrade", *OPTIONS]
    what = ["--extra", EXTRA, "--output-file", str(LOCK), "pyproject.toml"]
    subprocess.run([*command, *what], check=True)
    written = LOCK.read_text()
    assert not re.search(r"://|^ *-(?!-hash)|^/", written, re.MULTILINE), "a place got in"
    pins = re.findall(r"^[\w.-]+==", written, re.MULTILINE)
    sys.stdout.write(f"{LOCK}: {len(pins)} releases\n")


if __name__ == "__main__":
    main()
