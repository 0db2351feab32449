"""A checkpoint's tokenizer: texts to token ids, and the template that joins them.

Truncation and padding stay switched off in the underlying tokenizer: turning them on changes
its state and is what makes shared fast tokenizers fail with "Already borrowed". Special tokens
are added here, from the template that the tokenizer's own post-processor was seen to apply.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import models, normalizers

from polyrank.errors import CheckpointError, InputError, PolyrankError
from polyrank.text.tokenizer_file import read_tokenizer_file
from polyrank.text.windows import Windows
from polyrank.types import Int32Array, Side

_PROBE = "a"
_CANNOT_CUT = "cannot cut a text into tokens"
_UNKNOWN = "\U00013000"  # a hieroglyph, which hardly any vocabulary holds
_LONGEST_WORD = 1000  # characters; WordPiece's work grows with their square


@dataclass(frozen=True, slots=True)
class Template:
    """Special tokens around one text or two, with the segment of every part.

    Attributes:
        parts: Ids of the special tokens before, between and after the texts.
        part_types: Segment id of each of those tokens.
        text_types: Segment id of each text's tokens.
    """

    parts: tuple[Int32Array, ...]
    part_types: tuple[Int32Array, ...]
    text_types: tuple[int, ...]

    @property
    def num_special_tokens(self) -> int:
        """Tokens that the template adds."""
        return sum(len(part) for part in self.parts)

    def join(self, texts: Sequence[Int32Array]) -> tuple[list[Int32Array], list[Int32Array]]:
        """Return the pieces of one sequence and their segments, ready to be concatenated."""
        ids, types = [self.parts[0]], [self.part_types[0]]
        for i, text in enumerate(texts):
            ids += [text, self.parts[i + 1]]
            types += [np.full(len(text), self.text_types[i], np.int32), self.part_types[i + 1]]
        return ids, types


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a text.

    Attributes:
        token_id: Its id.
        text: What of the text it stands for; a special token's own name.
        is_special: Whether the template added it.
        start: Offset of its first character in the text; None for special tokens.
        stop: Offset after its last character; None for special tokens.
    """

    token_id: int
    text: str
    is_special: bool
    start: int | None
    stop: int | None


