"""How far long work is, in a log and on a terminal."""

import sys

import pytest

from polyrank.cli import progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time; its only number may be changed."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_every_half_minute(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.steps(quiet=False) as report:
        assert report is not None
        for second in range(0, 301, 10):
            clock[0] = 100.0 + second
            report("lists", 10 * second, 12_000, "loss 0.31" if second == 300 else "")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[0] == "lists: 300 of 12,000, 0:30 gone, about 19:30 left"
    assert lines[-1] == "lists: 3,000 of 12,000, 5:00 gone, about 15:00 left, loss 0.31"


def test_each_step_and_each_part_of_one_has_its_own_time(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.steps(quiet=False) as report:
        assert report is not None
        for now, step, done in (
            (0, "center", 0),
            (40, "center", 0),  # nothing done: no guess at what is left
            (50, "lists", 0),
            (7_250, "lists", 100),
            (7_260, "lists", 0),  # the next thousand texts
            (7_300, "lists", 50),
        ):
            clock[0] = 100.0 + now
            report(step, done, 200)
    assert capsys.readouterr().err.splitlines() == [
        "center: 0 of 200, 0:40 gone",
        "lists: 100 of 200, 2:00:00 gone, about 2:00:00 left",
        "lists: 50 of 200, 0:40 gone, about 2:00 left",
    ]


def test_short_and_quiet_work_says_nothing(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.tokens("ranking", quiet=False) as report:
        assert report is not None
        clock[0] += 29
        report(5, 10)
    with progress.tokens("ranking", quiet=True) as report:
        assert report is None
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_bars(
    clock: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress.tokens("ranking", quiet=False) as report:
        assert report is not None
        report(1_000, 4_000)
        assert capsys.readouterr().err == ""  # too soon to tell
        clock[0] += 1
        report(2_000, 4_000)
    assert "2,000 of 4,000" in capsys.readouterr().err
