import json
import subprocess
import sys

import pytest

from polyrank.cli.storage import DIMENSIONS, TEXT_BYTES, TOKENS, plan_storage


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "polyrank", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_storage_grows_with_passages() -> None:
    one, ten = (plan_storage(n, {"int8": 6_000, "float32": 2_000}) for n in (10**6, 10**7))
    by_form = {choice["form"]: choice for choice in one["choices"]}
    plain = by_form["vectors: float32"]
    assert plain["bytes"] == 10**6 * (4 * DIMENSIONS + TEXT_BYTES)
    assert plain["memory_bytes"] == 10**6 * 4 * DIMENSIONS
    assert by_form["vectors: binary, rescored by int8"]["memory_bytes"] == 10**6 * DIMENSIONS // 8
    rows = by_form["rows beside them: int8"]
    assert (rows["bytes"], rows["memory_bytes"]) == (10**6 * DIMENSIONS * TOKENS, 0)
    assert one["embedding"]["hours"] == pytest.approx(10**6 * TOKENS / 6_000 / 3600, abs=0.01)
    for small, large in zip(one["choices"], ten["choices"], strict=True):
        assert large["bytes"] == 10 * small["bytes"]
    assert "embedding" not in plan_storage(1, {})


def test_doctor_prints_the_plan_with_what_it_assumes() -> None:
    plan = json.loads(run("--passages", "10000000", "--json").stdout)["storage"]
    assert plan["passages"] == 10_000_000
    assert plan["measured"]["gb_compared_per_second"] > 0
    assert plan["assumed"]["dimensions"] == DIMENSIONS
    assert "storage" not in json.loads(run("--json").stdout)
    refused = run("--passages", "0")
    assert refused.returncode == 2
    assert "--passages" in refused.stderr
