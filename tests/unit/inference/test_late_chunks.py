"""Late chunking: each chunk's vector is made of its own tokens, read with those around them."""

import numpy as np
import pytest

from polyrank import Embedder
from polyrank.errors import CapabilityError
from tests.server.running import running
from tests.unit.tasks.test_late_interaction import Checkpoint

CHUNKS = ["Berlin is the capital of Germany.", "The city has 3.8 million people.", "猫はよく眠る。"]


def test_chunks_of_a_window_weigh_up_to_the_vector_of_their_text(checkpoint: Checkpoint) -> None:
    embedder = Embedder(checkpoint("multilingual-e5-small"), normalize=False)
    rows = embedder._model.computations
    vectors = embedder.encode_chunks(CHUNKS)
    assert vectors.shape == (3, embedder.dimensions)
    text = "passage: " + " ".join(CHUNKS)
    tokens = embedder._model.tokenizer.tokens([text], is_special=False)[0]
    ends = np.cumsum([len(chunk) + 1 for chunk in CHUNKS]) + len("passage: ") - 1
    owners = np.searchsorted(ends, [token.stop for token in tokens])
    sizes = np.bincount(owners)
    whole = embedder.encode(" ".join(CHUNKS), input_type="document")
    special = (len(tokens) + 2) * whole - sizes @ vectors  # of the two special tokens, and no more
    assert rows is embedder._model.computations
    assert np.linalg.norm(special) < np.linalg.norm(sizes @ vectors)


def test_what_stands_around_a_chunk_counts() -> None:
    embedder = Embedder()
    question = embedder.encode("How many people live in Berlin?", input_type="query")
    alone = embedder.encode(CHUNKS, input_type="document") @ question
    late = embedder.encode_chunks(CHUNKS) @ question
    assert late[1] > alone[1]
    assert np.linalg.norm(embedder.encode_chunks(CHUNKS), axis=1) == pytest.approx(1, abs=1e-5)


def test_chunks_that_do_not_fit_together_are_read_in_several_windows() -> None:
    embedder = Embedder()
    many = [f"{CHUNKS[i % 3]} Number {i}." for i in range(120)]
    vectors = embedder.encode_chunks(many)
    assert vectors.shape == (120, 384)
    assert len(np.unique(vectors.round(6), axis=0)) == 120
    assert embedder.num_truncated == 0
    assert embedder.encode_chunks([]).shape == (0, 384)
    assert np.isfinite(embedder.encode_chunks(["", "cats", ""])).all()


def test_server_and_library_agree(checkpoint: Checkpoint) -> None:
    folder = checkpoint("multilingual-e5-small")
    wanted = Embedder(folder).encode_chunks(CHUNKS * 60)
    body = {"input": CHUNKS * 60, "late_chunking": True, "task": "retrieval.passage"}
    with running({"model": folder}) as server:
        reply = server.post("/jina/v1/embeddings", body)
    made = np.array([row["embedding"] for row in reply["data"]], np.float32)
    np.testing.assert_allclose(made, wanted, atol=1e-6)


def test_a_checkpoint_that_does_not_take_the_mean_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(CapabilityError, match="mean over tokens"):
        Embedder(checkpoint("UAE-Large-V1")).encode_chunks(CHUNKS)
