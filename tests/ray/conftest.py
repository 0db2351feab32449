"""A Ray cluster with three models on it, beside a plain server of the same ones."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray.serve")

from tests.ray.serving import Both, cluster, deploy
from tests.server.running import running

Checkpoint = Callable[[str], Path]


@pytest.fixture(scope="session")
def folders(checkpoint: Checkpoint) -> dict[str, Path]:
    return {
        "reranker": checkpoint("bge-reranker-base"),
        "embedder": checkpoint("multilingual-e5-small"),
        "classifier": checkpoint("three-way-classifier"),
    }


@pytest.fixture(scope="session")
def proxy() -> Iterator[int]:
    """Port of Ray Serve on a cluster of eight processors, as it believes."""
    with cluster(8) as port:
        yield port


@pytest.fixture(scope="module")
def server(folders: dict[str, Path], proxy: int) -> Iterator[Both]:
    deploy(folders, replicas={"min_replicas": 2, "max_replicas": 2})
    with running(folders) as plain:
        yield Both(plain, proxy)
