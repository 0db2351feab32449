"""The tokens at one end of a long text, found without tokenising all of it.

A checkpoint reads some hundred tokens of a text, however long it is. Where a tokenizer works word
by word, what stands far behind a word cannot change its tokens, so a piece of the text tells them.
Which tokens are settled is decided by the tokenizer's own parts; where they do not allow it, the
whole text is tokenised, as without this module. It never changes a token.
"""

import json
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import tokenizers

from polyrank.types import Int32Array

# English has about 4 a token, German 5: twice as many make a second try rare.
CHARACTERS_PER_TOKEN = 8
_SHORTEST_WINDOW = 256
_GROWTH = 4
_TRIES = 64  # places looked at for a border, in a window
_SIDE = 16  # characters beside a border that are normalised to see that they stay apart
_BLOCK = 50_000  # characters tokenised at once where tokens are only counted

# Parts that look no further than the word, or the cluster of characters, that they work on.
_NORMALIZERS = {
    "BertNormalizer",
    "Lowercase",
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Nmt",
    "Precompiled",
    "StripAccents",
}
_SPLITTERS = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit", "Metaspace", "ByteLevel"}
_FURTHER_SPLITTERS = {"Punctuation", "Digits"}


def window_of(num_tokens: int) -> int:
    """Return how many characters are looked at first where so many tokens are wanted."""
    return max(num_tokens * CHARACTERS_PER_TOKEN, _SHORTEST_WINDOW)


