"""Jobs on a Ray cluster of several node processes, and what happens when its parts are killed."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

pytest.importorskip("ray")

from ray.cluster_utils import Cluster

from polyrank.bulk.cluster import ActorPool, parse_workers, pool_size
from polyrank.errors import ConfigError
from tests.bulk import jobs

Checkpoint = Callable[[str], Path]
EMBEDDER = "multilingual-e5-small"
COUNT = 1200


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without processors, so that no driver dies with a node, and two nodes of one."""
    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False},
    )
    for _ in range(2):
        made.add_node(num_cpus=1)
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return jobs.write_parquet(tmp_path_factory.mktemp("bulk") / "in", jobs.rows(COUNT))


@pytest.fixture(scope="module")
def expected(
    source: Path, tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint
) -> dict[str, bytes]:
    """Every partition as one machine writes it."""
    out = tmp_path_factory.mktemp("bulk") / "out"
    jobs.run(source, out, jobs.embedding(checkpoint(EMBEDDER)))
    return jobs.content(out)


@dataclass
class Case:
    """A job, where it writes, and what it must have written."""

    source: Path
    expected: dict[str, bytes]
    model: Path
    out: Path

    def call(self, address: str, *more: object) -> list[object]:
        return call(self.source, self.out, self.model, address, *more)

    def check(self) -> None:
        """Complete, nothing doubled, and the bits of one machine."""
        assert jobs.content(self.out) == self.expected
        assert jobs.read(self.out).column("number").to_pylist() == list(range(COUNT))


@pytest.fixture
def case(source: Path, expected: dict[str, bytes], tmp_path: Path, checkpoint: Checkpoint) -> Case:
    return Case(source, expected, checkpoint(EMBEDDER), tmp_path / "out")


def call(source: Path, out: Path, model: Path, address: str, *more: object) -> list[object]:
    return [
        *("embed", source, "-o", out, "--model", model, "--partition-rows", 8, "--quiet"),
        *("--ray", address, *more),
    ]


def workers() -> list[int]:
    """Processes of actors that do partitions."""
    found = []
    for path in Path("/proc").iterdir():
        try:
            if path.name.isdigit() and b"PartitionWorker" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    return found


def wait_for(out: Path, records: int, process: subprocess.Popen[str]) -> None:
    for _ in jobs.waiting(120):
        if jobs.num_records(out) >= records or process.poll() is not None:
            return


def test_two_nodes_do_what_one_machine_does(cluster: Cluster, case: Case) -> None:
    arguments = case.call(cluster.address)
    process = jobs.driver(*arguments)
    most = 0
    for _ in jobs.waiting(120):
        most = max(most, len(workers()))
        if process.poll() is not None:
            break
    jobs.finish(process)
    case.check()
    assert most == 2
    assert "were there already" not in jobs.finish(jobs.driver(*arguments))


@pytest.mark.parametrize("cpus", [1, 2])
def test_a_cluster_of_one_or_two_cores_does_not_hang(cpus: int, case: Case) -> None:
    small = Cluster(
        initialize_head=True, head_node_args={"num_cpus": cpus, "include_dashboard": False}
    )
    try:
        jobs.finish(jobs.driver(*case.call(small.address, "--workers", "8:64")))
        case.check()
    finally:
        small.shutdown()


def test_actors_larger_than_any_node_are_refused(
    cluster: Cluster, source: Path, tmp_path: Path, checkpoint: Checkpoint
) -> None:
    arguments = call(
        source, tmp_path / "out", checkpoint(EMBEDDER), cluster.address, "--threads", 2
    )
    process = jobs.driver(*arguments)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "the largest node of the cluster has 1" in told


def test_no_cluster_there(source: Path, tmp_path: Path, checkpoint: Checkpoint) -> None:
    process = jobs.driver(*call(source, tmp_path / "out", checkpoint(EMBEDDER), "127.0.0.1:1"))
    _, told = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "no Ray cluster can be reached at 127.0.0.1:1" in told
    assert "Traceback" not in told


