"""Passages cut to the few sentences that fit a query best.

Training passages are paragraphs; what users judge is often a sentence. A list that comes once more
in this form teaches that short texts answer too. All passages of a list are cut alike, so that
length does not give the answer away.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from polyrank.training.data.sampling import RankedList
from polyrank.types import Float32Array

MOST_SENTENCES = 3
_LEAST_CHARACTERS, _MOST_CHARACTERS = 16, 240

Fit = Callable[[Sequence[tuple[str, str]]], Float32Array]
"""How well the second text of each pair fits the first, shape (num_pairs,)."""

_END = re.compile(r"[.!?؟።।۔၊။…]+[\"'”’»)\]]*(?=\s)|[。！？]+[」』”）]*|\n+")
_BLANK = re.compile(r"\s")


def shortened(
    lists: Sequence[RankedList], fit: Fit, generators: Sequence[np.random.Generator]
) -> list[RankedList]:
    """Return lists whose passages hold one to three sentences, the one that fits best among them.

    Args:
        lists: What was drawn.
        fit: Compares a query with sentences.
        generators: One a list, for the number of sentences and the place of the best among them.

    Returns:
        The same lists, with shorter passages.
    """
    cut = [[sentences(text) for text in entry.passages] for entry in lists]
    pairs = [
        (entry.query, sentence)
        for entry, passages in zip(lists, cut, strict=True)
        for found in passages
        for sentence in found
    ]
    fits = fit(pairs) if pairs else np.empty(0, np.float32)
    made, start = [], 0
    for entry, passages, generator in zip(lists, cut, generators, strict=True):
        count = int(generator.integers(1, MOST_SENTENCES + 1))
        texts = []
        for found in passages:
            own = fits[start : start + len(found)]
            start += len(found)
            texts.append(_around_best(found, own, count, generator))
        made.append(replace(entry, passages=tuple(texts)))
    return made


def sentences(text: str) -> list[str]:
    """Cut a text at the ends of sentences, and long ones at blanks.

    Args:
        text: Any text.

    Returns:
        Its parts in order, none empty unless the text is; joined they are the text again.
    """
    parts: list[str] = []
    start = 0
    for end in [match.end() for match in _END.finditer(text)] + [len(text)]:
        if end - start >= _LEAST_CHARACTERS or end == len(text):
            parts += _pieces(text[start:end])
            start = end
    return parts or [text]


def _pieces(sentence: str) -> list[str]:
    pieces = []
    while len(sentence) > _MOST_CHARACTERS:
        blanks = [match.end() for match in _BLANK.finditer(sentence, 0, _MOST_CHARACTERS)]
        end = max([at for at in blanks if at > _MOST_CHARACTERS // 2], default=_MOST_CHARACTERS)
        pieces.append(sentence[:end])
        sentence = sentence[end:]
    return [*pieces, sentence] if sentence else pieces


def _around_best(
    found: Sequence[str], fits: NDArray[np.float32], count: int, generator: np.random.Generator
) -> str:
    first = int(np.argmax(fits)) - int(generator.integers(count))
    first = max(0, min(first, len(found) - count))
    return "".join(found[first : first + count]).strip() or "".join(found)