class Tokenizer:
    """Token ids of texts, exactly as the checkpoint's tokenizer.json makes them.

    Safe to use from several threads: nothing changes after construction.
    """

    def __init__(
        self, path: Path, *, is_lowercased: bool = False, markers: Sequence[str] = ()
    ) -> None:
        """Load tokenizer.json.

        Args:
            path: The file; gzip data where its name ends in .gz.
            is_lowercased: Whether texts are lowercased before the file's own normaliser.
            markers: Texts that are one token wherever the vocabulary has them, or their first
                word, as such.

        Raises:
            CheckpointError: If the file is not a tokenizer.
        """
        self.path = path
        data = read_tokenizer_file(path)
        with _translated(path, "is not a tokenizer.json of the tokenizers library"):
            self._tokenizer = tokenizers.Tokenizer.from_buffer(data)
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
            if is_lowercased:
                self._lowercase()
            self._mark(markers)
            self.vocab_size = self._tokenizer.get_vocab_size()
            # what has no piece of its own must have one too: a missing [UNK] shows itself here
            self._tokenizer.encode(_UNKNOWN)
            probes = self._tokenizer.encode(_PROBE), self._tokenizer.encode(_PROBE, _PROBE)
        _check_model(path, self._tokenizer.model)
        self.num_ids = self._count_ids()
        try:
            self.single, self.pair = _template(probes[0], 1), _template(probes[1], 2)
        except (IndexError, OverflowError) as exc:
            raise CheckpointError(
                f"{path} cannot be used: no token, or one of an impossible id, is made of a text "
                f"such as {_PROBE!r} ({exc})."
            ) from exc
        self._windows = Windows(self._tokenizer)

    def _count_ids(self) -> int:
        """Return one more than the highest id that a text can get."""
        added = self._tokenizer.get_added_tokens_decoder()
        highest = max(added, default=-1)
        if isinstance(self._tokenizer.model, models.Unigram):  # whose ids are places in a list
            vocab_size = self._tokenizer.get_vocab_size(with_added_tokens=False)
        else:
            vocab = self._tokenizer.get_vocab(with_added_tokens=False)
            vocab_size = max(vocab.values(), default=-1) + 1
        return max(vocab_size, highest + 1)

    def check_fits(self, vocab_size: int, type_vocab_size: int) -> None:
        """Raise unless every id and segment that a text can get has a row in a body's tables.

        Args:
            vocab_size: Rows of the table of word embeddings.
            type_vocab_size: Rows of the table of segments; bodies with one take no segments.

        Raises:
            CheckpointError: If one has none.
        """
        templates = (self.single, self.pair)
        special = [part for template in templates for part in template.parts]
        num_ids = max([self.num_ids, *(int(part.max()) + 1 for part in special if len(part))])
        if num_ids > vocab_size or min(int(part.min(initial=0)) for part in special) < 0:
            raise CheckpointError(
                f"{self.path} has {num_ids:,} ids of pieces, but the embedding table only "
                f"{vocab_size:,} rows. The two belong to different checkpoints."
            )
        types = [int(part.max(initial=0)) for one in templates for part in one.part_types]
        segment = max([*types, *self.single.text_types, *self.pair.text_types])
        if type_vocab_size > 1 and segment >= type_vocab_size:
            raise CheckpointError(
                f"{self.path} gives tokens the segment {segment:,}, but the table of segments has "
                f"only {type_vocab_size:,} rows. The two belong to different checkpoints."
            )

    def _mark(self, markers: Sequence[str]) -> None:
        for marker in markers:
            for text in (marker, marker.split(None, 1)[0]):
                if self._tokenizer.token_to_id(text) is None:
                    continue
                if self._tokenizer.encode(text, add_special_tokens=False).tokens != [text]:
                    token = tokenizers.AddedToken(text, normalized=False, special=True)
                    self._tokenizer.add_special_tokens([token])
                break

    @property
    def unknown_id(self) -> int | None:
        """Id of what has no piece of its own, None where there is no such id."""
        name = getattr(self._tokenizer.model, "unk_token", None)
        return self.id_of(name) if isinstance(name, str) else None

    def id_of(self, piece: str) -> int | None:
        """Return the id of a piece, None where the vocabulary has no such one."""
        found = self._tokenizer.token_to_id(piece)
        return None if found is None else int(found)

    def piece_of(self, token_id: int) -> str:
        """Return the piece that an id of the vocabulary stands for."""
        return str(self._tokenizer.id_to_token(token_id))

    def _lowercase(self) -> None:
        steps: list[Any] = [normalizers.Lowercase()]
        if self._tokenizer.normalizer is not None:
            steps.append(self._tokenizer.normalizer)
        self._tokenizer.normalizer = normalizers.Sequence(steps)

    def encode(self, texts: Sequence[str]) -> list[Int32Array]:
        """Return the token ids of each text, without special tokens or truncation.

        Args:
            texts: Texts that `check_text` accepts.

        Returns:
            One array of shape (seq_len,) per text; empty for a text without tokens.
        """
        with _translated(self.path, _CANNOT_CUT):
            encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.asarray(encoding.ids, np.int32) for encoding in encodings]

    def encode_ends(
        self,
        texts: Sequence[str],
        num_tokens: int,
        *,
        side: Side = "right",
        max_characters: int | None = None,
    ) -> list[Int32Array]:
        """Return the token ids of each text, or those at one end of it where it has many.

        Args:
            texts: Texts that `check_text` accepts.
            num_tokens: How many tokens are read of each.
            side: "right" where the end of a text may be left out, "left" where its start may.
            max_characters: Most characters of a text that are tokenised, where no short piece of it
                tells its tokens; None sets no limit.

        Returns:
            One array per text. One of `num_tokens` or fewer ids holds all of them; a longer one
            holds the first, or the last, or all.

        Raises:
            InputError: If a text has more characters than `max_characters` and no short piece
                of it tells its tokens.
        """
        found: dict[int, Int32Array] = {}
        long = [i for i, text in enumerate(texts) if self._windows.is_long(text, num_tokens)]
        if side == "left":
            with _translated(self.path, _CANNOT_CUT):
                ends = [self._windows.last(texts[i], num_tokens, max_characters) for i in long]
            found = {i: ids for i, ids in zip(long, ends, strict=True) if ids is not None}
        elif long:
            with _translated(self.path, _CANNOT_CUT):
                firsts = self._windows.first([texts[i] for i in long], num_tokens, max_characters)
            for i, first in zip(long, firsts, strict=True):
                if first is not None:
                    found[i] = np.asarray(first[0].ids[: first[1]], np.int32)
        whole = [i for i in range(len(texts)) if i not in found]
        for i in whole:
            _check_length(texts[i], max_characters)
        found |= zip(whole, self.encode([texts[i] for i in whole]), strict=True)
        return [found[i] for i in range(len(texts))]

    def is_cut_early(self, text: str, num_tokens: int) -> bool:
        """Return whether `encode_ends` looks at a part of a text first."""
        return self._windows.is_long(text, num_tokens)

    def is_longer(self, first: str, second: str) -> bool:
        """Return whether one text has more tokens than another."""
        return self._windows.is_longer(first, second)

    def tokens(self, texts: Sequence[str], *, is_special: bool) -> list[list[Token]]:
        """Return the tokens of each text with their places, without truncation.

        Args:
            texts: Texts that `check_text` accepts.
            is_special: Whether special tokens are put around each text.

        Returns:
            Tokens of each text, in order.
        """
        with _translated(self.path, _CANNOT_CUT):
            encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=is_special)
        return [_tokens(encoding, text) for encoding, text in zip(encodings, texts, strict=True)]

    def decode(self, ids: Sequence[int], *, skip_special: bool) -> str:
        """Return what token ids spell.

        Args:
            ids: Ids, each from 0 to `vocab_size` - 1.
            skip_special: Whether special tokens are left out.

        Returns:
            The text; where the tokenizer normalises, not always the one that was encoded.
        """
        with _translated(self.path, "cannot spell these ids"):
            return self._tokenizer.decode(list(ids), skip_special_tokens=skip_special)

    def end_within(self, text: str, num_tokens: int) -> int:
        """Return how far a text can be read within some tokens.

        Args:
            text: The text.
            num_tokens: Tokens that may be read, 1 or more.

        Returns:
            Offset after the last character; the text's length where it has no more tokens.
        """
        offsets = self._offsets(text, num_tokens)
        return offsets[num_tokens - 1][1] if len(offsets) > num_tokens else len(text)

    def count_prompt(self, prompt: str) -> int:
        """Return how many tokens a prompt takes before a text, at most.

        One more than it has alone, should its last blank and the text's first character make one.
        """
        return len(self.encode([prompt.strip()])[0]) + 1 if prompt else 0

    def end_of_token(self, text: str, num_tokens: int) -> int:
        """Return the character offset after a text's first tokens.

        Args:
            text: The text.
            num_tokens: How many tokens to keep.

        Returns:
            Offset of the end of the last kept token; 0 where none is kept.
        """
        if num_tokens == 0:
            return 0
        offsets = self._offsets(text, num_tokens)
        return offsets[min(num_tokens, len(offsets)) - 1][1] if offsets else 0

    def _offsets(self, text: str, num_tokens: int) -> list[tuple[int, int]]:
        """Return the bounds of a text's first tokens: more than `num_tokens`, or all."""
        with _translated(self.path, _CANNOT_CUT):
            if self._windows.is_long(text, num_tokens):
                (first,) = self._windows.first([text], num_tokens)
                if first is not None:
                    return list(first[0].offsets)
            return list(self._tokenizer.encode(text, add_special_tokens=False).offsets)


