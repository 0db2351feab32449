"""How many threads this process may use: CPU affinity and the quota of its control group.

The number of cores of the machine is the wrong answer in a container: with more threads than
quota the kernel stops all of them for the rest of each period, and a forward pass becomes
several times slower.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

V1_CONTROLLER_FOLDERS = ("cpu", "cpu,cpuacct")


def usable_threads(root: Path = Path("/")) -> int:
    """Return how many threads can run at once here, 1 or more.

    A quota of part of a core counts as a whole one: two threads on 1.5 cores do more than one.

    Args:
        root: Where ``proc`` and ``sys`` are mounted.

    Returns:
        The smaller of the cores that affinity allows and the quota of the process's control
        group and its ancestors, version 1 or 2.
    """
    quota = cgroup_quota(root)
    threads = allowed_cores()
    return threads if quota is None else max(1, min(threads, math.ceil(quota)))


def allowed_cores() -> int:
    """Return the cores that affinity allows, or all of them where the system has none."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def cgroup_quota(root: Path) -> float | None:
    """Return the tightest quota of the control groups of this process, in cores.

    Args:
        root: Where ``proc`` and ``sys`` are mounted.

    Returns:
        Cores, above 0, or None where nothing limits them.
    """
    mount = root / "sys/fs/cgroup"
    quotas: list[float | None] = []
    for controllers, group in parse_groups(read_or_empty(root / "proc/self/cgroup")):
        if not controllers:
            quotas += [parse_cpu_max(read_or_empty(at / "cpu.max")) for at in upwards(mount, group)]
        elif "cpu" in controllers:
            for name in V1_CONTROLLER_FOLDERS:
                quotas += [
                    parse_cfs(
                        read_or_empty(at / "cpu.cfs_quota_us"),
                        read_or_empty(at / "cpu.cfs_period_us"),
                    )
                    for at in upwards(mount / name, group)
                ]
    return min((quota for quota in quotas if quota is not None), default=None)


def parse_groups(text: str) -> list[tuple[tuple[str, ...], PurePosixPath]]:
    """Read ``/proc/self/cgroup``.

    Args:
        text: Its content, a line ``id:controllers:path`` each.

    Returns:
        Controllers (none for version 2) and the group's path, in order.
    """
    groups = []
    for line in text.splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            controllers = tuple(name for name in parts[1].split(",") if name)
            groups.append((controllers, PurePosixPath(parts[2])))
    return groups


def parse_cpu_max(text: str) -> float | None:
    """Read a version 2 ``cpu.max``: ``"150000 100000"`` is 1.5 cores, ``"max …"`` is None."""
    quota, _, period = text.strip().partition(" ")
    return parse_cfs(quota, period)


def parse_cfs(quota: str, period: str) -> float | None:
    """Return quota over period in cores, or None where either is not a number above 0."""
    try:
        numbers = int(quota), int(period)
    except ValueError:
        return None
    return numbers[0] / numbers[1] if min(numbers) > 0 else None


def upwards(mount: Path, group: PurePosixPath) -> Iterator[Path]:
    """Yield the folders of a control group and its ancestors, under where they are mounted."""
    # In a container the path may name groups that only the host sees; those are not there, and
    # the walk ends at the mount, which then is the container's own group.
    parts = [part for part in group.parts if part not in ("/", "..")]
    for depth in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:depth])


def read_or_empty(path: Path) -> str:
    """Return what a file of the system holds, "" where it cannot be read."""
    try:
        return path.read_text("ascii", errors="replace")
    except OSError:
        return ""
