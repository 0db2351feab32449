"""Faults of five kinds at random, against jobs on a cluster of several node processes.

`make test-bulk-kills KILLS=30` runs jobs from and to an object store, hurts them until so many
faults are done, and writes benchmarks/results/bulk-kills.md. Each output must in the end be, byte
by byte, what one machine writes, and its vectors those that the library gives for each row alone.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen

import fsspec
import numpy as np
import ray
from ray.cluster_utils import Cluster

from polyrank import Embedder
from tests import checkpoints
from tests.bulk import jobs
from tests.bulk.servers import Way, object_store

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "bulk-kills.md"
ROWS = 1200
PARTITION_ROWS = 8
NODES = 2
AWAY_S = 10.0
DRIVER_S = 300.0  # in which a job that nobody hurts must end
BUCKET = "bucket"


@dataclass
class Job:
    """A job that is being hurt, and what became of it.

    Attributes:
        cluster: Where it runs.
        way: The way to the object store.
        endpoint: The store's address, by which the job's processes are known.
        arguments: Of the command.
        output: Its folder in the store, without the scheme.
        draw: Where chance comes from.
        process: Its driver.
        num_drivers: How many drivers it has had.
    """

    cluster: Cluster
    way: Way
    endpoint: str
    arguments: list[object]
    output: str
    draw: random.Random
    process: Popen[str] = field(init=False)
    num_drivers: int = 0

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start a driver."""
        self.process = jobs.driver(*self.arguments)
        self.num_drivers += 1

    @property
    def is_running(self) -> bool:
        """Whether its driver runs."""
        return self.process.poll() is None

    def records(self) -> list[str]:
        """Return the partitions that are written, by the names of their records."""
        return sorted(_files(f"{self.output}/_done"))

    def wait_for(self, count: int) -> None:
        """Wait until so many partitions are written, or the job has ended."""
        for _ in jobs.waiting(DRIVER_S):
            if not self.is_running or len(self.records()) >= count:
                return
            time.sleep(0.1)
        raise AssertionError(f"{self.output}: no progress in {DRIVER_S:.0f} s")

    def actors(self) -> list[int]:
        """Return the processes of its actors that do partitions."""
        found = []
        for path in Path("/proc").iterdir():
            try:
                is_actor = (
                    path.name.isdigit() and b"PartitionWorker" in (path / "cmdline").read_bytes()
                )
                if is_actor and self.endpoint.encode() in (path / "environ").read_bytes():
                    found.append(int(path.name))
            except OSError:
                continue
        return found


def kill_actor(job: Job) -> bool:
    """Kill the process of an actor."""
    found = job.actors()
    if found:
        os.kill(job.draw.choice(found), signal.SIGKILL)
    return bool(found)


def kill_node(job: Job) -> bool:
    """Kill all processes of a node; another one comes."""
    node = job.draw.choice(sorted(job.cluster.worker_nodes, key=lambda each: each.unique_id))
    job.cluster.remove_node(node, allow_graceful=False)
    job.cluster.add_node(num_cpus=1)
    return True


def kill_driver(job: Job) -> bool:
    """Kill the driver with what it started, and give the command again."""
    jobs.kill(job.process)
    job.start()
    return True


def cut_store(job: Job) -> bool:
    """Let nobody reach the object store for ten seconds."""
    job.way.cut()
    time.sleep(AWAY_S)
    job.way.mend()
    return True


def corrupt_partition(job: Job) -> bool:
    """Damage a partition that is written; whoever goes on must find it, so the driver restarts."""
    written = job.records()
    if not written:
        return False
    number = Path(job.draw.choice(written)).stem
    name = f"{job.output}/part-{number}.parquet"
    content = bytearray(_store().cat_file(name))
    place = job.draw.randrange(len(content))
    if job.draw.random() < 0.5:
        content[place] ^= 1 << job.draw.randrange(8)
    else:
        del content[place:]
    jobs.kill(job.process)
    _store().pipe_file(name, bytes(content))
    job.start()
    return True


FAULTS: dict[str, Callable[[Job], bool]] = {
    "actor killed": kill_actor,
    "node killed": kill_node,
    "driver killed and restarted": kill_driver,
    f"object store unreachable for {AWAY_S:.0f} s": cut_store,
    "partition corrupted, driver restarted": corrupt_partition,
}


