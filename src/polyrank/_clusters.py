"""Ray clusters: how they are found. Imported only where Ray is installed."""

import socket

import ray

from polyrank.errors import ClusterError

LOCAL = "local"
KNOCK_S = 10.0  # for a cluster's port to answer


def connect(address: str) -> bool:
    """Connect this process to a Ray cluster.

    Args:
        address: "auto" or HOST:PORT of a cluster; "local" starts one on this machine.

    Returns:
        Whether this call connected: False where the process belonged to a cluster already.

    Raises:
        ClusterError: If there is none at the address.
    """
    if ray.is_initialized():
        return False
    try:
        _knock(address)
        ray.init(
            address=address,
            include_dashboard=False if address == LOCAL else None,
            log_to_driver=False,
            logging_level="ERROR",
        )
    except (OSError, RuntimeError, ValueError) as exc:
        raise ClusterError(
            f"no Ray cluster can be reached at {address}: {last_line(exc)}. Start one with `ray "
            "start --head`, or name another with --ray."
        ) from exc
    return True


def _knock(address: str) -> None:
    """Raise OSError where nobody listens: Ray itself would try for minutes."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()


def last_line(exc: BaseException) -> str:
    """Return what an error says last: Ray puts the stacks of other processes before it."""
    lines = [line for line in str(exc).splitlines() if line.strip()]
    return " ".join(lines[-1].split())[:300] if lines else type(exc).__name__
