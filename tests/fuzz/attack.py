"""Mutated model folders, loaded and asked: each must work or be refused in polyrank's own words.

python -m tests.fuzz.attack SEEDS --cases 10000 [--only CASE] [--record FILE.md]

Cases run in forked workers, so that a crash is one case's. A case is repeated by its number: what
is drawn for it depends on the seed and the number alone.
"""

import argparse
import faulthandler
import math
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import polyrank
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.checkpoint.weights import Weights
from polyrank.cli.info import describe
from polyrank.errors import PolyrankError
from tests.fuzz.mutations import mutate

MAX_SECONDS = 5.0  # of processor time; others share the machine
MAX_WALL_SECONDS = 30.0
MAX_BYTES = 1 << 30
POLL_SECONDS = 0.05
TEXTS = ("A cat sleeps eighteen hours.", "Kissat 寝る")
# Task classes that each kind of folder is asked by.
TASKS: dict[str, tuple[str, ...]] = {
    "xlm-roberta-reranker": ("Reranker",),
    "bert-reranker": ("Reranker",),
    "classifier": ("Classifier",),
    "embedder": ("Embedder",),
    "dense-embedder": ("Embedder", "Reranker"),
    "late-interaction": ("Reranker", "Classifier", "Embedder"),
    "sharded": ("Reranker",),
    "int8": ("Reranker",),
    "int4": ("Embedder",),
    "mixed": ("Embedder",),
    "mixed-late-interaction": ("Reranker", "Classifier"),
}
WORKED = "worked"


@dataclass(slots=True)
class Outcome:
    """What became of a case."""

    case: int
    seed_name: str
    kind: str
    what: str
    result: str  # WORKED, the name of one of polyrank's errors, or what was wrong
    is_failure: bool
    seconds: float = 0.0
    megabytes: int = 0


@dataclass(slots=True)
class Worker:
    """A process that takes cases one after the other and tells of each on a pipe."""

    pid: int
    pipe: int
    log: Path
    left: list[int]
    text: bytes = b""
    begun: tuple[int, str, str, str] | None = None
    since: float = 0.0
    cpu_before: float = 0.0
    outcomes: list[Outcome] = field(default_factory=list)


# --- one case, in a worker ------------------------------------------------------------------


def draw_of(seed: int, case: int) -> random.Random:
    return random.Random(f"{seed}:{case}")


def prepare(seeds: Path, parent: Path, seed: int, case: int) -> tuple[Path, random.Random, str]:
    draw = draw_of(seed, case)
    name = draw.choice(list(TASKS))
    folder = parent / f"case-{case}"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(seeds / name, folder, copy_function=os.link)
    return folder, draw, name


def ask(folder: Path, draw: random.Random, name: str) -> None:
    """Load a folder by its tasks and ask each of two short texts."""
    tasks = list(TASKS[name])
    if draw.random() < 0.2:
        tasks.append(draw.choice(("Reranker", "Classifier", "Embedder")))
    if draw.random() < 0.1:
        describe(read_checkpoint(folder))
    compute_dtype = draw.choice(("auto", "float32", "int8"))
    refusal = None
    for task in dict.fromkeys(tasks):
        try:
            ask_task(task, folder, compute_dtype)
        except PolyrankError as exc:
            refusal = exc
    if refusal is not None:
        raise refusal


def ask_task(task: str, folder: Path, compute_dtype: Any) -> None:
    # native alone is looked into; one thread, since workers are forked
    model = getattr(polyrank, task)(
        folder, encoder="native", num_threads=1, compute_dtype=compute_dtype
    )
    if task == "Embedder":
        values = model.encode(TEXTS)
    elif task == "Reranker":
        values = [found.score for found in model.rank(TEXTS[0], TEXTS)]
    else:
        values = [*model.classify([TEXTS])[0].probabilities.values()]
    if not np.isfinite(np.asarray(values, np.float64)).all():
        raise ArithmeticError(f"{task} gave {values}")


def guard_tensors() -> None:
    """Copy each tensor out of the mapped file, so that AddressSanitizer knows where it ends."""
    view = Weights._view

    def copied(self: Weights, info: Any) -> Any:
        found = view(self, info)
        return found.copy() if found.ctypes.data % 2 == 0 else found  # odd places stay odd

    Weights._view = copied  # type: ignore[method-assign]


