"""Truncation agrees with the tokenizers library, which is what transformers calls."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from polyrank.config import TruncationConfig
from polyrank.errors import ConfigError
from polyrank.text.truncation import longest_first, only_second, room_for_texts


def word_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


@settings(max_examples=400)
@given(first=st.integers(0, 40), second=st.integers(0, 40), room=st.integers(1, 50))
def test_longest_first_as_the_tokenizers_library(first: int, second: int, room: int) -> None:
    tokenizer = word_tokenizer()
    tokenizer.enable_truncation(room, strategy="longest_first")
    ids = tokenizer.encode("a " * first, "b " * second).ids
    assert longest_first(first, second, room) == (ids.count(0), ids.count(1))


@given(
    first=st.integers(0, 60),
    second=st.integers(0, 60),
    room=st.integers(1, 50),
    cap=st.none() | st.integers(1, 60),
)
def test_only_second_keeps_the_query(first: int, second: int, room: int, cap: int | None) -> None:
    kept_first, kept_second = only_second(first, second, room, cap)
    assert kept_first + kept_second <= room
    assert kept_first <= first
    assert kept_second <= second
    if cap is None and first <= room // 2:
        assert kept_first == first
    # nothing is cut without need
    if kept_second < second:
        assert kept_first + kept_second == room


def test_room_names_the_limits() -> None:
    assert room_for_texts(TruncationConfig(), 512, 4) == 508
    with pytest.raises(ConfigError, match="at most 512"):
        room_for_texts(TruncationConfig(max_length=513), 512, 4)
    with pytest.raises(ConfigError, match="5 or more"):
        room_for_texts(TruncationConfig(max_length=4), 512, 4)
