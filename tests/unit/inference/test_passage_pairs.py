"""Documents of any length: passages where they do not fit, the same bits where they do."""

import itertools
from typing import Any

import numpy as np
import pytest

from polyrank import Reranker
from polyrank._bounded import BoundedCache
from polyrank.config import PassageConfig
from polyrank.errors import CapabilityError
from polyrank.inference import passage_pairs
from polyrank.tasks.aggregation import aggregate
from polyrank.text.passages import Span
from tests.unit.tasks.test_late_interaction import Checkpoint

FILLER = "Bread needs flour and water. The moon is far away! Ships sail to Peru. "
ANSWER = "Cats live twelve to eighteen years. "
LONG = FILLER * 60 + ANSWER + FILLER * 60
QUERY = "How long do cats live?"


@pytest.fixture(scope="module")
def reranker() -> Reranker:
    return Reranker()


def test_the_passage_with_the_answer_is_found_far_behind_the_window(reranker: Reranker) -> None:
    long, off = reranker.rank(QUERY, [FILLER * 120, LONG])
    assert long.index == 1
    assert not long.is_truncated
    assert ANSWER.strip() in long.passage.text
    assert long.passage is long.passages[0]
    assert [p.score for p in long.passages] == sorted(
        (p.score for p in long.passages), reverse=True
    )
    assert all(LONG[p.start : p.end] == p.text for p in long.passages)
    assert "".join(p.text for p in sorted(long.passages, key=lambda p: p.start)) == LONG
    assert long.score == long.passage.score
    assert off.score < long.score


def test_a_passage_scores_as_it_does_alone(reranker: Reranker) -> None:
    (hit,) = reranker.rank(QUERY, [LONG])
    alone = reranker.score([(QUERY, passage.text) for passage in hit.passages])
    assert alone.tolist() == [passage.score for passage in hit.passages]


def test_documents_that_fit_are_read_as_before_whatever_stands_beside_them(
    reranker: Reranker,
) -> None:
    cut = Reranker(passages=None)
    short = ["Cats live 15 years.", FILLER, ""]
    before = cut.score([(QUERY, text) for text in short], logits=True)
    beside = reranker.score([(QUERY, text) for text in [*short, LONG]], logits=True)
    assert beside[:3].tobytes() == before.tobytes()
    hits = {hit.index: hit for hit in reranker.rank(QUERY, [*short, LONG])}
    assert hits[1].passages == (hits[1].passage,)
    assert (hits[1].passage.start, hits[1].passage.end) == (0, len(FILLER))
    assert hits[1].passage.score == hits[1].score


@pytest.mark.parametrize("name", ["bge-reranker-base", "multilingual-e5-small"])
def test_every_kind_of_checkpoint_reads_whole_documents(checkpoint: Checkpoint, name: str) -> None:
    reranker = Reranker(checkpoint(name))
    (hit,) = reranker.rank(QUERY, [LONG])
    assert not hit.is_truncated
    assert len(hit.passages) > 2
    assert max(p.end for p in hit.passages) == len(LONG)
    query_cut = reranker.rank("what " * 2_000, [LONG])[0]
    assert query_cut.is_truncated  # of the query
    assert max(p.end for p in query_cut.passages) == len(LONG)


def test_caps_leave_out_and_say_so(checkpoint: Checkpoint) -> None:
    folder = checkpoint("bge-reranker-base")
    few = Reranker(folder, passages=PassageConfig(max_passages_per_document=2)).rank(QUERY, [LONG])
    assert few[0].is_truncated
    assert len(few[0].passages) == 2
    capped = PassageConfig(max_tokens_per_document=50)
    (hit,) = Reranker(folder, passages=capped).rank(QUERY, [LONG])
    assert hit.is_truncated
    assert len(hit.passages) == 1
    assert 0 < hit.passage.end < 400
    assert Reranker(folder, passages=capped).num_truncated == 0


def test_overlap_and_size_are_kept(checkpoint: Checkpoint) -> None:
    config = PassageConfig(max_tokens=100, overlap_tokens=40)
    (hit,) = Reranker(checkpoint("bge-reranker-base"), passages=config).rank(QUERY, [LONG])
    ordered = sorted(hit.passages, key=lambda passage: passage.start)
    overlaps = [a.end - b.start for a, b in itertools.pairwise(ordered)]
    assert min(overlaps) > 0