def peak_bytes() -> int:
    """Return the most memory since `reset_peak`, or since the process began."""
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmHWM"):
                return int(line.split()[1]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def reset_peak() -> None:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def run_case(seeds: Path, parent: Path, seed: int, case: int, tell: Any) -> Outcome:
    folder, draw, name = prepare(seeds, parent, seed, case)
    kind, what = mutate(folder, draw)
    tell("begin", case, name, kind, what)
    reset_peak()
    before, result, is_failure = time.process_time(), WORKED, False
    try:
        ask(folder, draw, name)
    except PolyrankError as exc:
        result = type(exc).__name__
        str(exc).encode("utf8", "strict")  # a message must be printable
    except BaseException as exc:  # noqa: BLE001  a panic of Rust is no Exception
        where = traceback.extract_tb(exc.__traceback__)
        inside = [frame for frame in where if "polyrank" in frame.filename] or list(where)
        place = f"{Path(inside[-1].filename).name}:{inside[-1].lineno} {inside[-1].name}"
        result, is_failure = f"{type(exc).__name__} at {place}: {str(exc)[:150]}", True
    seconds, peak = time.process_time() - before, peak_bytes()
    if not is_failure and peak > MAX_BYTES:
        result, is_failure = f"memory: {peak >> 20} MB", True
    if not is_failure and seconds > MAX_SECONDS:
        result, is_failure = f"slow: {seconds:.1f} s", True
    shutil.rmtree(folder, ignore_errors=True)
    return Outcome(case, name, kind, what, result, is_failure, seconds, peak >> 20)


def work(seeds: Path, parent: Path, seed: int, cases: list[int], pipe: int) -> None:
    def tell(*fields: Any) -> None:
        line = "\t".join(str(entry).replace("\t", " ").replace("\n", " ") for entry in fields)
        os.write(pipe, line.encode("utf8", "replace") + b"\n")

    for case in cases:
        done = run_case(seeds, parent, seed, case, tell)
        flag = "failed" if done.is_failure else "fine"
        tell("end", case, flag, f"{done.seconds:.3f}", done.megabytes, done.result)


# --- the process that watches them ----------------------------------------------------------


def start(seeds: Path, parent: Path, seed: int, cases: list[int], number: int) -> Worker:
    reader, writer = os.pipe()
    log = parent / f"worker-{number}.log"
    pid = os.fork()
    if pid == 0:
        try:
            faulthandler.disable()  # pytest's would print to its own terminal
            os.close(reader)
            target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(target, 1)
            os.dup2(target, 2)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            work(seeds, parent, seed, cases, writer)
            os._exit(0)
        except BaseException:  # noqa: BLE001  all that a fork may do is end
            traceback.print_exc()
            os._exit(70)
    os.close(writer)
    os.set_blocking(reader, False)
    return Worker(pid, reader, log, list(cases), since=time.monotonic())


def read(worker: Worker) -> bool:
    """Take what a worker told; whether its pipe is still open."""
    try:
        while part := os.read(worker.pipe, 1 << 16):
            worker.text += part
    except BlockingIOError:
        part = b"\n"
    *lines, worker.text = worker.text.split(b"\n")
    for line in lines:
        verb, number, *rest = line.decode("utf8", "replace").split("\t")
        case = int(number)
        if verb == "begin":
            worker.begun = (case, rest[0], rest[1], rest[2])
            worker.since, worker.cpu_before = time.monotonic(), cpu_seconds(worker.pid)
        elif worker.begun is not None:
            flag, seconds, megabytes, result = rest
            worker.outcomes.append(
                Outcome(*worker.begun, result, flag == "failed", float(seconds), int(megabytes))
            )
            worker.left.remove(case)
            worker.begun = None
    return bool(part)


def cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0


def overdrawn(worker: Worker) -> str | None:
    """Return which limit the case under way is beyond, or None."""
    if worker.begun is None:
        return None
    wall = time.monotonic() - worker.since
    if cpu_seconds(worker.pid) - worker.cpu_before > MAX_SECONDS or wall > MAX_WALL_SECONDS:
        return f"hang: ended after {wall:.0f} s"
    resident = resident_bytes(worker.pid)
    return f"memory: {resident >> 20} MB, ended" if resident > MAX_BYTES * 1.25 else None


def bury(worker: Worker, reason: str | None) -> None:
    """Take leave of a worker whose pipe closed or which was overdrawn."""
    if reason is not None:
        os.kill(worker.pid, signal.SIGKILL)
    _, status = os.waitpid(worker.pid, 0)
    read(worker)
    os.close(worker.pipe)
    if worker.begun is None:
        if worker.left:  # the fault is not the folder's
            raise RuntimeError(f"case {worker.left[0]} did not begin: {worker.log.read_text()}")
        return
    if reason is None:
        log = worker.log.read_text("utf8", "replace")
        lines = [line for line in log.splitlines() if "ERROR" in line or "error" in line]
        code = os.waitstatus_to_exitcode(status)
        reason = f"crash, exit {code}: {' | '.join(lines[:2] or log.splitlines()[-2:])[:300]}"
    worker.outcomes.append(Outcome(*worker.begun, reason, True))
    worker.left.remove(worker.begun[0])


def attack(
    seeds: Path, cases: list[int], seed: int, num_workers: int, group: int = 100
) -> Iterator[Outcome]:
    """Run cases in forked workers and yield their outcomes as they come."""
    with tempfile.TemporaryDirectory(dir=seeds.parent, prefix="cases-") as folder:
        waiting = [cases[at : at + group] for at in range(0, len(cases), group)]
        workers: list[Worker] = []
        number = 0
        while waiting or workers:
            while waiting and len(workers) < num_workers:
                number += 1
                workers.append(start(seeds, Path(folder), seed, waiting.pop(0), number))
            select.select([worker.pipe for worker in workers], [], [], POLL_SECONDS)
            for worker in list(workers):
                is_open, reason = read(worker), overdrawn(worker)
                if not is_open or reason:
                    bury(worker, reason)
                    workers.remove(worker)
                    if worker.left:
                        waiting.insert(0, worker.left)
                yield from worker.outcomes
                worker.outcomes.clear()


# --- the command ----------------------------------------------------------------------------


def warm_up(seeds: Path) -> None:
    """Load every kind of folder once: all modules are imported, and all seeds work."""
    for name in TASKS:
        for task in TASKS[name]:
            ask_task(task, seeds / name, "auto")


def table(outcomes: list[Outcome]) -> str:
    rows = [
        "| kind of mutation | cases | worked | refused | failed |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    kinds = Counter(done.kind for done in outcomes)
    for kind in [*kinds, None]:
        found = [done for done in outcomes if kind in (done.kind, None)]
        failed = sum(done.is_failure for done in found)
        worked = sum(done.result == WORKED for done in found)
        refused = len(found) - failed - worked
        name = kind or "all"
        rows.append(f"| {name} | {len(found):,} | {worked:,} | {refused:,} | {failed:,} |")
    refusals = Counter(done.result for done in outcomes if not done.is_failure)
    rows += ["", "| outcome | cases |", "| --- | ---: |"]
    rows += [f"| {result} | {count:,} |" for result, count in refusals.most_common()]
    return "\n".join(rows)


def processor() -> str:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{names[0] if names else 'unknown'}, {len(names)} threads"


def report(outcomes: list[Outcome], seconds: float, args: argparse.Namespace) -> str:
    slowest = max(done.seconds for done in outcomes)
    most = max(done.megabytes for done in outcomes)
    sanitizers = "AddressSanitizer and UBSan" if args.sanitized else "no sanitizer"
    return (
        f"# Mutated model folders\n\n{len(outcomes):,} folders of {len(TASKS)} kinds, seed "
        f"{args.seed}, loaded and asked with {sanitizers} by {args.workers} workers in "
        f"{seconds:,.0f} s on {processor()}. The slowest took {slowest:.2f} s of processor time "
        f"(limit {MAX_SECONDS:.0f}), the largest {most:,} MB (limit {MAX_BYTES >> 20:,}).\n\n"
        f"{table(outcomes)}\n"
    )


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.attack")
    parser.add_argument("seeds", type=Path, help="folder that tests.fuzz.seeds wrote")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", type=int, help="one case, in this process, with its traceback")
    parser.add_argument("--record", type=Path, help="write the counts there")
    parser.add_argument("--sanitized", action="store_true", help="copy tensors out of their files")
    return parser.parse_args(argv)


def repeat(args: argparse.Namespace) -> int:
    folder, draw, name = prepare(args.seeds, args.seeds.parent, args.seed, args.only)
    print(name, *mutate(folder, draw), folder, sep="\n")
    ask(folder, draw, name)
    return 0


def finite_seconds(value: float) -> str:
    return f"{value:.0f} s" if math.isfinite(value) else "?"


def main(argv: list[str]) -> int:
    args = parse(argv)
    warnings.simplefilter("ignore")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if args.sanitized:
        guard_tensors()
    if args.only is not None:
        return repeat(args)
    warm_up(args.seeds)
    began, outcomes = time.monotonic(), []
    for done in attack(args.seeds, list(range(args.cases)), args.seed, args.workers):
        outcomes.append(done)
        if done.is_failure:
            print(f"\ncase {done.case} ({done.seed_name}; {done.kind}: {done.what}): {done.result}")
        if sys.stderr.isatty() or len(outcomes) % 500 == 0:
            spent = time.monotonic() - began
            left = finite_seconds(spent / len(outcomes) * (args.cases - len(outcomes)))
            print(f"\r{len(outcomes):,} of {args.cases:,}, {left} left ", end="", file=sys.stderr)
    text = report(outcomes, time.monotonic() - began, args)
    print("\n" + text)
    if args.record:
        args.record.write_text(text)
    return int(any(done.is_failure for done in outcomes) or len(outcomes) != args.cases)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
