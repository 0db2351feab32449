"""One server with a reranker, an embedder and a classifier, for all tests that change nothing."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.server.running import Running, running

# these need clients of other vendors: `make test-wire`
collect_ignore = ["wire"]

Checkpoint = Callable[[str], Path]


@pytest.fixture(scope="session")
def folders(checkpoint: Checkpoint) -> dict[str, Path]:
    return {
        "reranker": checkpoint("bge-reranker-base"),
        "embedder": checkpoint("multilingual-e5-small"),
        "classifier": checkpoint("three-way-classifier"),
    }


@pytest.fixture(scope="session")
def server(folders: dict[str, Path]) -> Iterator[Running]:
    with running(folders) as made:
        yield made
