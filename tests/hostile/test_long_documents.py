"""Documents without measure: a stated limit or a clear error, bounded work, nothing lost."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyrank import Embedder, Reranker
from polyrank.config import PassageConfig
from polyrank.errors import ConfigError, InputError
from polyrank.server.settings import Limits
from tests.server.running import running

Checkpoint = Callable[[str], Path]

SENTENCES = "Bread needs flour and water. The moon is far away! Ships sail to Peru. "
LARGE = 50_000_000
MOST_SECONDS = 10  # of all threads of this process
PARTS = {
    "sentences": (SENTENCES, LARGE),
    "no sentence end": ("flour water moon ", LARGE),
    "no blanks": ("猫", LARGE // 3),
    "one word": ("a", 10_000_000),
    "combining marks": ("\u0301", 1_000_000),
}
CAPS = {
    "tokens": PassageConfig(max_tokens_per_document=1_000),
    "passages": PassageConfig(max_passages_per_document=2),
}


def long_text(part: str, num_characters: int) -> str:
    return part * (num_characters // len(part))


@pytest.fixture(scope="module")
def folder(checkpoint: Checkpoint) -> Path:
    return checkpoint("bge-reranker-base")


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("cap", CAPS.values(), ids=CAPS)
def test_a_cap_bounds_the_work_of_50_megabytes(
    folder: Path, part: tuple[str, int], cap: PassageConfig
) -> None:
    """A cap on passages used to split the whole text first: 87 s for 50 MB."""
    text = long_text(*part)
    reranker = Reranker(folder, passages=cap)
    start = time.process_time()
    large, short = reranker.rank("how long is it?", [text, "short"])
    assert time.process_time() - start < MOST_SECONDS
    if large.index:
        large, short = short, large
    read = max(passage.end for passage in large.passages)
    assert large.is_truncated == (read < len(text))
    assert all(text[p.start : p.end] == p.text for p in large.passages)
    assert reranker.usage.num_tokens < 3_000
    assert not short.is_truncated
    assert short.score == Reranker(folder, passages=None).score(("how long is it?", "short"))


@pytest.mark.parametrize(
    "text", ["\u0301" * 1_000_000, "flour " * 8_000, "猫" * 20_000, "\n" * 200_000]
)
def test_without_a_cap_every_character_is_read(folder: Path, text: str) -> None:
    hits = Reranker(folder).rank("how long is it?", ["", text, " "])
    (hit,) = (hit for hit in hits if hit.index == 1)
    ordered = sorted(hit.passages, key=lambda passage: passage.start)
    assert "".join(passage.text for passage in ordered) == text
    assert not hit.is_truncated
    assert np.isfinite([each.score for each in hits]).all()


@pytest.mark.parametrize("cap", [*CAPS.values(), PassageConfig(max_tokens_per_document=2)])
def test_beside_a_query_that_fills_the_window_no_more_is_told_than_was_read(
    folder: Path, cap: PassageConfig
) -> None:
    text, query = SENTENCES * 100, "what " * 2_000
    limits = {"truncation": "only_second", "max_query_length": 504}
    (cut,) = Reranker(folder, passages=None, **limits).rank(query, [text])  # type: ignore[arg-type]
    (hit,) = Reranker(folder, passages=cap, **limits).rank(query, [text])  # type: ignore[arg-type]
    assert hit.is_truncated
    assert 0 < hit.passage.end <= cut.passage.end < 40
    if cap.max_tokens_per_document != 2:
        assert (hit.passage, hit.logit) == (cut.passage, cut.logit)


def test_an_empty_document_among_long_ones_has_one_empty_passage(folder: Path) -> None:
    hits = Reranker(folder).rank("how long is it?", [SENTENCES * 100, "", SENTENCES * 200])
    (empty,) = (hit for hit in hits if hit.index == 1)
    assert [(p.start, p.end, p.text) for p in empty.passages] == [(0, 0, "")]
    assert empty.score == Reranker(folder).score(("how long is it?", ""))


def test_a_surrogate_far_behind_the_window_is_named(folder: Path) -> None:
    with pytest.raises(InputError, match=r"documents\[1\] holds a lone surrogate"):
        Reranker(folder).rank("query", ["fine", SENTENCES * 1_000 + "\ud800"])


@pytest.mark.parametrize(
    "name", ["max_tokens", "max_passages_per_document", "max_tokens_per_document"]
)
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "3", float("nan")])
def test_caps_are_whole_numbers_from_one(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=name):
        PassageConfig(**{name: value})


@pytest.mark.parametrize("rule", ["max", "", None, "MAX_P"])
def test_a_rule_is_one_of_the_names(rule: Any) -> None:
    with pytest.raises(ConfigError, match="aggregation must be one of max_p, first_p"):
        PassageConfig(rule)


def test_a_passage_of_one_token_still_loses_nothing(folder: Path) -> None:
    text = SENTENCES * 40
    (hit,) = Reranker(folder, passages=PassageConfig(max_tokens=1)).rank("moon", [text])
    assert "".join(p.text for p in sorted(hit.passages, key=lambda p: p.start)) == text


@pytest.mark.parametrize("text", ["\u0301" * 200_000, "猫" * 30_000, SENTENCES * 300])
def test_long_texts_embed_to_one_unit_vector(checkpoint: Checkpoint, text: str) -> None:
    vectors = Embedder(checkpoint("multilingual-e5-small")).encode([text, ""])
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    "chunks",
    [[""], ["", "a", ""], ["a b c d " * 5_000, "x"], ["a b"] * 2_000, ["\u0301" * 100_000, "b"]],
    ids=["empty", "empty ones", "longer than the window", "many", "combining marks"],
)
def test_odd_chunks_have_a_unit_vector_each(checkpoint: Checkpoint, chunks: list[str]) -> None:
    vectors = Embedder(checkpoint("multilingual-e5-small")).encode_chunks(chunks)
    assert len(vectors) == len(chunks)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("most", [0, -1, 0.5])
def test_a_server_without_room_for_a_document_does_not_start(folder: Path, most: Any) -> None:
    with (
        pytest.raises(ConfigError, match="must be"),
        running({"m": folder}, limits=Limits(max_document_tokens=most)),
    ):
        pass


def test_a_server_reads_a_large_document_to_its_limit(folder: Path) -> None:
    text = long_text(SENTENCES, 10_000_000)
    limits = Limits(max_document_tokens=2_000)
    with running({"m": folder}, limits=limits) as server:
        start = time.process_time()
        (found,) = server.post("/polyrank/rank", {"query": "moon", "documents": [text]})["results"]
        assert time.process_time() - start < MOST_SECONDS
    assert found["is_truncated"]
    assert max(p["end"] for p in found["passages"]) < 20_000


@pytest.mark.parametrize("most", [0, -1, 1.5])
def test_a_request_for_no_chunks_is_refused(folder: Path, most: Any) -> None:
    body = {"query": "moon", "documents": [SENTENCES], "max_chunks_per_doc": most}
    with running({"m": folder}) as server:
        assert server.call("/cohere/v1/rerank", body).status in (400, 422)
        assert server.call("/cohere/v1/rerank", body | {"max_chunks_per_doc": 1}).status == 200
