"""The machine's own limits, by a small C program compiled where there is a compiler."""

import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("limits.c")


def build(folder: Path) -> Path | None:
    """Return the compiled program, without AMX where the compiler knows none; None without gcc."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    program = folder / "limits"
    for define in (["-DHAS_AMX"], []):
        command = [compiler, "-O2", "-pthread", *define, str(SOURCE), "-o", str(program)]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return program
    return None


def measure(program: Path | None, threads: int) -> dict[str, float]:
    """Return billions of operations a second by unit: float32_fma, int8_vnni, int8_amx."""
    if program is None:
        return {}
    command = [str(program), str(threads), "0.5"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    pairs = (line.split() for line in done.stdout.splitlines())
    return {name: float(value) for name, value in pairs}
