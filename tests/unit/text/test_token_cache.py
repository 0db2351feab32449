"""Token ids that are kept: the same as those read anew, and no more than the bytes allowed."""

import numpy as np

from polyrank import Reranker
from polyrank.text.token_cache import TokenCache


def encoder(seen):
    def encode(texts):
        seen.extend(texts)
        return [np.arange(len(text), dtype=np.int32) for text in texts]

    return encode


def test_a_text_is_read_once_for_each_setting():
    cache, seen = TokenCache(100_000), []
    for _ in range(2):
        found = cache.encode(["ab", "abc"], 1, encoder(seen))
        assert [ids.tolist() for ids in found] == [[0, 1], [0, 1, 2]]
    cache.encode(["ab"], 2, encoder(seen))
    assert seen == ["ab", "abc", "ab"]


def test_the_oldest_leave_when_the_bytes_are_spent():
    cache, seen = TokenCache(2_000), []
    for text in ("a", "b", "c", "d", "e", "a", "e"):
        cache.encode([text], 0, encoder(seen))
        assert cache.num_bytes <= 2_000
    assert seen == ["a", "b", "c", "d", "e", "a"]
    cache.encode(["x" * 5_000], 0, encoder(seen))
    assert len(cache) == 4


def test_a_ranking_is_the_same_with_texts_that_were_read_before():
    documents = ["Les chats vivent 15 ans.", "犬は吠える。", "word " * 700]
    plain = Reranker().rank("How long do cats live?", documents)
    kept = Reranker(row_cache_bytes=1 << 24)
    for _ in range(2):
        assert kept.rank("How long do cats live?", documents) == plain
