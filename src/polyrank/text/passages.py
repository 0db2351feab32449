"""Passages of a long text: sentences packed to a size in tokens, with exact offsets.

Sentences are found by the library sentencex, which needs no language and keeps every character.
Where a script marks no sentence ends, as Thai, a text is cut at blanks; where it has no blanks
either, between characters. Every character lies in a passage.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import sentencex

from polyrank.config import check_whole
from polyrank.errors import ConfigError
from polyrank.text.tokenizer import Tokenizer

_LANGUAGE = "en"  # its rules know most abbreviations; terminators of all scripts count in any
_BLOCK = 100_000  # characters whose tokens are counted at once
_PER_TOKEN = 4  # characters a token, about: longer pieces are cut before their tokens are counted


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a text.

    Attributes:
        start: Offset of its first character, in code points.
        end: Offset after its last character.
    """

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Piece:
    """A sentence or a part of one.

    Attributes:
        start: Offset of its first character.
        end: Offset after its last character.
        num_tokens: Its tokens.
    """

    start: int
    end: int
    num_tokens: int


def split_passages(
    text: str, tokenizer: Tokenizer, *, max_tokens: int, overlap_tokens: int = 0
) -> list[Span]:
    """Return the passages of a text.

    Args:
        text: A text that `check_text` accepts, of any length.
        tokenizer: Counts tokens.
        max_tokens: Tokens of a passage at most, special ones not counted.
        overlap_tokens: Tokens at the end of a passage that the next one may begin with, at most:
            whole sentences as far as they fit.

    Returns:
        Spans in order, of about equal numbers of tokens; they cover the text, and where nothing
        overlaps each begins where the last ended. One span for a text that fits; none for an
        empty one. A passage has more than `max_tokens` tokens only if a single character has.

    Raises:
        ConfigError: If `max_tokens` is below 1, or `overlap_tokens` is not below it.
    """
    check_whole("max_tokens", max_tokens)
    check_whole("overlap_tokens", overlap_tokens, low=0)
    if overlap_tokens >= max_tokens:
        raise ConfigError(
            f"overlap_tokens must be below max_tokens, {max_tokens}, not {overlap_tokens}"
        )
    if not text:
        return []
    if len(text) <= max_tokens * _PER_TOKEN and count_tokens(tokenizer, [text])[0] <= max_tokens:
        return [Span(0, len(text))]
    pieces = _small_pieces(text, tokenizer, max_tokens)
    packed = _pack(pieces, max_tokens, overlap_tokens)
    return _within(text, tokenizer, packed, max_tokens)


def count_tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> list[int]:
    """Return how many tokens each text has, some of them at a time."""
    counts: list[int] = []
    start, size = 0, 0
    for i, text in enumerate(texts):
        size += len(text)
        if size >= _BLOCK or i == len(texts) - 1:
            counts += map(len, tokenizer.encode(texts[start : i + 1]))
            start, size = i + 1, 0
    return counts


def _small_pieces(text: str, tokenizer: Tokenizer, max_tokens: int) -> list[_Piece]:
    """Return sentences, and parts of those that have too many tokens."""
    spans = [
        part
        for sentence in _sentences(text)
        for part in _parts(text, sentence, max(max_tokens * _PER_TOKEN, 2))
    ]
    pieces: list[_Piece] = []
    counts = count_tokens(tokenizer, [text[span.start : span.end] for span in spans])
    for span, count in zip(spans, counts, strict=True):
        if count <= max_tokens:
            pieces.append(_Piece(span.start, span.end, count))
        else:
            pieces += _halved(text, tokenizer, span, max_tokens)
    return pieces


def _sentences(text: str) -> Iterator[Span]:
    start = 0
    for sentence in sentencex.segment(_LANGUAGE, text):
        if not text.startswith(sentence, start):
            break  # offsets would be wrong: what is left counts as one sentence
        yield Span(start, start + len(sentence))
        start += len(sentence)
    if start < len(text):
        yield Span(start, len(text))