def test_rules_of_aggregation() -> None:
    logits = np.array([[1.0], [4.0], [2.0], [-5.0]], np.float32)
    assert aggregate(logits, "max_p").tolist() == [4.0]
    assert aggregate(logits, "first_p").tolist() == [1.0]
    assert aggregate(logits, "top_k_mean").tolist() == pytest.approx([7 / 3])
    decayed = (4 + 2 / 2 + 1 / 4 - 5 / 8) / (1 + 1 / 2 + 1 / 4 + 1 / 8)
    assert aggregate(logits, "decayed_sum").tolist() == pytest.approx([decayed])
    alone = logits[1:2]
    assert all(
        aggregate(alone, rule).tobytes() == alone[0].tobytes()
        for rule in ("max_p", "first_p", "top_k_mean", "decayed_sum")
    )


def test_joint_maxsim_compares_the_rows_of_all_passages_as_those_of_one_text(
    reranker: Reranker,
) -> None:
    joint = Reranker(passages=PassageConfig("joint_maxsim"))
    documents = [LONG, ANSWER, FILLER * 120, ""]
    hits = {hit.index: hit for hit in joint.rank(QUERY, documents)}
    plain = {hit.index: hit for hit in reranker.rank(QUERY, documents)}
    for index, hit in hits.items():
        assert hit.passages == plain[index].passages
        own = sorted(hit.passages, key=lambda passage: passage.start)
        rows = joint.token_vectors([passage.text for passage in own], input_type="document")
        (expected,) = joint.score_rows(QUERY, [np.concatenate(rows)])
        assert hit.score == expected
    assert hits[0].score != plain[0].score
    assert [hits[i].score for i in (1, 3)] == [plain[i].score for i in (1, 3)]
    alone = [joint.rank(QUERY, [document])[0].score for document in documents]
    assert alone == [hits[i].score for i in range(4)]


def test_joint_maxsim_joins_small_rows_too() -> None:
    joint = PassageConfig("joint_maxsim")
    small = Reranker(passages=joint, row_pooling=2, row_dtype="int8", row_cache_bytes=1 << 24)
    first, again = (small.rank(QUERY, [LONG, FILLER * 120]) for _ in range(2))
    assert first == again
    assert first[0].index == 0
    assert abs(first[0].score - Reranker(passages=joint).rank(QUERY, [LONG])[0].score) < 0.02


def test_joint_maxsim_of_a_multi_vector_folder(checkpoint: Checkpoint) -> None:
    folder = checkpoint("multi-vector")
    joint = Reranker(folder, passages=PassageConfig("joint_maxsim"))
    (hit,) = joint.rank(QUERY, [LONG])
    own = sorted(hit.passages, key=lambda passage: passage.start)
    rows = joint.token_vectors([passage.text for passage in own], input_type="document")
    assert len(rows) > 2
    assert hit.score == joint.score_rows(QUERY, [np.concatenate(rows)])[0]


def test_joint_maxsim_needs_token_rows(checkpoint: Checkpoint) -> None:
    for name in ("bge-reranker-base", "multilingual-e5-small"):
        with pytest.raises(CapabilityError, match=r"joint_maxsim.*Take max_p"):
            Reranker(checkpoint(name), passages=PassageConfig("joint_maxsim"))


def test_info_says_how_long_documents_are_read(reranker: Reranker) -> None:
    assert any("passages (max_p)" in note for note in reranker.info.notes)
    assert not any("passages" in note for note in Reranker(passages=None).info.notes)


def test_a_document_is_split_once_for_all_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    split = passage_pairs.split_passages

    def counted(*arguments: Any, **settings: Any) -> list[Span]:
        calls.append(1)
        return split(*arguments, **settings)

    monkeypatch.setattr(passage_pairs, "split_passages", counted)
    reranker = Reranker()
    first = reranker.rank(QUERY, [LONG])
    assert len(calls) == 1
    assert reranker.rank(QUERY, [LONG]) == first
    reranker.rank("What is bread made of?", [LONG])
    assert len(calls) == 1


def test_splits_that_are_kept_are_bounded() -> None:
    cache: passage_pairs.Splits = BoundedCache(10)
    for i in range(50):
        cache.put(i, passage_pairs.Reading([]), 1)
    assert [i for i in range(50) if cache.get(i) is not None] == list(range(40, 50))
