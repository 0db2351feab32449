"""Ctrl-C at any moment, streams that are closed, and outputs that are no files."""

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "polyrank"]
Checkpoint = Callable[[str], Path]


def hear_ctrl_c() -> None:
    """Undo what a shell's background job, as CI may be, hands on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def stop_when(process: subprocess.Popen[str], is_due: Callable[[], bool]) -> tuple[float, str]:
    """Send Ctrl-C when it is due; return the seconds until the end, and standard error."""
    deadline = time.monotonic() + 60
    while not is_due() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    return time.monotonic() - begun, told


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "many.txt"
    text = "What is said of cats and of the weather, at some length, in a line. " * 6
    path.write_text("".join(f"{i} {text}\n" for i in range(20_000)))
    return path


def memory_maps(process: subprocess.Popen[str]) -> str:
    try:
        return Path(f"/proc/{process.pid}/maps").read_text()
    except OSError:
        return ""


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
@pytest.mark.parametrize("moment", ["NumPy is imported", "tokenizers are imported", "texts run"])
def test_ctrl_c_ends_within_a_second(many: Path, tmp_path: Path, moment: str) -> None:
    target = tmp_path / "vectors.jsonl"
    process = subprocess.Popen(
        [*COMMAND, "embed", str(many), "--output", str(target), "--quiet"],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_ctrl_c,
    )
    due = {
        "NumPy is imported": lambda: "_multiarray_umath" in memory_maps(process),
        "tokenizers are imported": lambda: "tokenizers" in memory_maps(process),
        "texts run": lambda: not time.sleep(1) and any(tmp_path.iterdir()),
    }
    seconds, told = stop_when(process, due[moment])
    assert process.returncode == 130
    assert told == "stopped\n"
    # tokenizer.json of 250,000 pieces is parsed in one step, 0.7 s of a processor of one's own
    assert seconds < (3 if moment == "tokenizers are imported" else 1.5)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_in_the_first_moments() -> None:
    for wait in (0.1, 0.3):
        process = subprocess.Popen(
            [*COMMAND, "rerank", "q"],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=hear_ctrl_c,
        )
        begun = time.monotonic()
        due = begun + wait
        is_ours = "polyrank" in memory_maps(process)  # Python's own start has its own traceback
        seconds, told = stop_when(process, lambda due=due: time.monotonic() > due)  # type: ignore[misc]
        assert seconds < 1
        if is_ours or wait > 0.1:
            assert (process.returncode, told) == (130, "stopped\n")


def test_ctrl_c_within_code_that_is_made_from_a_string(tmp_path: Path) -> None:
    """Dataclasses make some; a plain KeyboardInterrupt out of it ends Python by the signal."""
    (tmp_path / "stopped_in_exec.py").write_text(
        "from polyrank.cli import app, main\n"
        "made = 'import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(5)'\n"
        "app.run = lambda: exec(made)\n"
        "main.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "stopped_in_exec"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        preexec_fn=hear_ctrl_c,
    )
    assert (done.returncode, done.stderr) == (130, "stopped\n")


def test_a_job_that_ignores_ctrl_c_goes_on(checkpoint: Checkpoint) -> None:
    process = subprocess.Popen(
        [*COMMAND, "rerank", "q", "--model", str(checkpoint("bge-reranker-base"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    found, told = process.communicate("one\n", timeout=60)
    assert process.returncode == 0, told
    assert '"text": "one"' in found


def shell(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120)


def test_closed_streams(checkpoint: Checkpoint, tmp_path: Path) -> None:
    command = " ".join([*COMMAND, "rerank", "q", "--model", str(checkpoint("bge-reranker-base"))])
    target = tmp_path / "out.jsonl"
    done = shell(f"echo one | {command} >&-")
    assert done.returncode == 1
    assert done.stderr == "error: standard output: is closed; name a file with --output\n"
    done = shell(f"echo one | {command} --output {target} >&- 2>&-")
    assert done.returncode == 0
    assert '"text": "one"' in target.read_text()
    done = shell(f"{command} <&-")
    assert done.returncode == 1
    assert "standard input is closed" in done.stderr
    for closed in ("--help >&-", "doctor >&-"):
        done = shell(f"{' '.join(COMMAND)} {closed}")
        assert "Traceback" not in done.stderr
        assert done.returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_standard_output_is_named(checkpoint: Checkpoint) -> None:
    command = " ".join([*COMMAND, "rerank", "q", "--model", str(checkpoint("bge-reranker-base"))])
    done = shell(f"echo one | {command} > /dev/full")
    assert done.returncode == 1
    assert done.stderr == "error: standard output: No space left on device\n"


def test_outputs_that_are_no_files(checkpoint: Checkpoint, tmp_path: Path) -> None:
    arguments = ["rerank", "q", "--model", str(checkpoint("bge-reranker-base")), "--output"]
    command = " ".join([*COMMAND, *arguments])
    expected = shell(f"echo one | {command} -").stdout
    assert '"text": "one"' in expected
    null = tmp_path / "null"
    null.symlink_to("/dev/null")
    assert shell(f"echo one | {command} {null}").returncode == 0
    assert null.is_symlink()
    assert shell(f"echo one | {command} /dev/stdout").stdout == expected
    assert shell(f"echo one | {command} >(cat)").stdout == expected
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert shell(f"cat {fifo} & echo one | {command} {fifo}; wait").stdout == expected


def test_ctrl_c_on_a_terminal_shows_its_cursor_again(many: Path) -> None:
    main, second = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "embed", str(many), "--output", "/dev/null"],
        stderr=second,
        text=True,
        preexec_fn=hear_ctrl_c,
    )
    os.close(second)
    told = b""
    while b"\x1b[?25l" not in told:  # a bar hides it
        told += os.read(main, 4096)
    process.send_signal(signal.SIGINT)
    process.wait(10)
    told += os.read(main, 65536)
    os.close(main)
    assert told.rindex(b"\x1b[?25h") > told.rindex(b"\x1b[?25l")
    assert told.rstrip().endswith(b"stopped")
