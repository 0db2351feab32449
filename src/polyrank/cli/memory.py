"""How much memory a command may take without asking: what is free, in containers too."""

from pathlib import Path

from polyrank.encoder.threads import parse_groups, read_or_empty, upwards

MEGABYTE = 1_000_000
MOST_ROW_CACHE_BYTES = 4096 * MEGABYTE
_SHARE = 4
_FREE_WHERE_UNKNOWN = 4096 * MEGABYTE


def row_cache_bytes(megabytes: int | None, root: Path = Path("/")) -> int:
    """Return how many bytes of token rows to keep.

    Args:
        megabytes: What was asked for; None takes 4096, but at most a quarter of what is free.
        root: Where ``proc`` and ``sys`` are mounted.

    Returns:
        Bytes, 0 for none.
    """
    if megabytes is not None:
        return megabytes * MEGABYTE
    free = free_bytes(root)
    return min(MOST_ROW_CACHE_BYTES, (_FREE_WHERE_UNKNOWN if free is None else free) // _SHARE)


def free_bytes(root: Path = Path("/")) -> int | None:
    """Return the memory that programs can still have, or None where the system does not say.

    Args:
        root: Where ``proc`` and ``sys`` are mounted.

    Returns:
        The smallest of what the kernel calls available and the limits of the process's control
        group and its ancestors, version 1 or 2; in bytes.
    """
    known = [_available(read_or_empty(root / "proc/meminfo"))]
    mount = root / "sys/fs/cgroup"
    for controllers, group in parse_groups(read_or_empty(root / "proc/self/cgroup")):
        if not controllers:
            known += [_number(read_or_empty(at / "memory.max")) for at in upwards(mount, group)]
        elif "memory" in controllers:
            for at in upwards(mount / "memory", group):
                known.append(_number(read_or_empty(at / "memory.limit_in_bytes")))
    return min((size for size in known if size is not None), default=None)


def _available(meminfo: str) -> int | None:
    for line in meminfo.splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            kilobytes = _number(value.removesuffix("kB"))
            return None if kilobytes is None else kilobytes * 1024
    return None


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdecimal() else None