def test_actors_are_killed(cluster: Cluster, case: Case) -> None:
    kills, killed, draw = 3, 0, random.Random(3)
    process = jobs.driver(*case.call(cluster.address))
    while killed < kills and process.poll() is None:
        wait_for(case.out, 1 + killed * 10, process)
        time.sleep(draw.random() * 0.2)
        if found := workers():
            os.kill(draw.choice(found), signal.SIGKILL)
            killed += 1
    jobs.finish(process)
    assert killed == kills
    case.check()


def test_a_node_is_killed(cluster: Cluster, case: Case) -> None:
    node = cluster.add_node(num_cpus=1)
    process = jobs.driver(*case.call(cluster.address))
    wait_for(case.out, 5, process)
    assert process.poll() is None
    cluster.remove_node(node, allow_graceful=False)
    jobs.finish(process)
    case.check()


def test_the_driver_is_killed(cluster: Cluster, case: Case) -> None:
    arguments = case.call(cluster.address)
    assert jobs.killed_until_done(arguments, case.out, kills=2, seed=5) == 2
    case.check()


def test_a_partition_is_corrupted(cluster: Cluster, case: Case) -> None:
    arguments = case.call(cluster.address)
    jobs.finish(jobs.driver(*arguments))
    name, whole = next(iter(case.expected.items()))
    (case.out / name).write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    jobs.finish(jobs.driver(*arguments))
    case.check()


@pytest.mark.slow
def test_thirty_random_kills(cluster: Cluster, case: Case) -> None:
    """Actors, nodes and drivers, as drawn."""
    draw, killed = random.Random(7), {"actor": 0, "node": 0, "driver": 0}
    while (round_ := sum(killed.values())) < 30:
        part = replace(case, out=case.out / str(round_))
        out, arguments = part.out, part.call(cluster.address)
        for _ in range(draw.randint(2, 4)):
            process = jobs.driver(*arguments)
            target = jobs.num_records(out) + draw.randint(2, 25)
            wait_for(out, target, process)
            if process.poll() is not None:
                break
            victim = draw.choice(list(killed))
            if victim == "actor" and (found := workers()):
                os.kill(draw.choice(found), signal.SIGKILL)
                killed["actor"] += 1
            elif victim == "node":
                cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
                cluster.add_node(num_cpus=1)
                killed["node"] += 1
            if victim != "driver":
                wait_for(out, target + draw.randint(1, 10), process)
            if process.poll() is None:
                jobs.kill(process)
                killed["driver"] += 1
        jobs.finish(jobs.driver(*arguments), timeout_s=300)
        part.check()
    print(killed)  # noqa: T201  # for the record of results


def test_pools() -> None:
    assert pool_size([2.0], 2.0, (None, None), 1, 100) == ActorPool(2, 2, 1)
    assert pool_size([2.0], 2.0, (8, 64), 1, 100) == ActorPool(2, 64, 1)
    assert pool_size([2.0], 0.0, (None, None), 1, 100) == ActorPool(1, 2, 1)
    assert pool_size([64.0, 8.0, 1.0], 73.0, (None, None), 2, 100) == ActorPool(36, 36, 2)
    assert pool_size([64.0], 64.0, (None, None), 1, 3) == ActorPool(3, 3, 1)
    assert pool_size([64.0], 64.0, (1, 8), 1, 100) == ActorPool(1, 8, 1)
    with pytest.raises(ConfigError, match="largest node of the cluster has 2"):
        pool_size([2.0, 1.0], 3.0, (None, None), 3, 5)
    assert parse_workers(None) == (None, None)
    assert parse_workers("4") == (None, 4)
    assert parse_workers("1:4") == (1, 4)
    for wrong in ("x", "0", "4:1", "0:2", "1:"):
        with pytest.raises(ConfigError, match="--workers"):
            parse_workers(wrong)
