"""API keys, the admin routes, and what web pages may do."""

import gc
import json
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from polyrank import Reranker
from polyrank.errors import ConfigError
from polyrank.server.keys import Keys, read_keys
from tests.server.running import Running, held, running, wait_until

KEY, OTHER, ADMIN = "correct-horse", "battery-staple", "keys-to-the-house"
BODY = {"query": "cats", "texts": ["a cat", "a dog"]}
Folders = dict[str, Path]


@pytest.fixture(scope="module")
def locked(folders: Folders) -> Iterator[Running]:
    with running(
        {"reranker": folders["reranker"]},
        keys=(KEY, OTHER),
        admin_keys=(ADMIN,),
        on_demand={"embedder": folders["embedder"]},
        cors_origins=("https://example.org",),
    ) as made:
        yield made


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": f"bearer {OTHER}"},
        {"Authorization": KEY},
        {"Api-Key": KEY},
        {"X-Api-Key": OTHER},
    ],
)
def test_keys_are_taken_where_clients_put_them(locked: Running, headers: dict[str, str]) -> None:
    assert locked.call("/rerank", BODY, headers=headers).status == 200


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer ", "Bearer wrong", f"Basic {KEY}", ADMIN])
def test_other_keys_are_refused(locked: Running, value: str) -> None:
    for path in ("/rerank", "/v2/rerank", "/", "/tei/rerank"):
        reply = locked.call(path, BODY, headers={"Authorization": value})
        assert reply.status == 401, path
        assert reply.headers["www-authenticate"] == "Bearer"
        assert KEY.encode() not in reply.body
    for path in ("/info", "/v1/models", "/meta"):
        assert locked.call(path).status == 401


def test_health_and_metrics_need_no_key(locked: Running) -> None:
    for path in ("/health", "/ping", "/live", "/ready", "/metrics", "/.well-known/ready"):
        assert locked.call(path).status in (200, 204)
    for path in ("/v2/health/live", "/v2/health/ready"):
        assert locked.call(path).status == 200


def test_key_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# mine\n{KEY}  # laptop\n\n{OTHER}\n")
    path.chmod(0o600)
    monkeypatch.setenv("KEYS", f"{ADMIN}, another-key")
    keys = read_keys(path, "KEYS")
    for key in (KEY, OTHER, ADMIN, "another-key"):
        assert keys.accept({"authorization": f"Bearer {key}"})
    assert not keys.accept({"authorization": "Bearer mine"})
    assert KEY not in repr(keys) + repr(vars(keys))
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_keys(path, "KEYS")
    path.chmod(0o600)
    path.write_text("# none\n")
    with pytest.raises(ConfigError, match="no key"):
        read_keys(path, "KEYS")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_keys(tmp_path / "absent", "KEYS")
    with pytest.raises(ConfigError, match="8 characters"):
        Keys(["short"])


def test_keys_beyond_ascii(folders: Folders) -> None:
    key = "schlüssel-zum-haus"
    with running({"reranker": folders["reranker"]}, keys=(key, "鍵はここにあります")) as server:
        for sent, status in (
            (key.encode("utf8"), 200),
            (key.encode("latin-1"), 200),
            ("鍵はここにあります".encode(), 200),
            (b"schl?ssel-zum-haus", 401),
        ):
            headers = {"Authorization": "Bearer " + sent.decode("latin-1")}
            assert server.call("/rerank", BODY, headers=headers).status == status, sent


def test_cors(locked: Running, server: Running) -> None:
    asked = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    open_ = locked.call("/rerank", method="OPTIONS", headers=asked)
    assert open_.headers["access-control-allow-origin"] == "https://example.org"
    other = locked.call("/rerank", method="OPTIONS", headers=asked | {"Origin": "https://evil.org"})
    assert "access-control-allow-origin" not in other.headers
    closed = server.call("/rerank", BODY, headers=asked)
    assert closed.status == 403
    assert "access-control-allow-origin" not in closed.headers


def admin(server: Running, what: str, method: str = "POST", key: str = ADMIN) -> tuple[int, dict]:
    headers = {"Authorization": f"Bearer {key}"}
    reply = server.call(f"/admin/models{what}", method=method, headers=headers)
    return reply.status, json.loads(reply.body)


def test_admin_routes_want_their_own_key(locked: Running, server: Running) -> None:
    assert admin(locked, "", "GET", KEY)[0] == 401
    assert admin(locked, "/embedder/load", key=KEY)[0] == 401
    assert server.call("/admin/models").status == 404  # no admin key, no such route


def test_models_come_and_go(locked: Running) -> None:
    headers = {"Authorization": KEY}
    embed = {"inputs": "a"}
    assert locked.call("/embed", embed, headers=headers).status == 424
    named = locked.call("/embed", embed | {"model": "embedder"}, headers=headers)
    assert named.status == 503  # known, but not loaded
    status, states = admin(locked, "/embedder/load")
    assert status == 200
    assert {state["name"]: state["is_loaded"] for state in states["models"]} == {
        "reranker": True,
        "embedder": True,
    }
    assert locked.call("/embed", embed, headers=headers).status == 200
    memory = weakref.ref(locked.site.registry.loaded[1].engine.encoder)
    assert admin(locked, "/embedder/unload")[0] == 200
    gc.collect()
    assert memory() is None
    assert locked.call("/embed", embed, headers=headers).status == 424
    assert admin(locked, "/embedder/unload")[0] == 404
    assert admin(locked, "/reranker/unload")[0] == 400  # the last one stays
    assert admin(locked, "/..%2F..%2Fetc/load")[0] == 404  # only names given at start
    assert admin(locked, "", "GET")[1]["models"][1]["is_loaded"] is False


def test_replacing_a_model_drops_no_request(folders: Folders, tmp_path: Path) -> None:
    from tests import checkpoints

    link = tmp_path / "current"
    link.symlink_to(folders["reranker"])
    other = checkpoints.make("bge-reranker-base", tmp_path / "other", seed=7)
    with running({"reranker": link}, admin_keys=(ADMIN,)) as server:
        before = server.post("/rerank", BODY)
        with held(server, "reranker") as encoder:
            replies: list[object] = []
            thread = threading.Thread(target=lambda: replies.append(server.post("/rerank", BODY)))
            thread.start()
            wait_until(lambda: encoder.num_begun == 1)
            link.unlink()
            link.symlink_to(other)
            # the probe of the new model waits for the batch that is held up
            threading.Timer(0.3, encoder.go.set).start()
            assert admin(server, "/reranker/load")[0] == 200
            thread.join(10)
        assert replies == [before]  # by the old weights
        wanted = Reranker(other).rank("cats", BODY["texts"])  # type: ignore[arg-type]
        after = server.post("/rerank", BODY)
        assert [row["index"] for row in after] == [hit.index for hit in wanted]
        assert after[0]["score"] == pytest.approx(wanted[0].score, abs=1e-6)
        link.unlink()
        link.symlink_to(tmp_path / "nothing")
        status, reply = admin(server, "/reranker/load")
        assert status == 500
        assert "current" in reply["error"]["message"]
        assert server.post("/rerank", BODY) == after
