"""What a server's registry says of a checkpoint, and when a model counts as another one."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from polyrank.server.models import Registry
from polyrank.server.settings import ModelSource, ServerSettings
from tests.hostile.test_words import swap
from tests.server.running import running

DOCUMENTS = ["cats sleep", "a dog", "the tall tower"]


@pytest.fixture
def folder(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint("multilingual-e5-small"), tmp_path / "e5"))


def registry(folder: Path) -> Registry:
    return Registry(ServerSettings((ModelSource("e5", str(folder)),), port=0))


def test_what_was_assumed_is_logged_once_at_load(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("polyrank"), "propagate", True)
    (folder / "modules.json").unlink()
    with caplog.at_level(logging.WARNING, "polyrank.server"):
        registry(folder).load_all()
    (record,) = [each for each in caplog.records if "describes no head" in each.getMessage()]
    assert record.polyrank_fields == {"model": "e5"}


CHANGES: dict[str, Callable[[Path], None]] = {
    "config": lambda folder: change(folder / "config.json", layer_norm_eps=1e-3),
    "prompts": lambda folder: change(
        folder / "config_sentence_transformers.json", prompts={"query": "ask: "}
    ),
    "length": lambda folder: change(folder / "sentence_bert_config.json", max_seq_length=9),
    "pooling": lambda folder: swap(
        folder, "1_Pooling/config.json", json.dumps({"pooling_mode_cls_token": True})
    ),
    "normalize": lambda folder: (folder / "modules.json").write_text(
        json.dumps(json.loads((folder / "modules.json").read_text())[:2])
    ),
}


def change(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("what", list(CHANGES))
def test_the_fingerprint_covers_settings(what: str, folder: Path) -> None:
    served = registry(folder)
    before = served.load("e5").fingerprint
    assert served.load("e5").fingerprint == before
    CHANGES[what](folder)
    assert served.load("e5").fingerprint != before


def test_a_hot_swap_serves_no_result_of_the_model_before(folder: Path) -> None:
    headers = {"authorization": "Bearer of-an-admin"}
    body = {"model": "e5", "query": "cats", "documents": DOCUMENTS}
    with running({"e5": folder}, admin_keys=("of-an-admin",)) as server:
        before = server.post("/v2/rerank", body)["results"]
        assert server.post("/v2/rerank", body)["results"] == before
        CHANGES["pooling"](folder)
        reply = server.call("/admin/models/e5/load", method="POST", headers=headers)
        assert reply.status == 200, reply.body
        after = server.post("/v2/rerank", body)["results"]
    assert {each["relevance_score"] for each in before}.isdisjoint(
        each["relevance_score"] for each in after
    )
