"""Texts and pairs of texts as packed sequences, with what was cut recorded."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polyrank.config import TruncationConfig
from polyrank.text.token_cache import TokenCache
from polyrank.text.tokenizer import Template, Tokenizer
from polyrank.text.truncation import longest_first, only_second, room_for_texts
from polyrank.types import Int32Array, PackedBatch, Side


@dataclass(frozen=True, slots=True)
class Sequences:
    """Packed sequences and what truncation did to them.

    Attributes:
        batch: The sequences.
        is_truncated: Whether tokens were cut, shape (num_sequences,).
        num_kept_tokens: Tokens kept of the last text of each sequence, shape (num_sequences,):
            of the document where sequences are pairs.
    """

    batch: PackedBatch
    is_truncated: NDArray[np.bool_]
    num_kept_tokens: Int32Array


class SequenceBuilder:
    """Builds sequences for one checkpoint under one truncation setting. Pure."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        truncation: TruncationConfig,
        *,
        model_limit: int,
        has_segments: bool,
        side: Side = "right",
        max_characters: int | None = None,
        token_cache: TokenCache | None = None,
    ) -> None:
        """Set the limits.

        Args:
            tokenizer: The checkpoint's tokenizer.
            truncation: What to cut when a sequence is too long.
            model_limit: Most tokens that the checkpoint reads.
            has_segments: Whether the body tells segments apart (type_vocab_size above 1).
            side: Where a text that is too long is cut: "right" at its end, "left" at its start.
            max_characters: As for `Tokenizer.encode_ends`.
            token_cache: Where ids of texts are kept; None keeps none. Of one tokenizer alone.

        Raises:
            ConfigError: If the truncation setting does not fit the checkpoint.
        """
        self.tokenizer = tokenizer
        self.truncation = truncation
        self.model_limit = model_limit
        self.has_segments = has_segments
        self.side: Side = side
        self.max_characters = max_characters
        self.token_cache = token_cache
        self.max_length = min(truncation.max_length or model_limit, model_limit)
        room_for_texts(truncation, model_limit, tokenizer.single.num_special_tokens)

    def texts(self, texts: Sequence[str]) -> Sequences:
        """Return each text as a sequence of its own, cut where it is too long."""
        template = self.tokenizer.single
        room = room_for_texts(self.truncation, self.model_limit, template.num_special_tokens)
        ids = self._encode_unique(texts, room)
        lengths = [(min(len(tokens), room),) for tokens in ids]
        return self._pack(template, [(tokens,) for tokens in ids], lengths)

    def pairs(self, pairs: Sequence[tuple[str, str]]) -> Sequences:
        """Return each pair as one sequence, cut by the truncation strategy.

        A text that occurs in many pairs, as a query does, is tokenised once.
        """
        template = self.tokenizer.pair
        room = room_for_texts(self.truncation, self.model_limit, template.num_special_tokens)
        ids = self._encode_unique([text for pair in pairs for text in pair], room)
        joined = [(ids[i], ids[i + 1]) for i in range(0, len(ids), 2)]
        lengths = [
            self._pair_lengths(pair, len(first), len(second), room)
            for pair, (first, second) in zip(pairs, joined, strict=True)
        ]
        return self._pack(template, joined, lengths)

    def _pair_lengths(
        self, pair: tuple[str, str], first: int, second: int, room: int
    ) -> tuple[int, int]:
        if self.truncation.strategy == "only_second":
            return only_second(first, second, room, self.truncation.max_query_length)
        is_open = any(self.tokenizer.is_cut_early(text, room) for text in pair)
        if room % 2 and min(first, second) > room and is_open:
            # the longer text gets the odd token, and of one or both only an end is known
            first, second = (room + 2, room + 1) if self.tokenizer.is_longer(*pair) else (room,) * 2
        return longest_first(first, second, room)

    def _encode_unique(self, texts: Sequence[str], room: int) -> list[Int32Array]:
        index = {text: i for i, text in enumerate(dict.fromkeys(texts))}

        def encode(fresh: list[str]) -> Sequence[Int32Array]:
            return self.tokenizer.encode_ends(
                fresh, room, side=self.side, max_characters=self.max_characters
            )

        if self.token_cache is None:
            encoded = encode(list(index))
        else:
            setting = (room, self.side, self.max_characters)
            encoded = self.token_cache.encode(list(index), setting, encode)
        return [encoded[index[text]] for text in texts]

    def _pack(
        self,
        template: Template,
        texts: Sequence[tuple[Int32Array, ...]],
        lengths: Sequence[tuple[int, ...]],
    ) -> Sequences:
        pieces: list[Int32Array] = []
        types: list[Int32Array] = []
        for members, kept in zip(texts, lengths, strict=True):
            cut = [self._cut(ids, length) for ids, length in zip(members, kept, strict=True)]
            new_ids, new_types = template.join(cut)
            pieces += new_ids
            types += new_types
        cu_seqlens = np.zeros(len(texts) + 1, np.int32)
        np.cumsum([sum(kept) + template.num_special_tokens for kept in lengths], out=cu_seqlens[1:])
        batch = PackedBatch(_concatenate(pieces), cu_seqlens, self._segments(types))
        whole = [sum(map(len, members)) for members in texts]
        return Sequences(
            batch,
            np.array(
                [sum(kept) < length for kept, length in zip(lengths, whole, strict=True)], bool
            ),
            np.array([kept[-1] for kept in lengths], np.int32),
        )

    def _cut(self, ids: Int32Array, length: int) -> Int32Array:
        return ids[:length] if self.side == "right" else ids[len(ids) - length :]

    def _segments(self, types: list[Int32Array]) -> Int32Array | None:
        if not self.has_segments:
            return None
        segments = _concatenate(types)
        return segments if segments.any() else None


def _concatenate(pieces: list[Int32Array]) -> Int32Array:
    return np.concatenate(pieces) if pieces else np.empty(0, np.int32)
