"""A text whose pieces are all kept is cut as before, whatever was dropped and whatever it holds."""

import json
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, processors

from polyrank.compress.vocabulary.choice import ChoiceConfig, choose_pieces
from polyrank.compress.vocabulary.corpus import CorpusText
from polyrank.compress.vocabulary.counting import count_pieces
from polyrank.compress.vocabulary.pieces import read_vocabulary, trimmed_tokenizer
from polyrank.text.tokenizer import Tokenizer
from tests import checkpoints
from tests.texts import AWKWARD, SENTENCES

KINDS = ("Unigram", "WordPiece", "BPE")


def byte_pairs(texts, num_merges):
    """A byte-level BPE tokenizer as RoBERTa's, its merges counted here to be the same each time."""
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = Counter(tuple(word) for text in texts for word, _ in split.pre_tokenize_str(text))
    merges = []
    for _ in range(num_merges):
        pairs = Counter()
        for word, count in words.items():
            pairs.update(dict.fromkeys(pairwise(word), count))
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = Counter({merged(word, best): count for word, count in words.items()})
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges)]
    # ids in another order than merges, as in RoBERTa's published vocabulary
    vocab = {piece: i for i, piece in enumerate([*pieces[:4], *reversed(pieces[4:]), "<mask>"])}
    made = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token=None))
    made.pre_tokenizer, made.decoder = split, decoders.ByteLevel()
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    made.add_special_tokens([*special, "<mask>"])
    return made


def merged(word, pair):
    parts = list(word)
    for at in range(len(parts) - 2, -1, -1):
        if tuple(parts[at : at + 2]) == pair:
            parts[at : at + 2] = ["".join(pair)]
    return tuple(parts)


def make(kind):
    if kind == "Unigram":
        return checkpoints.xlm_roberta_tokenizer(512).backend_tokenizer
    if kind == "WordPiece":
        return checkpoints.bert_tokenizer(512).backend_tokenizer
    return byte_pairs(SENTENCES.values(), 400)


@pytest.fixture(scope="module")
def trimmed(tmp_path_factory):
    """Old and new tokenizer and new ids, by kind; pieces chosen by a third of the sentences."""
    made = {}

    def get(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            old, new = folder / "old.json", folder / "new.json"
            make(kind).save(str(old))
            content = json.loads(old.read_text("utf8"))
            vocabulary = read_vocabulary(content)
            texts = [CorpusText(t, code, False) for code, t in [*SENTENCES.items()][::3]]
            counts, _ = count_pieces(Tokenizer(old), texts, len(vocabulary))
            keep = int(vocabulary.required.sum()) + 120
            kept = choose_pieces(vocabulary, counts, ChoiceConfig(keep=keep))
            assert kept.sum() == keep < len(vocabulary)
            new_ids = np.where(kept, np.cumsum(kept) - 1, -1)
            new.write_text(json.dumps(trimmed_tokenizer(content, new_ids)), "utf8")
            made[kind] = Tokenizer(old), Tokenizer(new), new_ids, vocabulary
        return made[kind]

    return get


WORDS = sorted({word for text in SENTENCES.values() for word in text.split()})
ANYTHING = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
TEXTS = st.lists(st.sampled_from(WORDS) | ANYTHING, max_size=8).map(" ".join) | st.sampled_from(
    [*SENTENCES.values(), *AWKWARD.values()]
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=400, deadline=None)
@given(text=TEXTS)
def test_texts_of_kept_pieces_are_cut_as_before(trimmed, kind, text):
    old, new, new_ids, vocabulary = trimmed(kind)
    before, after = old.encode([text])[0], new.encode([text])[0]
    expected = new_ids[before]
    if kind == "WordPiece" and vocabulary.unknown_id in before:
        return  # such a word may become readable
    if (expected >= 0).all():
        assert after.tolist() == expected.tolist()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=200, deadline=None)
@given(text=TEXTS)
def test_no_text_becomes_less_readable(trimmed, kind, text):
    old, new, new_ids, vocabulary = trimmed(kind)
    if vocabulary.unknown_id is not None:
        before, after = old.encode([text])[0], new.encode([text])[0]
        unknown = (after == new_ids[vocabulary.unknown_id]).sum()
        assert unknown <= (before == vocabulary.unknown_id).sum()


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_and_special_tokens_keep_their_meaning(trimmed, kind):
    old, new, new_ids, vocabulary = trimmed(kind)
    names = new._tokenizer
    kept = np.flatnonzero(new_ids >= 0)
    assert new.vocab_size == len(kept)
    for i in kept:
        assert names.id_to_token(int(new_ids[i])) == vocabulary.pieces[i]
    for before, after in ((old.single, new.single), (old.pair, new.pair)):
        assert [new_ids[part].tolist() for part in before.parts] == [
            part.tolist() for part in after.parts
        ]


def test_unknown_characters_cost_what_they_did():
    """The dearest piece stays, since the unknown piece costs 10 more than it."""
    pieces = [["<unk>", 0.0], ["▁", -2.0], ["a", -3.0], ["b", -3.5], ["ab", -9.0], ["zzz", -30.0]]
    content = {"model": {"type": "Unigram", "unk_id": 0, "vocab": pieces}}
    assert read_vocabulary(content).required.tolist() == [True, True, True, True, False, True]


def test_bpe_pieces_keep_what_they_are_merged_from(trimmed):
    _, _, new_ids, vocabulary = trimmed("BPE")
    assert len(vocabulary.parents) == 400
    for piece, parents in vocabulary.parents.items():
        if new_ids[piece] >= 0:
            assert (new_ids[list(parents)] >= 0).all()
