"""Vectors of texts of any length: the mean over windows, the same bits where a text fits."""

import numpy as np
import pytest

from polyrank import Embedder
from polyrank.client import Client
from polyrank.errors import ConfigError
from polyrank.text.passages import split_passages
from tests.server.running import running
from tests.unit.tasks.test_late_interaction import Checkpoint

SHORT = ["Cats live 15 years.", "Bread needs flour."]
LONG = "Cats live twelve to eighteen years. " * 200 + "The moon is far away. " * 200


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder()


def test_texts_that_fit_keep_their_bits_beside_long_ones(embedder: Embedder) -> None:
    cut = Embedder(long_texts="truncate").encode(SHORT, input_type="document")
    beside = embedder.encode([*SHORT, LONG], input_type="document")
    assert beside[:2].tobytes() == cut.tobytes()
    assert embedder.num_truncated == 0


def test_a_long_text_gets_the_mean_of_its_windows(checkpoint: Checkpoint) -> None:
    embedder = Embedder(checkpoint("multilingual-e5-small"), normalize=False)
    tokenizer = embedder._model.tokenizer
    before = len(tokenizer.encode(["passage:"])[0])
    spans = split_passages(LONG, tokenizer, max_tokens=embedder.info.max_length - 2 - before - 1)
    windows = [LONG[span.start : span.end] for span in spans]
    rows = embedder.encode(windows, input_type="document")
    sizes = [len(ids) + 2 for ids in tokenizer.encode(["passage: " + text for text in windows])]
    expected = np.average(rows, axis=0, weights=sizes)
    found = embedder.encode(LONG, input_type="document")
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_what_stands_far_behind_counts(embedder: Embedder) -> None:
    moon = embedder.encode("How far is the moon?", input_type="query")
    cut = Embedder(long_texts="truncate").encode(LONG, input_type="document")
    whole = embedder.encode(LONG, input_type="document")
    assert whole @ moon > cut @ moon
    assert np.linalg.norm(whole) == pytest.approx(1, abs=1e-5)


def test_library_and_server_make_the_same_vectors(checkpoint: Checkpoint) -> None:
    folder = checkpoint("multilingual-e5-small")
    texts = [*SHORT, LONG]
    library = Embedder(folder).encode(texts, input_type="document")
    cut = Embedder(folder, long_texts="truncate").encode(texts, input_type="document")
    with running({"model": folder}, cache_bytes=1 << 20) as server, Client(server.url) as client:
        for _ in range(2):  # computed, then kept
            made = client.embed(texts, input_type="document")
            assert made.tobytes() == library.tobytes()
        reply = server.post("/embed", {"inputs": texts[2], "truncate": True})
        plain = Embedder(folder, long_texts="truncate").encode(LONG)
        np.testing.assert_allclose(reply[0], plain, atol=1e-6)
    assert cut[:2].tobytes() == library[:2].tobytes()
    assert cut[2].tobytes() != library[2].tobytes()


def test_ways_of_reading_are_checked() -> None:
    with pytest.raises(ConfigError, match="long_texts"):
        Embedder(long_texts="sum")  # type: ignore[arg-type]
