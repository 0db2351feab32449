"""Bad input gets a clear error, loses nothing, and good odd input works."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyrank import Classifier, Embedder, Reranker
from polyrank.config import PassageConfig
from polyrank.errors import ConfigError, InputError
from tests.texts import AWKWARD, SENTENCES

Checkpoint = Callable[[str], Path]


@pytest.fixture(scope="module")
def reranker(checkpoint: Checkpoint) -> Reranker:
    return Reranker(checkpoint("bge-reranker-base"))


@pytest.fixture(scope="module")
def embedder(checkpoint: Checkpoint) -> Embedder:
    return Embedder(checkpoint("multilingual-e5-small"))


def test_nothing_in_nothing_out(
    reranker: Reranker, embedder: Embedder, checkpoint: Checkpoint
) -> None:
    assert reranker.rank("query", []) == []
    assert reranker.score([]).shape == (0,)
    assert embedder.encode([]).shape == (0, 64)
    assert embedder.encode([], output_dtype="ubinary").shape == (0, 8)
    assert Classifier(checkpoint("three-way-classifier")).classify([]) == []


@pytest.mark.parametrize("text", AWKWARD.values(), ids=AWKWARD)
def test_awkward_texts_work(reranker: Reranker, embedder: Embedder, text: str) -> None:
    assert np.isfinite(reranker.score([(text, text), ("a", text), (text, "a")])).all()
    assert np.isfinite(embedder.encode([text])).all()


@pytest.mark.parametrize("text", ["\ud800", "half \udc00 of", "x" * 100 + "\udfff"])
def test_lone_surrogates_are_named(reranker: Reranker, embedder: Embedder, text: str) -> None:
    with pytest.raises(InputError, match=r"documents\[1\] holds a lone surrogate, '\\ud"):
        reranker.rank("query", ["fine", text])
    with pytest.raises(InputError, match="query holds a lone surrogate"):
        reranker.rank(text, ["fine"])
    with pytest.raises(InputError, match=r"texts\[0\]"):
        embedder.encode([text])


@pytest.mark.parametrize("value", [None, 3, b"bytes", ["list"], 2.5])
def test_wrong_types_are_named(reranker: Reranker, embedder: Embedder, value: Any) -> None:
    with pytest.raises(InputError, match=r"documents\[0\] must be a string"):
        reranker.rank("query", [value])
    with pytest.raises(InputError, match="query must be a string"):
        reranker.rank(value, ["a"])
    with pytest.raises(InputError, match=r"texts\[1\] must be a string"):
        embedder.encode(["a", value])
    with pytest.raises(InputError, match=r"pairs\[0\]"):
        reranker.score([value])


def test_a_single_text_is_not_a_list(reranker: Reranker, embedder: Embedder) -> None:
    with pytest.raises(InputError, match="documents must be a list"):
        reranker.rank("query", "document")
    with pytest.raises(InputError, match="texts must be a list of strings, not dict"):
        embedder.encode({"text": "a"})
    with pytest.raises(InputError, match="texts must be a list of strings, not int"):
        embedder.encode(5)  # type: ignore[call-overload]
    with pytest.raises(InputError, match=r"pairs\[0\] must be two texts, not 3"):
        reranker.score([("a", "b", "c")])  # type: ignore[list-item]


def test_any_iterable_will_do(reranker: Reranker, embedder: Embedder) -> None:
    texts = list(SENTENCES.values())
    expected = embedder.encode(texts)
    np.testing.assert_array_equal(embedder.encode(np.array(texts)), expected)
    np.testing.assert_array_equal(embedder.encode(text for text in texts), expected)
    assert len(reranker.rank("a", (text for text in texts))) == len(texts)


def test_documents_as_mappings_pass_through(reranker: Reranker) -> None:
    documents = [{"id": 7, "text": "cats"}, {"id": 8, "text": "dogs", "lang": "en"}]
    plain = reranker.rank("pets", ["cats", "dogs"])
    ranked = reranker.rank("pets", documents)
    assert [hit.score for hit in ranked] == [hit.score for hit in plain]
    assert all(hit.document is documents[hit.index] for hit in ranked)
    assert {hit.passage.text for hit in ranked} == {"cats", "dogs"}
    with pytest.raises(InputError, match=r'documents\[0\] has no "text" field; it has body'):
        reranker.rank("pets", [{"body": "cats"}])
    with pytest.raises(InputError, match=r'documents\[0\]\["text"\] must be a string'):
        reranker.rank("pets", [{"text": 5}])


def test_settings_out_of_range(checkpoint: Checkpoint, reranker: Reranker) -> None:
    folder = checkpoint("bge-reranker-base")
    for settings, message in (
        ({"max_length": 513}, "at most 512"),
        ({"max_length": 0}, "1 or more"),
        ({"truncation": "first"}, "longest_first, only_second"),
        ({"max_query_length": 5}, "only_second"),
        ({"num_threads": 0}, "1 or more"),
        ({"max_batch_tokens": 0}, "1 or more"),
        ({"encoder": "abacus"}, "abacus"),
        ({"activation": "softmax"}, "sigmoid or identity"),
        ({"activation": ["sigmoid"]}, "sigmoid or identity"),
        ({"max_length": 1.5}, "whole number, 1 or more, not float: 1.5"),
        ({"max_batch_tokens": "4096"}, "not str"),
        ({"num_threads": True}, "not bool"),
        ({"num_threads": 1.0}, "not float"),
        ({"row_cache_bytes": -1}, "0 or more"),
        ({"row_cache_bytes": 0.5}, "not float"),
        ({"truncation": None}, "longest_first, only_second"),
        ({"compute_dtype": 8}, "auto, float32, int8"),
        ({"encoder": None}, "encoder must be a name"),
        ({"device": 0}, "device must be a name"),
        ({"revision": 5}, "revision must be a text, not int"),
        ({"cache_dir": 5}, "cache_dir must be a text or path, not int"),
    ):
        with pytest.raises(ConfigError, match=message):
            Reranker(folder, **settings)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="top_n must be 1 or more"):
        reranker.rank("a", ["b"], top_n=0)


@pytest.mark.parametrize("cls", [Reranker, Embedder, Classifier])
def test_a_model_is_a_text_or_a_path(cls: Any) -> None:
    with pytest.raises(ConfigError, match="model must be a text or path, not int: 5"):
        cls(5)


@pytest.mark.parametrize("top_n", [0, -1, 1.5, True, "3", float("nan")])
def test_top_n_is_a_whole_number(reranker: Reranker, top_n: Any) -> None:
    with pytest.raises(ConfigError, match="top_n must be "):
        reranker.rank("a", ["b"], top_n=top_n)
    assert len(reranker.rank("a", ["b", "c"], top_n=np.int64(1))) == 1  # type: ignore[arg-type]


def test_a_prompt_is_checked_as_texts_are(embedder: Embedder) -> None:
    with pytest.raises(InputError, match="prompt holds a lone surrogate"):
        embedder.encode(["text"], prompt="\ud83d")
    with pytest.raises(InputError, match="prompt must be a string, not int"):
        embedder.encode(["text"], prompt=5)  # type: ignore[call-overload]


def test_names_of_other_libraries_are_refused_with_ours(
    reranker: Reranker, embedder: Embedder
) -> None:
    for call, message in (
        (lambda: reranker.rank("a", ["b"], top_k=1), "rank has no 'top_k': give top_n"),  # type: ignore[call-arg]
        (lambda: reranker.score([("a", "b")], batch_size=8), "give max_batch_tokens"),  # type: ignore[call-overload]
        (lambda: embedder.encode(["a"], truncate_dim=8), "give dimensions"),  # type: ignore[call-overload]
        (lambda: embedder.encode(["a"], normalize_embeddings=True), "give normalize"),  # type: ignore[call-overload]
    ):
        with pytest.raises(ConfigError, match=message):
            call()
    with pytest.raises(TypeError, match="no_such_thing"):
        reranker.rank("a", ["b"], no_such_thing=1)  # type: ignore[call-arg]


def test_embedding_settings_out_of_range(embedder: Embedder) -> None:
    for settings, message in (
        ({"dimensions": 0}, "from 1 to 64"),
        ({"dimensions": 65}, "from 1 to 64"),
        ({"output_dtype": "int4"}, "int4"),
        ({"input_type": "answer"}, "query, document"),
        ({"input_type": ["query"]}, "query, document"),
        ({"prompt_name": ["query"]}, "it has: "),
        ({"output_dtype": None}, "float32, int8"),
        ({"dimensions": 1.5}, "whole number, from 1 to 64, not float: 1.5"),
        ({"dimensions": True}, "not bool"),
        ({"dimensions": "8"}, "not str"),
        ({"output_dtype": "int8", "ranges": "wide"}, r"\(2, 64\)"),
        ({"prompt_name": "clustering"}, "it has: "),
        ({"input_type": "query", "prompt": "x"}, "only one"),
        ({"output_dtype": "int8", "ranges": np.zeros((2, 3), np.float32)}, r"\(2, 64\)"),
    ):
        with pytest.raises(ConfigError, match=message):
            embedder.encode(["text"], **settings)  # type: ignore[arg-type]


def test_a_giant_document_is_cut_and_said_so(checkpoint: Checkpoint) -> None:
    reranker = Reranker(checkpoint("bge-reranker-base"), passages=None)
    giant = "猫 cats кошки " * 100_000
    hit = reranker.rank("cats", [giant])[0]
    assert hit.is_truncated
    assert reranker.num_truncated == 1
    assert hit.passage.text == giant[: hit.passage.end]
    assert 0 < len(hit.passage.text) < len(giant)


def test_a_giant_document_is_read_to_its_cap_and_said_so(checkpoint: Checkpoint) -> None:
    capped = PassageConfig(max_tokens_per_document=5_000)
    reranker = Reranker(checkpoint("bge-reranker-base"), passages=capped)
    giant = "猫 cats кошки " * 4_000_000  # 56 MB
    hit = reranker.rank("cats", [giant, "cats"])[0]
    assert reranker.num_truncated == 1
    giant_hit = hit if hit.index == 0 else reranker.rank("cats", [giant])[0]
    assert giant_hit.is_truncated
    ends = [passage.end for passage in giant_hit.passages]
    assert len(ends) > 2
    assert max(ends) < len(giant) // 100


@pytest.mark.parametrize(
    "settings",
    [
        {"aggregation": "sum"},
        {"max_tokens": 0},
        {"max_passages_per_document": 0},
        {"max_tokens_per_document": 0},
        {"max_tokens": 8, "overlap_tokens": 8},
        {"overlap_tokens": -1},
    ],
)
def test_impossible_ways_of_reading_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        PassageConfig(**settings)  # type: ignore[arg-type]


def test_what_comes_after_a_passage_is_not_read(checkpoint: Checkpoint) -> None:
    words = " ".join(SENTENCES.values())
    short = Reranker(checkpoint("bge-reranker-base"), max_length=64, passages=None)
    hit = short.rank("cats", [words])[0]
    assert hit.is_truncated
    assert hit.passage.text == words[: hit.passage.end]
    # from the end of the word in which the passage ends, the document may say anything
    end = words.index(" ", hit.passage.end)
    changed = words[:end] + " something else entirely" * 40
    again = short.rank("cats", [changed])[0]
    assert again.passage == hit.passage
    assert again.logit == hit.logit
    earlier = words.replace("live", "sleep", 1)
    assert short.rank("cats", [earlier])[0].logit != hit.logit


def test_only_second_keeps_the_query_whole(checkpoint: Checkpoint) -> None:
    folder = checkpoint("bge-reranker-base")
    query, document = SENTENCES["en"], AWKWARD["long"]
    cut = Reranker(folder, max_length=40, truncation="only_second", max_query_length=30)
    both = Reranker(folder, max_length=40)
    assert cut.rank(query, [document])[0].is_truncated
    assert cut.score([(query, document)])[0] != both.score([(query, document)])[0]
    capped = Reranker(folder, max_length=80, truncation="only_second", max_query_length=2)
    start = capped.rank(query, ["x"])[0]
    assert start.is_truncated
