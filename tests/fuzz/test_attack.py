"""A small attack in every run of the tests, and that an attack sees what it is there to see."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz import attack
from tests.fuzz.seeds import make_seeds

NUM_CASES = 300


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = tmp_path_factory.mktemp("fuzz") / "seeds"
    make_seeds(parent)
    return parent


@pytest.mark.skipif(sys.platform != "linux", reason="workers are watched through /proc")
def test_mutated_folders_work_or_are_refused_in_our_own_words(seeds: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz.attack", str(seeds), "--cases", str(NUM_CASES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{NUM_CASES} folders of {len(attack.TASKS)} kinds" in done.stdout


def panic() -> None:
    raise BaseException("a panic of Rust is no Exception")


def spin() -> None:
    while True:
        pass


def resident_after_fork() -> int:
    """What a worker begins with: less than this process has, since mapped files are not counted."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.write(writer, str(attack.resident_bytes(os.getpid())).encode())
        os._exit(0)
    os.wait()
    os.close(writer)
    with open(reader) as told:
        return int(told.read())


def grow() -> int:
    return len(b"\1" * (400 << 20))


FAULTS: dict[str, tuple[Callable[[], object], str]] = {
    "a foreign error": (lambda: {}["key"], "KeyError at test_attack.py"),
    "a panic": (panic, "BaseException at test_attack.py"),
    "a crash": (os.abort, "crash, exit -6"),
    "a hang": (spin, "hang: ended after"),
    "too much memory": (grow, "memory: "),
}


@pytest.mark.skipif(sys.platform != "linux", reason="workers are watched through /proc")
@pytest.mark.parametrize("fault", FAULTS)
def test_an_attack_sees(seeds: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    act, said = FAULTS[fault]
    monkeypatch.setattr(attack, "ask", lambda folder, draw, name: act())
    monkeypatch.setattr(attack, "MAX_SECONDS", 1.0)
    monkeypatch.setattr(attack, "MAX_BYTES", resident_after_fork() + (200 << 20))
    outcomes = list(attack.attack(seeds, [0, 1], seed=0, num_workers=1))
    assert [done.case for done in outcomes] == [0, 1]  # the next case runs all the same
    for done in outcomes:
        assert done.is_failure
        assert done.result.startswith(said), done.result


def test_a_case_can_be_repeated(seeds: Path, tmp_path: Path) -> None:
    told = []
    for _ in range(2):
        folder, draw, name = attack.prepare(seeds, tmp_path, 3, 17)
        told.append((name, attack.mutate(folder, draw), draw.random()))
    assert told[0] == told[1]