class Windows:
    """Finds the first or last tokens of long texts for one tokenizer.

    Safe to use from several threads: what it learns later is the same whoever learns it.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        """Look at the tokenizer's parts.

        Args:
            tokenizer: The tokenizer, as it is used: nothing of it may change afterwards.
        """
        self._tokenizer = tokenizer
        added = [each.content for each in tokenizer.get_added_tokens_decoder().values()]
        self._margin = 2 * max(map(len, added), default=0) + _SIDE
        self.is_local = _is_local(tokenizer)
        self._is_unigram = type(tokenizer.model).__name__ == "Unigram"
        self._vocabulary: str | None = None
        self._are_apart: dict[str, bool] = {}

    def is_long(self, text: str, num_tokens: int) -> bool:
        """Return whether a text is worth cutting where so many of its tokens are wanted."""
        return self.is_local and len(text) > 2 * window_of(num_tokens)

    def first(
        self, texts: Sequence[str], num_tokens: int, longest: int | None = None
    ) -> list[tuple[tokenizers.Encoding, int] | None]:
        """Return the first tokens of long texts.

        Args:
            texts: Texts for which `is_long` holds.
            num_tokens: How many are wanted, at least.
            longest: Most characters that are looked at; None looks at up to half of a text.

        Returns:
            For each text an encoding of its beginning, and how many of its tokens, more than
            `num_tokens`, are those of the whole text; None where only the whole text tells.
        """
        found: list[tuple[tokenizers.Encoding, int] | None] = [None] * len(texts)
        waiting = list(range(len(texts)))
        window = window_of(num_tokens)
        while waiting:
            pieces = [texts[i][:window] for i in waiting]
            for i, made in zip(waiting, self._encode(pieces), strict=True):
                settled = self._num_settled(made, window)
                if settled <= num_tokens and (gap := self._find_gap(texts[i], window)):
                    (made,) = self._encode([texts[i][:gap]])
                    settled = len(made)
                if settled > num_tokens:
                    found[i] = made, settled
            window *= _GROWTH
            if longest is not None and window > longest:
                break
            waiting = [i for i in waiting if found[i] is None and len(texts[i]) > 2 * window]
        return found

    def last(self, text: str, num_tokens: int, longest: int | None = None) -> Int32Array | None:
        """Return the ids of a long text's last tokens, more than `num_tokens`.

        Args:
            text: A text for which `is_long` holds.
            num_tokens: How many are wanted, at least.
            longest: As for `first`.

        Returns:
            The ids; None where only the whole text tells.
        """
        window = window_of(num_tokens)
        while 2 * window < len(text) and (longest is None or window <= longest):
            if start := _next_border(text, len(text) - window):
                (made,) = self._encode([text[start:]])
                if len(made) > num_tokens:
                    return np.asarray(made.ids, np.int32)
            window *= _GROWTH
        return None

    def is_longer(self, first: str, second: str) -> bool:
        """Return whether one text has more tokens than another, looking at no more than needed."""
        if len(first) <= len(second):
            return self._count(first) > self._count(second, self._count(first))
        shorter = self._count(second)
        return self._count(first, shorter) > shorter

    def _count(self, text: str, most: int | None = None) -> int:
        """Return how many tokens a text has; what is above `most` need not be exact."""
        total = start = 0
        while start < len(text):
            border = _next_border(text, start + _BLOCK) if self.is_local else 0
            stop = border or len(text)
            encoding = self._tokenizer.encode_batch_fast(
                [text[start:stop]], add_special_tokens=False
            )
            total += len(encoding[0])
            start = stop
            if most is not None and total > most:
                break
        return total

    def _encode(self, texts: list[str]) -> list[tokenizers.Encoding]:
        return self._tokenizer.encode_batch(texts, add_special_tokens=False)

    def _num_settled(self, made: tokenizers.Encoding, window: int) -> int:
        """Return how many tokens of a text's beginning cannot be changed by what follows."""
        words, offsets = made.word_ids, made.offsets
        kept = len(words)
        # the last word may go on, and an added token such as <mask> may have been cut in two
        while kept and (
            words[kept - 1] == words[-1] or offsets[kept - 1][1] > window - self._margin
        ):
            kept -= 1
        return kept

    def _find_gap(self, text: str, window: int) -> int:
        """Return a place, in one long word, that no token of the vocabulary can span; or 0.

        A unigram model's best split up to there is the same whatever follows.
        """
        if not self._is_unigram:
            return 0
        for at in range(window, max(window // 2, window - _TRIES), -1):
            if self._is_gap(text[at - _SIDE : at], text[at : at + _SIDE]):
                return at
        return 0

    def _is_gap(self, before: str, after: str) -> bool:
        if not all(unicodedata.category(each)[0] in "LNP" for each in (before[-1], after[0])):
            return False
        left, right = self._normalize(before), self._normalize(after)
        if not left or not right or self._normalize(before + after) != left + right:
            return False
        both = left[-1] + right[0]
        if both not in self._are_apart:
            if self._vocabulary is None:
                self._vocabulary = "\n".join(self._tokenizer.get_vocab())
            vocabulary = self._vocabulary
            # unknown characters side by side become one token
            is_known = both[0] in vocabulary and both[1] in vocabulary
            self._are_apart[both] = is_known and both not in vocabulary
        return self._are_apart[both]

    def _normalize(self, text: str) -> str:
        normalizer = self._tokenizer.normalizer
        return text if normalizer is None else str(normalizer.normalize_str(text))


def _next_border(text: str, start: int) -> int:
    """Return where a space first follows a letter or digit at `start` or later, or 0.

    What stands before a space and what begins with it are tokenised apart.
    """
    at = max(start, 1)
    for _ in range(_TRIES):
        at = text.find(" ", at)
        if at < 0:
            return 0
        if text[at - 1].isalnum():
            return at
        at += 1
    return 0


def _is_local(tokenizer: tokenizers.Tokenizer) -> bool:
    added = tokenizer.get_added_tokens_decoder().values()
    for each in added:
        if any(map(str.isspace, each.content)) or (each.rstrip and each.content[-1].isalnum()):
            return False
    normalizers = _parts(tokenizer.normalizer, "normalizers")
    splitters = _parts(tokenizer.pre_tokenizer, "pretokenizers")
    if normalizers is None or splitters is None:
        return False
    known = _SPLITTERS | _FURTHER_SPLITTERS
    return (
        all(part["type"] in _NORMALIZERS or _joins_spaces(part) for part in normalizers)
        and all(part["type"] in known for part in splitters)
        and any(part["type"] in _SPLITTERS and _is_splitting(part) for part in splitters)
    )


def _parts(component: Any, inner: str) -> list[dict[str, Any]] | None:
    """Return what a normalizer or pre-tokenizer is made of; None where it cannot be told."""
    if component is None:
        return []
    try:
        state = json.loads(component.__getstate__())
    except Exception:  # noqa: BLE001 - one written in Python has no state, and may do anything
        return None
    return list(_flat(state, inner))


def _flat(state: dict[str, Any], inner: str) -> list[dict[str, Any]]:
    if state["type"] != "Sequence":
        return [state]
    return [part for member in state[inner] for part in _flat(member, inner)]


def _joins_spaces(part: dict[str, Any]) -> bool:
    return part["type"] == "Replace" and part["pattern"] == {"Regex": " {2,}"}


def _is_splitting(part: dict[str, Any]) -> bool:
    return bool(part.get("split", True) and part.get("use_regex", True))
