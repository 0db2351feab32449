"""Probabilities and thresholds over the wire, in every protocol that ranks."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyrank import Reranker
from polyrank.calibration.calibration import Calibration, RankCalibration, as_content
from polyrank.calibration.thresholds import ThresholdRow
from polyrank.checkpoint.gate import fingerprint
from polyrank.checkpoint.layouts import CALIBRATION_FILE
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.client import Client
from polyrank.errors import CapabilityError, ConfigError
from tests.server.running import Running, running
from tests.texts import SENTENCES

QUERY = "how long do cats live?"
DOCUMENTS = list(SENTENCES.values())[:8]


@pytest.fixture(scope="module")
def folder(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a reranker that gives half of the documents more than one half."""
    made = tmp_path_factory.mktemp("calibrated") / "model"
    shutil.copytree(checkpoint("bge-reranker-base"), made)
    logits = Reranker(made).score([(QUERY, text) for text in DOCUMENTS], logits=True)
    middle = float(np.median(logits))
    rows = (ThresholdRow(0.1, 0.2, 1.0), ThresholdRow(0.5, 0.9, 0.6))
    own = RankCalibration(5.0, -5.0 * middle, thresholds=rows)
    content = as_content(Calibration(own), fingerprint(read_checkpoint(made).weights.paths))
    (made / CALIBRATION_FILE).write_text(json.dumps(content))
    return made


@pytest.fixture(scope="module")
def served(folder: Path, checkpoint: Callable[[str], Path]) -> Iterator[Running]:
    models = {"calibrated": folder, "plain": checkpoint("bge-reranker-base")}
    with running(models) as made:
        yield made


ASKED = {"query": QUERY, "documents": DOCUMENTS, "model": "calibrated"}
PROTOCOLS: dict[str, tuple[dict[str, Any], Callable[[Any], list[dict[str, Any]]]]] = {
    "/polyrank/rank": (ASKED, lambda reply: reply["results"]),
    "/cohere/v1/rerank": (ASKED, lambda reply: reply["results"]),
    "/cohere/v2/rerank": (ASKED, lambda reply: reply["results"]),
    "/jina/v1/rerank": (ASKED, lambda reply: reply["results"]),
    "/vllm/rerank": (ASKED, lambda reply: reply["results"]),
    "/infinity/rerank": (ASKED, lambda reply: reply["results"]),
    "/voyage/v1/rerank": (ASKED, lambda reply: reply["data"]),
    "/pinecone/rerank": (
        ASKED | {"documents": [{"text": text} for text in DOCUMENTS]},
        lambda reply: reply["data"],
    ),
    "/tei/rerank": (
        {"query": QUERY, "texts": DOCUMENTS, "model": "calibrated"},
        lambda reply: reply,
    ),
}


@pytest.mark.parametrize("path", PROTOCOLS)
def test_each_protocol_gives_the_library_s_values(path: str, served: Running, folder: Path) -> None:
    body, rows_of = PROTOCOLS[path]
    library = Reranker(folder).rank(QUERY, DOCUMENTS)
    wanted = [(hit.index, hit.probability) for hit in library]
    told = rows_of(served.post(path, body | {"return_probabilities": True}))
    assert [(row["index"], row["probability"]) for row in told] == wanted
    kept = [(i, value) for i, value in wanted if value is not None and value >= 0.5]
    assert 0 < len(kept) < len(wanted)
    for least in (0.5, "0.5", "precision:0.9"):
        found = rows_of(served.post(path, body | {"min_probability": least}))
        assert [(row["index"], row["probability"]) for row in found] == kept
    assert rows_of(served.post(path, body | {"min_probability": 1})) == []
    if path != "/polyrank/rank":
        plain = rows_of(served.post(path, body))
        assert [row["index"] for row in plain] == [i for i, _ in wanted]
        assert not any("probability" in row for row in plain)


def test_what_cannot_be_done_is_told(served: Running) -> None:
    with Client(served.url) as client:
        with pytest.raises(CapabilityError, match="polyrank calibrate"):
            client.rank(QUERY, DOCUMENTS, model="plain", min_probability=0.5)
        with pytest.raises(ConfigError, match="min_probability"):
            client.rank(QUERY, DOCUMENTS, model="calibrated", min_probability="often")
        assert client.rank(QUERY, DOCUMENTS, model="plain")[0].probability is None
    reply = served.call("/cohere/v2/rerank", ASKED | {"min_probability": "often"})
    assert reply.status in (400, 422)
    assert b"precision:0.9" in reply.body


def test_a_server_has_a_threshold_for_all(folder: Path, checkpoint: Callable[[str], Path]) -> None:
    library = Reranker(folder).rank(QUERY, DOCUMENTS, min_probability="precision:0.9")
    with running({"calibrated": folder}, min_probability="precision:0.9") as made:
        with Client(made.url) as client:
            assert [hit.index for hit in client.rank(QUERY, DOCUMENTS)] == [
                hit.index for hit in library
            ]
            assert len(client.rank(QUERY, DOCUMENTS, min_probability=0)) == len(DOCUMENTS)
        rows = made.post("/cohere/v2/rerank", ASKED)["results"]
        assert [row["index"] for row in rows] == [hit.index for hit in library]
    with pytest.raises(ConfigError, match="min_probability"), running({}, min_probability="x"):
        pass
    with (
        pytest.raises(CapabilityError, match="polyrank calibrate"),
        running({"plain": checkpoint("bge-reranker-base")}, min_probability="0.5"),
    ):
        pass
