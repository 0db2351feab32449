"""Passages of long texts: every character in one, exact offsets, no more tokens than allowed."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyrank.checkpoint.hub import default_model_folder
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.errors import ConfigError
from polyrank.text.passages import Span, split_passages
from polyrank.text.tokenizer import Tokenizer

ENGLISH = "Cats sleep a lot. They hunt at night! Do they dream? Dr. Smith thinks so. "
THAI = "แมวนอนหลับมาก และล่าเหยื่อในเวลากลางคืน "
JAPANESE = "猫はよく眠る。夜に狩りをする！夢を見るのか？"
SCRIPTS = st.sampled_from(
    [ENGLISH, THAI, JAPANESE, "é\u0301", "👩‍👩‍👧 ", "नमस्ते। ", "مرحبا؟ ", "\n\n", "x"]
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(read_checkpoint(default_model_folder()).tokenizer_file)


def check(text: str, spans: list[Span], tokenizer: Tokenizer, max_tokens: int) -> None:
    assert spans[0].start == 0
    assert spans[-1].end == len(text)
    for before, after in itertools.pairwise(spans):
        assert before.start < after.start <= before.end < after.end
    for ids, span in zip(
        tokenizer.encode([text[s.start : s.end] for s in spans]), spans, strict=True
    ):
        assert len(ids) <= max_tokens or span.end - span.start == 1


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.one_of(SCRIPTS, st.text(max_size=30)), min_size=1, max_size=30),
    st.integers(4, 60),
    st.integers(0, 3),
)
def test_every_character_lies_in_a_passage(tokenizer, parts, max_tokens, overlap):
    text = "".join(parts).encode("utf8", "ignore").decode()
    spans = split_passages(text, tokenizer, max_tokens=max_tokens, overlap_tokens=overlap)
    if not text:
        assert spans == []
        return
    check(text, spans, tokenizer, max_tokens)
    if not overlap:
        assert "".join(text[span.start : span.end] for span in spans) == text


@pytest.mark.parametrize("text", [ENGLISH, JAPANESE])
def test_borders_are_sentence_ends(tokenizer, text):
    spans = split_passages(text * 10, tokenizer, max_tokens=40)
    assert len(spans) > 3
    assert all((text * 10)[span.end - 1] in " 。！？" for span in spans)
    assert not any((text * 10)[: span.end].endswith("Dr. ") for span in spans)


def test_thai_is_cut_at_blanks(tokenizer):
    text = THAI * 20
    spans = split_passages(text, tokenizer, max_tokens=40)
    assert len(spans) > 3
    assert all(text[span.end - 1] == " " for span in spans)


def test_passages_are_of_about_equal_size(tokenizer):
    text = ENGLISH * 13
    spans = split_passages(text, tokenizer, max_tokens=100)
    sizes = [len(ids) for ids in tokenizer.encode([text[s.start : s.end] for s in spans])]
    assert min(sizes) > 0.6 * max(sizes)


def test_overlap_repeats_whole_sentences(tokenizer):
    text = ENGLISH * 10
    spans = split_passages(text, tokenizer, max_tokens=60, overlap_tokens=20)
    overlaps = [text[b.start : a.end] for a, b in itertools.pairwise(spans)]
    assert all(overlaps)
    assert all(len(ids) <= 20 for ids in tokenizer.encode(overlaps))


def test_a_text_that_fits_is_one_passage(tokenizer):
    assert split_passages(ENGLISH, tokenizer, max_tokens=100) == [Span(0, len(ENGLISH))]
    assert split_passages("", tokenizer, max_tokens=100) == []


@pytest.mark.parametrize(
    "text",
    ["a" * 1_000_000, "\u0301" * 1_000_000, "猫" * 500_000, "a. " * 300_000, " " * 1_000_000],
    ids=["one word", "accents", "no blanks", "sentences", "blanks"],
)
def test_hostile_texts_are_cut_too(tokenizer, text):
    spans = split_passages(text, tokenizer, max_tokens=500)
    check(text, spans, tokenizer, 500)


@pytest.mark.parametrize(
    "settings_",
    [{"max_tokens": 0}, {"max_tokens": 8, "overlap_tokens": 8}, {"max_tokens": True}],
)
def test_settings_are_checked(tokenizer, settings_):
    with pytest.raises(ConfigError):
        split_passages("a b c", tokenizer, **settings_)
