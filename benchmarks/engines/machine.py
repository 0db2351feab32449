"""What the whole machine does. Linux."""

import os
from pathlib import Path


def busy_seconds() -> float:
    """Return how long the machine's cores have worked or been taken away, since it started."""
    path = Path("/proc/stat")
    if not path.is_file():
        return 0.0
    numbers = [int(number) for number in path.read_text("ascii").split("\n", 1)[0].split()[1:9]]
    idle = numbers[3] + numbers[4]
    return (sum(numbers) - idle) / os.sysconf("SC_CLK_TCK")
