"""What is written is whole or not there, whatever the path names and whoever else writes."""

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from polyrank import _files
from polyrank._files import building, holding, publish, replacing
from polyrank.errors import ConfigError

WRITER = """
import sys, time
from pathlib import Path
from polyrank._files import {function} as make
with make(Path(sys.argv[1])) as path:
    (path / "part" if path.is_dir() else path).write_text("half")
    print("there", flush=True)
    time.sleep(60)
"""


def writer(path: Path, function: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER.format(function=function), str(path)],
        stdout=subprocess.PIPE,
        text=True,
        # a shell's background job, as CI may be, hands on that Ctrl-C is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    return process


def fill(path: Path, text: str = "x") -> None:
    with replacing(path) as temporary:
        temporary.write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target = tmp_path / "there" / "out.txt"
    target.write_text("before")
    target.chmod(0o600)
    link = tmp_path / "link.txt"
    link.symlink_to(target)
    with replacing(link) as path:
        assert path.parent == target.parent
        path.write_text("after")
    assert link.is_symlink()
    assert target.read_text() == "after"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    dangling = tmp_path / "dangling.txt"
    dangling.symlink_to(tmp_path / "new.txt")
    with replacing(dangling) as path:
        path.write_text("new")
    assert (tmp_path / "new.txt").read_text() == "new"
    assert dangling.is_symlink()


def test_devices_and_fifos_are_written_to(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append(fifo.read_text()))
    reader.start()
    with replacing(fifo) as path:
        path.write_text("through")
    reader.join(10)
    assert found == ["through"]
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    link = tmp_path / "null"  # not the device itself: as root a fault would replace it
    link.symlink_to("/dev/null")
    with replacing(link) as path:
        path.write_text("gone")
    assert link.is_symlink()
    assert names(tmp_path) == ["fifo", "null"]


@pytest.mark.parametrize("function", ["replacing", "building"])
def test_a_second_writer_is_told_who_holds_it(tmp_path: Path, function: str) -> None:
    output = tmp_path / "a [1]*.out"
    first = writer(output, function)
    make = building if function == "building" else replacing
    try:
        with pytest.raises(ConfigError, match=rf"another process \(number {first.pid}\)"):
            make(output).__enter__()
        with replacing(tmp_path / "another.out") as path:
            path.write_text("other names are free")
        assert len(names(tmp_path)) == 2
    finally:
        first.kill()
        first.communicate()
    assert len(names(tmp_path)) == 2  # what the killed writer left
    with make(output) as path:
        assert len([name for name in names(tmp_path) if name.endswith((".part", ".out"))]) == 2
        assert path.exists()
    assert not [name for name in names(tmp_path) if ".part" in name]


def test_files_of_a_cache_may_have_two_writers(tmp_path: Path) -> None:
    first = writer(tmp_path / "a.npy", "replacing")
    try:
        with replacing(tmp_path / "a.npy", is_shared=True) as path:
            path.write_text("mine")
        assert (tmp_path / "a.npy").read_text() == "mine"
    finally:
        first.kill()
        first.communicate()


def test_a_folder_in_work_is_held(tmp_path: Path) -> None:
    with holding(tmp_path, tmp_path), pytest.raises(ConfigError, match=f"number {os.getpid()}"):
        holding(tmp_path, tmp_path).__enter__()
    with holding(tmp_path, tmp_path):
        pass


def test_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = tmp_path / "out.txt"
    link.symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: '.*out\.txt'"):
        fill(link, "x" * 100_000)

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_files, "_sync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*other\.txt'"):
        fill(tmp_path / "other.txt")
    assert names(tmp_path) == ["out.txt"]


def test_errors_name_what_was_asked_for(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError, match=r"none\.txt'$"),
        replacing(tmp_path / "none.txt") as path,
    ):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"input\.txt'$"), replacing(tmp_path / "out.txt"):
        (tmp_path / "input.txt").read_text()


def test_data_and_names_reach_the_disk_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync = _files._sync

    def noted(path: Path) -> None:
        sync(path)
        done.append(f"{path.name if path.is_dir() else 'file'} {(tmp_path / 'out').exists()}")

    monkeypatch.setattr(_files, "_sync", noted)
    with replacing(tmp_path / "out") as path:
        path.write_text("x")
    assert done == ["file False", f"{tmp_path.name} True"]


def test_a_folder_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    output = tmp_path / "model"
    for content in ("old", "new"):
        with building(output) as folder:
            (folder / "deep").mkdir()
            (folder / "deep" / "file").write_text(content)
            publish(folder, output)
        assert (output / "deep" / "file").read_text() == content
    assert names(tmp_path) == ["model"]


def test_a_stopped_writer_leaves_nothing(tmp_path: Path) -> None:
    process = writer(tmp_path / "out.txt", "replacing")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert names(tmp_path) == []