def main() -> None:
    """Hurt jobs, check them, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=21)
    asked = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        done, drivers, outputs = hurt_jobs(Path(folder), asked.kills, random.Random(asked.seed))
    write(done, drivers, outputs, asked, time.monotonic() - begun)


def hurt_jobs(folder: Path, kills: int, draw: random.Random) -> tuple[Counter[str], int, int]:
    """Run jobs until so many faults are done.

    Returns:
        Faults by kind, drivers that were started, and outputs that were checked.
    """
    model = checkpoints.make("multilingual-e5-small", folder)
    rows = jobs.rows(ROWS)
    source = jobs.write_parquet(folder / "in", rows)
    jobs.run(source, folder / "expected", jobs.embedding(model, partition_rows=PARTITION_ROWS))
    expected = jobs.content(folder / "expected")
    check_bits(folder / "expected", rows, Embedder(model))
    kinds = _dealt(kills, draw)
    done: Counter[str] = Counter()
    drivers = outputs = 0
    with object_store() as (way, environment), nodes() as cluster:
        for path in source.iterdir():
            _store().pipe_file(f"{BUCKET}/in/{path.name}", path.read_bytes())
        while kinds:
            output = f"{BUCKET}/out-{outputs}"
            arguments = [
                *("embed", f"s3://{BUCKET}/in", "-o", f"s3://{output}", "--model", model),
                *("--partition-rows", PARTITION_ROWS, "--quiet", "--ray", cluster.address),
            ]
            endpoint = environment["AWS_ENDPOINT_URL"]
            job = Job(cluster, way, endpoint, arguments, output, draw)
            hurt(job, kinds, done)
            jobs.finish(job.process, DRIVER_S)
            job.start()  # what was damaged after its driver had looked is found by this one
            jobs.finish(job.process, DRIVER_S)
            check(output, expected)
            drivers, outputs = drivers + job.num_drivers, outputs + 1
            say(f"{done.total()} faults, {outputs} outputs: {dict(done)}")
    return done, drivers, outputs


def hurt(job: Job, kinds: list[str], done: Counter[str]) -> None:
    """Do faults to a job while it runs, each after some partitions more."""
    while kinds:
        job.wait_for(len(job.records()) + job.draw.randint(1, 12))
        time.sleep(job.draw.random() * 0.3)
        if not job.is_running:
            return
        if FAULTS[kinds[-1]](job):
            done[kinds[-1]] += 1
            say(f"{kinds.pop()}, after {len(job.records())} partitions of {job.output}")


def say(text: str) -> None:
    """Tell how far it is."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


def check(output: str, expected: dict[str, bytes]) -> None:
    """Assert that an output is complete, has nothing twice, and is that of one machine."""
    store = _store()
    found = [name for name in _files(output) if name.startswith("part-")]
    assert sorted(found) == sorted(expected), "partitions are missing, or there are others"
    for name, content in expected.items():
        assert store.cat_file(f"{output}/{name}") == content, f"{name} differs"
    assert len(_files(f"{output}/_done")) == len(expected)


def check_bits(output: Path, rows: list[jobs.Row], embedder: Embedder) -> None:
    """Assert that each row is there once, with the vector that the library gives it alone."""
    table = jobs.read(output)
    assert table.column("number").to_pylist() == list(range(len(rows)))
    for row, vector in zip(rows, table.column("embedding").to_pylist(), strict=True):
        own = embedder.encode(row["text"], input_type="document")
        assert np.asarray(vector, np.float32).tobytes() == own.tobytes()


@contextmanager
def nodes() -> Iterator[Cluster]:
    """A head without processors, so that no driver dies with a node, and nodes of one."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(NODES):
        made.add_node(num_cpus=1)
    try:
        yield made
    finally:
        made.shutdown()


def _dealt(count: int, draw: random.Random) -> list[str]:
    """Return kinds of faults in an order that was drawn, each about as often."""
    names = list(FAULTS)
    kinds = [names[i % len(names)] for i in range(count)]
    draw.shuffle(kinds)
    return kinds


def _store() -> fsspec.AbstractFileSystem:
    return fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True)


def _files(folder: str) -> list[str]:
    try:
        return [path.rpartition("/")[2] for path in _store().ls(folder, detail=False)]
    except FileNotFoundError:
        return []


def write(
    done: Counter[str], drivers: int, outputs: int, asked: argparse.Namespace, seconds: float
) -> None:
    """Write the page."""
    lines = [
        "# Bulk jobs that are hurt\n",
        f"`make test-bulk-kills KILLS={asked.kills}` (seed {asked.seed}, {seconds / 60:.0f} "
        f"minutes): Ray {ray.__version__}, a head and {NODES} nodes of one processor as processes "
        f"of their own, input and output in an object store (moto). Jobs of {ROWS:,} rows in "
        f"{-(-ROWS // PARTITION_ROWS)} partitions were hurt at random points.\n",
        "| fault | times |",
        "|---|---|",
        *(f"| {name} | {done[name]} |" for name in FAULTS),
        f"| together | **{done.total()}** |",
        "",
        f"{outputs} outputs were written by {drivers} drivers. Each was complete, had no partition "
        "twice, and was byte by byte what one machine writes; there every row had the bits that "
        "the library gives it alone. A corrupted partition is found by the next run of the "
        "command, which computes it again.",
        "",
    ]
    RESULTS.write_text("\n".join(lines), "utf8")


if __name__ == "__main__":
    main()
