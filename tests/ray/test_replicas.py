"""Replicas that come and go under load, a model that is replaced, health and the command."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from ray import serve
from ray.serve.schema import ServeDeploySchema

from polyrank import Embedder, Reranker
from polyrank.errors import ConfigError, UnavailableError
from polyrank.server.keys import Keys
from polyrank.server.ray.application import RayArguments, app
from polyrank.server.ray.policy import BUSY_SHARE, QUEUED_TOKENS, QueuedTokensPolicy
from polyrank.server.ray.replica import Replica, ReplicaPlan
from polyrank.server.settings import ModelSource, ServerSettings
from tests.bulk.servers import free_port
from tests.ray.serving import Clients, deploy, num_replicas, wait_for
from tests.texts import SENTENCES

ROOT = Path(__file__).parents[2]
Folders = dict[str, Path]
QUERY = "how long do cats live?"
DOCUMENTS = list(SENTENCES.values())[:8]
RERANK = ("/rerank", {"query": QUERY, "texts": DOCUMENTS})
EMBED = ("/embed", {"inputs": DOCUMENTS})
COMMAND = [sys.executable, "-m", "polyrank", "serve"]


def scores(folder: Path) -> list[tuple[int, float]]:
    return [(hit.index, float(hit.score)) for hit in Reranker(folder).rank(QUERY, DOCUMENTS)]


def told(body: Any) -> list[tuple[int, float]]:
    return [(row["index"], row["score"]) for row in body]


def test_no_request_fails_while_replicas_come_and_go(folders: Folders, proxy: int) -> None:
    models = {"rerank": folders["reranker"], "embed": folders["embedder"]}
    replicas = {
        "max_replicas": 3,
        "queued_tokens": 40,
        "upscale_delay_s": 0.5,
        "downscale_delay_s": 2,
        "look_back_s": 2.5,
    }
    deploy(models, replicas=replicas)
    with Clients(proxy, [RERANK, EMBED], 12) as many:
        wait_for(lambda: num_replicas() == 3)
        time.sleep(3)
    with Clients(proxy, [RERANK], 1) as few:
        wait_for(lambda: num_replicas() == 1)
    assert not many.failed + few.failed
    wanted = scores(folders["reranker"])
    answers = [each for each in many.answers + few.answers if each.question == 0]
    assert all(told(answer.body) == wanted for answer in answers)


def test_no_request_fails_while_a_model_is_replaced(
    folders: Folders, proxy: int, checkpoint: Callable[[str], Path]
) -> None:
    embedder = folders["embedder"]
    after = checkpoint("bge-reranker-v2-m3")
    old, new = scores(folders["reranker"]), scores(after)
    assert old != new
    vectors = Embedder(embedder).encode(DOCUMENTS)
    two = {"min_replicas": 2, "max_replicas": 2}
    deploy({"rerank": folders["reranker"], "embed": embedder}, replicas=two)
    with Clients(proxy, [RERANK, EMBED], 6) as clients:
        time.sleep(2)
        deploy({"rerank": after, "embed": embedder}, replicas=two)
        wait_for(lambda: num_replicas("STOPPING") == 0)
        replaced = time.monotonic()
        time.sleep(2)
    assert not clients.failed
    for answer in clients.answers:
        if answer.question == 1:
            assert np.asarray(answer.body, np.float32).tobytes() == vectors.tobytes()
        elif answer.begun > replaced:
            assert told(answer.body) == new
        else:
            assert told(answer.body) in (old, new)


def test_a_model_that_does_not_load_changes_nothing(
    folders: Folders, proxy: int, tmp_path: Path
) -> None:
    deploy({"rerank": folders["reranker"]})
    with Clients(proxy, [RERANK], 2) as clients:
        with pytest.raises(RuntimeError, match="deploy"):
            deploy({"rerank": tmp_path / "nothing"})
        time.sleep(1)
    assert not clients.failed
    wanted = scores(folders["reranker"])
    assert all(told(answer.body) == wanted for answer in clients.answers)


def test_a_replica_is_as_healthy_as_its_server(folders: Folders) -> None:
    settings = ServerSettings((ModelSource("rerank", str(folders["reranker"])),), num_threads=1)
    replica = Replica(ReplicaPlan(settings, Keys(), log_level="warning"))
    assert replica.__serve_build_asgi_app__() is replica.site.app
    asyncio.run(replica.check_health())
    reported = asyncio.run(replica.record_autoscaling_stats())
    assert reported[QUEUED_TOKENS] == 0
    assert 0 < reported[BUSY_SHARE] <= 1
    replica.site.scheduler.close()
    with pytest.raises(UnavailableError):
        asyncio.run(replica.check_health())


class Context:
    def __init__(self, now: int, waiting: list[float], busy: list[float]) -> None:
        self.current_num_replicas = now
        self.aggregated_metrics = {
            QUEUED_TOKENS: dict(enumerate(waiting)),
            BUSY_SHARE: dict(enumerate(busy)),
        }


@pytest.mark.parametrize(
    ("now", "waiting", "busy", "wanted"),
    [
        (1, [0], [0.1], 1),
        (1, [100], [1.0], 1),  # as many as may wait
        (1, [101], [1.0], 2),
        (1, [1000], [1.0], 10),
        (3, [0, 0, 0], [0.9, 0.8, 0.7], 3),  # nothing waits, since all three are there
        (3, [0, 0, 0], [0.2, 0.1, 0.2], 1),
        (2, [0, 0], [1.0, 1.0], 2),  # work alone adds none
        (1, [], [], 1),
    ],
)
def test_replicas_by_tokens_that_wait(
    now: int, waiting: list[float], busy: list[float], wanted: int
) -> None:
    assert QueuedTokensPolicy(100)(Context(now, waiting, busy)) == (wanted, {})


def test_arguments_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no setting max_batch_token in .* max_batch_tokens"):
        app(RayArguments(server={"max_batch_token": 1}))
    with pytest.raises(ConfigError, match="no setting port"):
        app(RayArguments(server={"port": 1}))
    with pytest.raises(ValueError, match="min_replicas=3 and max_replicas=1"):
        RayArguments(replicas={"min_replicas": 3})
    with pytest.raises(ValueError, match="max_concurrent_requests must be above 0"):
        app(RayArguments(server={"limits": {"max_concurrent_requests": 0}}))
    with pytest.raises(ConfigError, match="key file"):
        app(RayArguments(api_key_file=tmp_path / "none"))


def run(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen([*COMMAND, *map(str, arguments)], stderr=subprocess.PIPE, text=True)


def asked(url: str, process: subprocess.Popen[str], **headers: str) -> httpx.Response:
    """Ask until somebody answers."""
    for _ in range(600):
        assert process.poll() is None, process.communicate()
        try:
            reply = httpx.post(url + RERANK[0], json=RERANK[1], headers=headers)
            if reply.status_code != 404:  # before the application is there
                return reply
        except httpx.ConnectError:
            pass
        time.sleep(0.1)
    raise AssertionError("nobody answers")


def test_the_command(folders: Folders, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("a-key-of-mine")
    keys.chmod(0o600)
    port = free_port()
    process = run(
        *("--ray", "local", "--port", port, "-m", f"rerank={folders['reranker']}"),
        *("--threads", 1, "--api-key-file", keys),
    )
    url = f"http://127.0.0.1:{port}"
    reply = asked(url, process, authorization="Bearer a-key-of-mine")
    assert told(reply.json()) == scores(folders["reranker"])
    assert httpx.post(url + RERANK[0], json=RERANK[1]).status_code == 401
    assert process.stderr is not None
    while "info listening" not in (line := process.stderr.readline()):
        assert line, "it ended"
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--ray", "local", "--on-demand", "x=y"], "admin route"),
        (["--max-replicas", 2], "give --ray"),
        (["--ray", "local", "--min-replicas", 2], "no fewer at most"),
        (["--ray", "127.0.0.1:1"], "no Ray cluster can be reached"),
    ],
)
def test_what_the_command_refuses(arguments: list[object], words: str) -> None:
    process = run(*arguments)
    _, said = process.communicate(timeout=60)
    assert process.returncode in (1, 2)
    assert words in " ".join(said.split())
    assert "Traceback" not in said


def test_the_config_file() -> None:
    """It is what Ray Serve wants, and its application answers."""
    known = ServeDeploySchema.model_validate(
        yaml.safe_load((ROOT / "deploy" / "ray" / "serve.yaml").read_text())
    )
    (application,) = known.applications
    assert application.import_path == "polyrank.server.ray:app"
    made = app(RayArguments.model_validate(application.args))
    assert isinstance(made, serve.Application)
