"""Long texts tokenised in part: the same tokens, cuts and places as of the whole text."""

import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers

from polyrank.checkpoint.hub import default_model_folder
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.config import TruncationConfig
from polyrank.errors import InputError
from polyrank.text.pairs import SequenceBuilder
from polyrank.text.tokenizer import Tokenizer
from polyrank.types import Side
from tests.texts import AWKWARD, SENTENCES

KINDS = ["polyrank-small", "bge-reranker-base", "bert-reranker", "bytes", "whole words"]
PIECES = [
    *SENTENCES.values(),
    *AWKWARD.values(),
    *(
        "<mask>",
        "[MASK]",
        "</s>",
        " ",
        "   ",
        "\n",
        "\r\n",
        "\t",
        "▁",
        "e\u0301",
        "\u200d",
        "a" * 300,
    ),
    *(
        "猫" * 200,
        "กขค" * 60,
        "👨‍👩‍👧" * 40,
        "ﷺ" * 9,
        "1234567890" * 12,
        "。」「" * 30,
        "\u3000",
        "ก็",
        "각",
    ),
]


def byte_tokenizer(path: Path) -> Path:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    vocab = {each: i for i, each in enumerate(sorted(alphabet))}
    merges = [("Ġ", "a"), ("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "n"), ("Ġ", "Ġ")]
    for first, second in merges:
        vocab[first + second] = len(vocab)
    made = tokenizers.Tokenizer(models.BPE(vocab, merges))
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([tokenizers.AddedToken("<mask>", lstrip=True)])
    made.save(str(path))
    return path


def whole_tokenizer(path: Path) -> Path:
    """One that works on nothing less than the whole text."""
    made = tokenizers.Tokenizer(models.WordLevel({"?": 0, "a": 1, "a a": 2}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    made.save(str(path))
    return path


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(
    request: pytest.FixtureRequest,
    checkpoint: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Tokenizer:
    if request.param == "polyrank-small":
        return Tokenizer(read_checkpoint(default_model_folder()).tokenizer_file)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    if request.param == "bytes":
        return Tokenizer(byte_tokenizer(path))
    if request.param == "whole words":
        return Tokenizer(whole_tokenizer(path))
    return Tokenizer(checkpoint(request.param) / "tokenizer.json")


def check_ends(tokenizer: Tokenizer, text: str, num_tokens: int, side: Side) -> bool:
    (whole,) = tokenizer.encode([text])
    (found,) = tokenizer.encode_ends([text], num_tokens, side=side)
    assert len(found) == len(whole) or num_tokens < len(found) <= len(whole)
    end = whole[: len(found)] if side == "right" else whole[len(whole) - len(found) :]
    np.testing.assert_array_equal(found, end)
    return len(found) < len(whole)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=40),
    st.sampled_from(["", " ", "\n"]),
    st.integers(1, 90),
    st.sampled_from(["right", "left"]),
)
def test_ends_are_those_of_the_whole_text(
    tokenizer: Tokenizer, pieces: list[str], between: str, num_tokens: int, side: Side
) -> None:
    check_ends(tokenizer, between.join(pieces), num_tokens, side)


def test_long_texts_are_cut_and_exotic_tokenizers_left_alone(tokenizer: Tokenizer) -> None:
    drawn = random.Random(3)
    sides: tuple[Side, ...] = ("right", "left")
    cut = 0
    for _ in range(40):
        text = " ".join(drawn.choices(list(SENTENCES.values()), k=80))
        cut += sum(check_ends(tokenizer, text, drawn.randint(1, 100), side) for side in sides)
    assert cut == 0 if tokenizer.vocab_size < 10 else cut > 60


@pytest.mark.parametrize("strategy", ["longest_first", "only_second"])
def test_pairs_are_cut_as_if_both_were_read_whole(
    tokenizer: Tokenizer, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = random.Random(5)
    texts = [" ".join(drawn.choices(PIECES, k=k)) for k in (1, 3, 20, 20, 60, 90)]
    pairs = [(a, b) for a in texts for b in texts]
    sides: tuple[Side, ...] = ("right", "left")
    for side in sides:
        for length in (24, 25, 100):
            builder = SequenceBuilder(
                tokenizer,
                TruncationConfig(length, strategy=strategy),  # type: ignore[arg-type]
                model_limit=512,
                has_segments=True,
                side=side,
            )
            made = builder.pairs(pairs), builder.texts(texts)
            with monkeypatch.context() as patch:
                patch.setattr(tokenizer._windows, "is_local", False)
                whole = builder.pairs(pairs), builder.texts(texts)
            for one, other in zip(made, whole, strict=True):
                np.testing.assert_array_equal(one.batch.input_ids, other.batch.input_ids)
                np.testing.assert_array_equal(one.batch.cu_seqlens, other.batch.cu_seqlens)
                np.testing.assert_array_equal(one.is_truncated, other.is_truncated)
                np.testing.assert_array_equal(one.num_kept_tokens, other.num_kept_tokens)


def test_places_in_long_texts(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(SENTENCES.values()) * 20
    found = [tokenizer.end_of_token(text, count) for count in (0, 1, 17, 60)]
    monkeypatch.setattr(tokenizer._windows, "is_local", False)
    assert found == [tokenizer.end_of_token(text, count) for count in (0, 1, 17, 60)]


def shipped() -> Tokenizer:
    return Tokenizer(read_checkpoint(default_model_folder()).tokenizer_file)


@pytest.mark.parametrize(
    "part", ["A cat may live for ten years. ", "猫は十年生きることがある。", "line\n"]
)
def test_ten_megabytes_cost_less_than_a_second(part: str) -> None:
    tokenizer, text = shipped(), part * (10_000_000 // len(part.encode()))
    builder = SequenceBuilder(tokenizer, TruncationConfig(), model_limit=512, has_segments=False)
    begin = time.process_time()
    made = builder.pairs([("How long do cats live?", text)])
    assert time.process_time() - begin < 1
    assert made.batch.lengths[0] == 512
    assert made.is_truncated[0]


def test_a_text_that_only_the_whole_of_it_tells_is_bounded_where_asked() -> None:
    tokenizer, text = shipped(), "a" * 30_000
    whole, (ends,) = tokenizer.encode([text])[0], tokenizer.encode_ends([text], 100)
    np.testing.assert_array_equal(ends, whole)
    with pytest.raises(InputError, match="30,000 characters"):
        tokenizer.encode_ends([text], 100, max_characters=20_000)