def _check_length(text: str, max_characters: int | None) -> None:
    if max_characters is not None and len(text) > max_characters:
        raise InputError(
            f"a text has {len(text):,} characters, and no short part of it tells its tokens: it "
            f"has too few spaces. Such a text may have {max_characters:,}; shorten it."
        )


@contextmanager
def _translated(path: Path, what: str) -> Iterator[None]:
    """Turn errors of the tokenizers library into ours, panics of its Rust code too."""
    try:
        yield
    except PolyrankError:
        raise
    except Exception as exc:
        raise CheckpointError(f"{path} {what}: {exc!s:.300}. Download it again.") from exc
    except BaseException as exc:
        # a panic is no Exception, so that a server's or a user's own handlers would let it pass
        if type(exc).__name__ != "PanicException":
            raise
        raise CheckpointError(f"{path} {what}: {exc!s:.300}. Download it again.") from exc


def _check_model(path: Path, model: models.Model) -> None:
    """Raise for models that draw lots, or look at every part of words without an end."""
    dropout = getattr(model, "dropout", None)
    if dropout:
        raise CheckpointError(
            f"{path} leaves out merges at random (dropout {dropout:.3g}), so that a text would get "
            "other scores each time. Set its dropout to null."
        )
    longest = getattr(model, "max_input_chars_per_word", 0)
    if longest > _LONGEST_WORD:
        raise CheckpointError(
            f"{path} looks at all parts of words of up to {longest:,} characters; the limit is "
            f"{_LONGEST_WORD:,}, and 100 is usual (max_input_chars_per_word)."
        )


def _tokens(encoding: tokenizers.Encoding, text: str) -> list[Token]:
    rows = zip(encoding.ids, encoding.tokens, encoding.offsets, encoding.sequence_ids, strict=True)
    found = []
    for token_id, name, (start, stop), owner in rows:
        if owner is None:
            found.append(Token(token_id, name, True, None, None))
        else:
            found.append(Token(token_id, text[start:stop], False, start, stop))
    return found


def _template(encoding: tokenizers.Encoding, num_texts: int) -> Template:
    """Learn the template from an encoding of short texts: what was added, and where."""
    owners = encoding.sequence_ids
    bounds = [0]
    for text in range(num_texts):
        positions = [at for at, owner in enumerate(owners) if owner == text]
        bounds += [positions[0], positions[-1] + 1]
    bounds.append(len(owners))
    ids = np.asarray(encoding.ids, np.int32)
    types = np.asarray(encoding.type_ids, np.int32)
    # special tokens lie at bounds 0-1, 2-3, 4-5; the texts between them
    spans = [slice(bounds[k], bounds[k + 1]) for k in range(0, len(bounds), 2)]
    return Template(
        parts=tuple(ids[span] for span in spans),
        part_types=tuple(types[span] for span in spans),
        text_types=tuple(int(types[bounds[2 * text + 1]]) for text in range(num_texts)),
    )
