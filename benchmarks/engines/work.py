"""The texts that every engine gets: real questions and passages of XQuAD in twelve languages."""

import gzip
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engines.batching import Tokens

MAX_LENGTH = 512
DOCUMENT_TOKENS = (100, 160)  # about 130
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Job:
    """Pairs to score in one call.

    Attributes:
        pairs: Texts.
        sequences: The same pairs as token ids.
    """

    pairs: list[Pair]
    sequences: list[Tokens]

    @property
    def num_tokens(self) -> int:
        """Tokens in all, without padding."""
        return sum(map(len, self.sequences))


class Texts:
    """Reader of XQuAD that cuts passages to a number of tokens."""

    def __init__(
        self, data: Path, tokenizer_file: Path, seed: int, max_length: int = MAX_LENGTH
    ) -> None:
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(tokenizer_file))
        self.tokenizer.enable_truncation(max_length)
        self.chooser = random.Random(seed)
        folder = data / "eval" / "xquad"
        self.passages = _by_language(folder / "corpus.jsonl.gz")
        self.queries = _by_language(folder / "queries.jsonl.gz")
        self.languages = sorted(self.queries)

    def job(self, pairs: list[Pair]) -> Job:
        """Return pairs with their token ids."""
        return Job(pairs, [np.array(self.tokenizer.encode(*pair).ids) for pair in pairs])

    def natural(self, count: int) -> Job:
        """Return pairs of a question and a passage as they are, all languages alike."""
        pairs = []
        for at in range(count):
            language = self.languages[at % len(self.languages)]
            pairs.append((self._query(language), self.chooser.choice(self.passages[language])))
        self.chooser.shuffle(pairs)
        return self.job(pairs)

    def lognormal(self, count: int) -> Job:
        """Return pairs cut to log-normal lengths, 30 to 510 tokens, 177 on average."""
        draws = np.random.default_rng(0).lognormal(5.0, 0.6, count)
        lengths = np.clip(np.round(draws * 177 / draws.mean()), 30, 510).astype(int)
        return self.job([self._pair_of(int(length)) for length in lengths])

    def long(self, count: int, length: int) -> Job:
        """Return pairs of a question and passages of its language, cut to so many tokens."""
        pairs = []
        for at in range(count):
            language = self.languages[at % len(self.languages)]
            query, text = self._query(language), ""
            room = length - len(self.tokenizer.encode(query, "").ids)
            while len(self.tokenizer.encode(text).ids) - 2 < room:
                text += " " + self.chooser.choice(self.passages[language])
            pairs.append((query, self._cut(text.strip(), room)))
        return self.job(pairs)

    def search(self, num_documents: int) -> Job:
        """Return one question with documents of about 130 tokens in its language."""
        language = self.chooser.choice(self.languages)
        query = self._query(language)
        documents = []
        for _ in range(num_documents):
            length = self.chooser.randint(*DOCUMENT_TOKENS)
            documents.append(self._cut(self._passage(language, length), length))
        return self.job([(query, document) for document in documents])

    def _query(self, language: str) -> str:
        return self.chooser.choice(self.queries[language])

    def _passage(self, language: str, length: int) -> str:
        for _ in range(100):
            text = self.chooser.choice(self.passages[language])
            if len(self.tokenizer.encode(text).ids) - 2 >= length:
                return text
        return text

    def _cut(self, text: str, length: int) -> str:
        offsets = self.tokenizer.encode(text, add_special_tokens=False).offsets
        # a blank left at the end would be a token to some tokenizers and none to others
        return text[: offsets[min(length, len(offsets)) - 1][1]].strip()

    def _pair_of(self, length: int) -> Pair:
        for _ in range(1000):
            language = self.chooser.choice(self.languages)
            query = self._query(language)
            room = length - len(self.tokenizer.encode(query, "").ids)
            if room < 3:
                continue
            text = self.chooser.choice(self.passages[language])
            if len(self.tokenizer.encode(text).ids) - 2 >= room:
                return query, self._cut(text, room)
        raise ValueError(f"no passage of {length} tokens in the data")


def _by_language(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    with gzip.open(path, "rt", encoding="utf8") as file:
        for line in file:
            row: dict[str, Any] = json.loads(line)
            found.setdefault(row["lang"], []).append(row["text"])
    return found
