"""The server as an application of Ray Serve, by the import path ``polyrank.server.ray:app``."""

from polyrank.server.ray.application import app

__all__ = ["app"]
