"""Fixtures that every kind of test shares."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import checkpoints


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a tiny seeded checkpoint, by name; made once a session. Do not change it."""
    parent = tmp_path_factory.mktemp("checkpoints")
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = checkpoints.make(name, parent)
        return made[name]

    return get
