"""Affinity and control groups, read from folders that look like ``/proc`` and ``/sys``."""

from pathlib import Path

import pytest

from polyrank.encoder import threads
from polyrank.encoder.threads import (
    cgroup_quota,
    parse_cfs,
    parse_cpu_max,
    parse_groups,
    usable_threads,
)

V1_LINES = "5:memory:/box\n4:cpu,cpuacct:/box/inner\n1:name=systemd:/\n"


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "allowed_cores", lambda: 8)


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("150000 100000\n", 1.5),
        ("max 100000\n", None),
        ("", None),
        ("0 100000", None),
        ("200000", None),
        ("nonsense 3", None),
    ],
)
def test_cpu_max(text, cores):
    assert parse_cpu_max(text) == cores


@pytest.mark.parametrize(
    ("quota", "period", "cores"),
    [("50000\n", "100000\n", 0.5), ("-1", "100000", None), ("100000", "0", None)],
)
def test_cfs(quota, period, cores):
    assert parse_cfs(quota, period) == cores


def test_groups_keep_colons_and_skip_other_lines():
    groups = parse_groups("0::/a:b/c\n4:cpu,cpuacct:/d\nrubbish\n")
    assert [(names, str(path)) for names, path in groups] == [
        ((), "/a:b/c"),
        (("cpu", "cpuacct"), "/d"),
    ]


def test_version_2_takes_the_tightest_ancestor(tmp_path):
    write(tmp_path, "proc/self/cgroup", "0::/slice/pod/box\n")
    write(tmp_path, "sys/fs/cgroup/slice/cpu.max", "200000 100000")
    write(tmp_path, "sys/fs/cgroup/slice/pod/cpu.max", "max 100000")
    write(tmp_path, "sys/fs/cgroup/slice/pod/box/cpu.max", "300000 100000")
    assert cgroup_quota(tmp_path) == 2.0


def test_version_2_inside_a_container_reads_the_mount(tmp_path):
    write(tmp_path, "proc/self/cgroup", "0::/only/the/host/sees/this\n")
    write(tmp_path, "sys/fs/cgroup/cpu.max", "50000 100000")
    assert cgroup_quota(tmp_path) == 0.5


def test_a_path_that_leads_upwards_stays_inside_the_mount(tmp_path):
    write(tmp_path, "proc/self/cgroup", "0::/../../box\n")
    write(tmp_path, "sys/fs/cgroup/box/cpu.max", "100000 100000")
    write(tmp_path, "sys/box/cpu.max", "1 100000")
    assert cgroup_quota(tmp_path) == 1.0


@pytest.mark.parametrize("folder", ["cpu", "cpu,cpuacct"])
def test_version_1(tmp_path, folder):
    write(tmp_path, "proc/self/cgroup", V1_LINES)
    write(tmp_path, f"sys/fs/cgroup/{folder}/box/cpu.cfs_quota_us", "250000")
    write(tmp_path, f"sys/fs/cgroup/{folder}/box/cpu.cfs_period_us", "100000")
    write(tmp_path, f"sys/fs/cgroup/{folder}/box/inner/cpu.cfs_quota_us", "-1")
    write(tmp_path, f"sys/fs/cgroup/{folder}/box/inner/cpu.cfs_period_us", "100000")
    assert cgroup_quota(tmp_path) == 2.5


def test_no_control_groups_mean_no_quota(tmp_path):
    assert cgroup_quota(tmp_path) is None


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(
    ("cpu_max", "expected"),
    [("150000 100000", 2), ("10000 100000", 1), ("1600000 100000", 8), ("max 100000", 8)],
)
def test_usable_threads(tmp_path, cpu_max, expected):
    write(tmp_path, "proc/self/cgroup", "0::/\n")
    write(tmp_path, "sys/fs/cgroup/cpu.max", cpu_max)
    assert usable_threads(tmp_path) == expected


def test_this_machine_has_a_thread():
    assert usable_threads() >= 1


def test_cores_where_the_system_has_no_affinity(monkeypatch):
    monkeypatch.delattr(threads.os, "sched_getaffinity", raising=False)
    assert threads.allowed_cores() >= 1
