"""What an installed wheel must do anywhere: run by cibuildwheel in a fresh environment."""

import subprocess
import sys

import polyrank
from polyrank import _native


def main() -> None:
    paths = _native.compiled_paths()
    assert "portable" in paths, paths
    assert set(map(type, _native.cpu_features().values())) == {bool}
    shown = subprocess.run(
        [sys.executable, "-m", "polyrank", "--version"], check=True, capture_output=True, text=True
    ).stdout
    assert polyrank.__version__ in shown, shown
    sys.stdout.write(f"{shown.strip()}, paths: {', '.join(paths)}\n")


if __name__ == "__main__":
    main()
