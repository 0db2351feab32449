"""Every test of every protocol again, on Ray: each reply is that of the plain server."""

from tests.ray.serving import Both
from tests.server.test_dialects import *  # noqa: F403


def test_all_of_it_was_compared(server: Both) -> None:
    assert server.num_compared > 150
