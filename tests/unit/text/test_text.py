"""Tokens with their places, and cuts at either side, as the tokenizers library has them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from polyrank.config import TruncationConfig
from polyrank.text.pairs import SequenceBuilder
from polyrank.text.tokenizer import Tokenizer
from polyrank.types import Side
from tests.texts import AWKWARD, SENTENCES

TEXTS = [*SENTENCES.values(), *AWKWARD.values()]
Checkpoint = Callable[[str], Path]
KINDS = ["bge-reranker-base", "bert-reranker"]


@pytest.fixture(params=KINDS)
def path(request: pytest.FixtureRequest, checkpoint: Checkpoint) -> Path:
    return checkpoint(request.param) / "tokenizer.json"


def test_tokens_and_back(path: Path) -> None:
    tokenizer, reference = Tokenizer(path), tokenizers.Tokenizer.from_file(str(path))
    reference.no_truncation()
    reference.no_padding()
    for is_special in (True, False):
        found = tokenizer.tokens(TEXTS, is_special=is_special)
        for text, tokens in zip(TEXTS, found, strict=True):
            wanted = reference.encode(text, add_special_tokens=is_special)
            assert [token.token_id for token in tokens] == wanted.ids
            assert [token.is_special for token in tokens] == list(
                map(bool, wanted.special_tokens_mask)
            )
            for token in tokens:
                if not token.is_special:
                    assert token.text == text[token.start : token.stop]
            for skip in (True, False):
                spelt = tokenizer.decode(wanted.ids, skip_special=skip)
                assert spelt == reference.decode(wanted.ids, skip_special_tokens=skip)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("length", [12, 30, 200])
def test_both_sides_are_cut_as_by_the_tokenizers_library(
    path: Path, side: Side, length: int
) -> None:
    reference = tokenizers.Tokenizer.from_file(str(path))
    reference.no_padding()
    reference.enable_truncation(length, strategy="longest_first", direction=side)
    limits = TruncationConfig(length)
    builder = SequenceBuilder(
        Tokenizer(path), limits, model_limit=512, has_segments=True, side=side
    )
    pairs = [(a, b) for a in TEXTS[:3] for b in TEXTS]
    for made, wanted in (
        (builder.pairs(pairs), reference.encode_batch(pairs)),
        (builder.texts(TEXTS), reference.encode_batch(TEXTS)),
    ):
        np.testing.assert_array_equal(made.batch.lengths, [len(each.ids) for each in wanted])
        np.testing.assert_array_equal(
            made.batch.input_ids, [token for each in wanted for token in each.ids]
        )
        types = [kind for each in wanted for kind in each.type_ids]
        if made.batch.token_type_ids is not None:
            np.testing.assert_array_equal(made.batch.token_type_ids, types)
        else:
            assert not any(types)
        is_cut = [bool(each.overflowing) for each in wanted]
        np.testing.assert_array_equal(made.is_truncated, is_cut)
        if length < 200:
            assert any(is_cut)
