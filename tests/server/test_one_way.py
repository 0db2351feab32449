"""Library, command line, server and client give the same bits: one place plans and finishes."""

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyrank import Classifier, Embedder, Reranker
from polyrank.checkpoint.hub import resolve
from polyrank.client import Client
from tests.server.running import Running, running
from tests.texts import AWKWARD, SENTENCES

QUERY = SENTENCES["en"]
# the last is longer than any of the models reads
TEXTS = [*SENTENCES.values(), AWKWARD["emoji"], " ".join(SENTENCES.values()) * 8]
SCORES = [float(i % 7) for i in range(len(TEXTS))]


@pytest.fixture(scope="module")
def models(checkpoint: Callable[[str], Path]) -> dict[str, Path]:
    return {
        "shipped": resolve(None)[0],
        "cross": checkpoint("bge-reranker-base"),
        "classifier": checkpoint("three-way-classifier"),
        "embedder": checkpoint("multilingual-e5-small"),
    }


@pytest.fixture(scope="module")
def server(models: dict[str, Path]) -> Iterator[Running]:
    with running(models) as made:
        yield made


def commanded(*arguments: Any, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    given = "\n".join(json.dumps(row) for row in rows)
    command = [sys.executable, "-m", "polyrank", *map(str, arguments), "-", "--quiet"]
    done = subprocess.run(command, input=given, capture_output=True, encoding="utf8", check=True)
    return [json.loads(line) for line in io.StringIO(done.stdout)]


def bits(values: Any) -> list[bytes]:
    return [np.float32(value).tobytes() for value in np.ravel(values)]


@pytest.mark.parametrize("name", ["shipped", "cross", "embedder"])
@pytest.mark.parametrize("first_stage", [None, 0.5])
def test_rankings(
    name: str, first_stage: float | None, models: dict[str, Path], server: Running
) -> None:
    given: dict[str, Any] = {}
    options: list[Any] = []
    rows: list[dict[str, Any]] = [{"text": text} for text in TEXTS]
    if first_stage is not None:
        given = {"first_stage_scores": SCORES, "first_stage": first_stage}
        options = ["--first-stage-field", "bm25", "--first-stage", first_stage]
        rows = [row | {"bm25": score} for row, score in zip(rows, SCORES, strict=True)]
    library = Reranker(models[name]).rank(QUERY, TEXTS, **given)
    with Client(server.url) as client:
        remote = client.rank(QUERY, TEXTS, model=name, **given)
    shell = commanded("rerank", QUERY, "--model", models[name], *options, rows=rows)
    order = [hit.index for hit in library]
    assert [hit.index for hit in remote] == order
    assert [row["index"] for row in shell] == order
    assert bits([hit.logit for hit in remote]) == bits([hit.logit for hit in library])
    assert bits([hit.score for hit in remote]) == bits([hit.score for hit in library])
    assert bits([row["score"] for row in shell]) == bits([hit.score for hit in library])
    assert [hit.is_truncated for hit in remote] == [hit.is_truncated for hit in library]
    assert any(len(hit.passages) > 1 for hit in library)
    likely = [hit.probability for hit in library]
    assert (likely[0] is not None) == (name == "shipped")
    assert [hit.probability for hit in remote] == likely
    assert [row.get("probability") for row in shell] == likely


@pytest.mark.parametrize("least", [0.7, "precision:0.8"])
def test_thresholds(least: Any, models: dict[str, Path], server: Running) -> None:
    library = Reranker(models["shipped"]).rank(QUERY, TEXTS, min_probability=least)
    with Client(server.url) as client:
        remote = client.rank(QUERY, TEXTS, model="shipped", min_probability=least)
    options = ["--model", models["shipped"], "--min-probability", least]
    shell = commanded("rerank", QUERY, *options, rows=[{"text": text} for text in TEXTS])
    order = [hit.index for hit in library]
    assert 0 < len(order) < len(TEXTS)
    assert [hit.index for hit in remote] == order
    assert [row["index"] for row in shell] == order


@pytest.mark.parametrize("name", ["shipped", "classifier"])
def test_labels(name: str, models: dict[str, Path], server: Running) -> None:
    pairs = [(QUERY, text) for text in TEXTS]
    library = Classifier(models[name]).classify(pairs)
    with Client(server.url) as client:
        remote = client.classify(pairs, model=name)
    rows = [{"query": QUERY, "text": text} for text in TEXTS]
    shell = commanded("classify", "--model", models[name], rows=rows)
    wanted = [bits([*found.probabilities.values()]) for found in library]
    assert [bits([*found.probabilities.values()]) for found in remote] == wanted
    assert [bits([*row["probabilities"].values()]) for row in shell] == wanted
    assert [row["label"] for row in shell] == [found.label for found in library]
    likely = [(found.probability, found.calibrated_probabilities) for found in library]
    assert (likely[0][0] is not None) == (name == "shipped")
    assert [(each.probability, each.calibrated_probabilities) for each in remote] == likely
    keys = ("probability", "calibrated_probabilities")
    assert [tuple(row.get(key) for key in keys) for row in shell] == likely


@pytest.mark.parametrize("name", ["shipped", "embedder"])
def test_vectors(name: str, models: dict[str, Path], server: Running) -> None:
    library = Embedder(models[name]).encode(TEXTS, input_type="document")
    with Client(server.url) as client:
        remote = client.embed(TEXTS, input_type="document", model=name)
    shell = commanded("embed", "--model", models[name], rows=[{"text": text} for text in TEXTS])
    np.testing.assert_array_equal(remote, library)
    assert bits([row["embedding"] for row in shell]) == bits(library)