def _parts(text: str, span: Span, longest: int) -> Iterator[Span]:
    """Cut a span into parts of so many characters at most, after blanks where there are any."""
    start = span.start
    while span.end - start > longest:
        border = _border(text, start + longest // 2, start + longest)
        yield Span(start, border)
        start = border
    yield Span(start, span.end)


def _border(text: str, low: int, high: int) -> int:
    """Return where to cut a text, above `low` and at `high` at most."""
    for at in range(high, low, -1):
        if text[at - 1].isspace():
            return at
    for at in range(high, low, -1):
        if not _joins(text, at):
            return at
    return high


def _joins(text: str, at: int) -> bool:
    """Return whether a character belongs to the one before it, as an accent does."""
    if at >= len(text):
        return False
    joiner = "\u200d"
    return bool(unicodedata.combining(text[at])) or joiner in (text[at - 1], text[at])


def _halved(text: str, tokenizer: Tokenizer, span: Span, max_tokens: int) -> list[_Piece]:
    """Return parts of a span that has too many tokens, halved until each has few enough."""
    pieces: list[_Piece] = []
    waiting = [span]
    while waiting:
        part = waiting.pop()
        size = part.end - part.start
        (count,) = count_tokens(tokenizer, [text[part.start : part.end]])
        if count <= max_tokens or size == 1:
            pieces.append(_Piece(part.start, part.end, count))
            continue
        border = _border(text, part.start + size // 4, part.start + max(1, size // 2))
        waiting += [Span(border, part.end), Span(part.start, border)]
    return pieces


def _pack(pieces: Sequence[_Piece], max_tokens: int, overlap_tokens: int) -> list[list[_Piece]]:
    """Join pieces in a row to passages of about equal size, none larger than allowed."""
    whole = sum(piece.num_tokens for piece in pieces)
    fewest = -(-whole // (max_tokens - overlap_tokens)) or 1
    aim = -(-whole // fewest)
    passages: list[list[_Piece]] = [[]]
    size, num_new = 0, 0
    for piece in pieces:
        is_full = size + piece.num_tokens > max_tokens
        if passages[-1] and (is_full or num_new >= aim):
            kept = _tail(passages[-1], min(overlap_tokens, max_tokens - piece.num_tokens))
            size, num_new = sum(each.num_tokens for each in kept), 0
            passages.append(kept)
        passages[-1].append(piece)
        size += piece.num_tokens
        num_new += piece.num_tokens
    return passages


def _tail(pieces: Sequence[_Piece], num_tokens: int) -> list[_Piece]:
    """Return the last pieces that have so many tokens together, at most; never all of them."""
    sums = accumulate(piece.num_tokens for piece in reversed(pieces[1:]))
    fitting = sum(total <= num_tokens for total in sums) if num_tokens > 0 else 0
    return list(pieces[len(pieces) - fitting :])


def _within(
    text: str, tokenizer: Tokenizer, passages: Sequence[Sequence[_Piece]], max_tokens: int
) -> list[Span]:
    """Return the spans of passages, those cut in two whose joined text has too many tokens.

    Tokens of pieces add up to those of the passage, or to more; where a script has no blanks a
    border may save a token, so that the whole has more than its parts.
    """
    spans: list[Span] = []
    waiting = [list(passage) for passage in reversed(passages)]
    texts = [text[passage[0].start : passage[-1].end] for passage in passages]
    known = dict(zip(texts, count_tokens(tokenizer, texts), strict=True))
    while waiting:
        passage = waiting.pop()
        start, end = passage[0].start, passage[-1].end
        joined = text[start:end]
        count = known[joined] if joined in known else count_tokens(tokenizer, [joined])[0]
        if count <= max_tokens or len(passage) == 1:
            spans.append(Span(start, end))
        else:
            middle = len(passage) // 2
            waiting += [passage[middle:], passage[:middle]]
    return spans
