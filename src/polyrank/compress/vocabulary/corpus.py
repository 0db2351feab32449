"""Texts to count pieces in: files and folders of lines or JSON objects, each with a language.

Knows nothing of tokenizers. Which part a text belongs to, the one that pieces are chosen by or
the one held out to measure the choice, depends on the seed, its language and itself alone.
"""

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any, cast

from polyrank.errors import ConfigError, DataError
from polyrank.progress import StepProgress
from polyrank.text.inputs import check_text

UNDETERMINED = "und"  # BCP 47
TEXT_FIELDS = (
    "text",
    "title",
    "query",
    "src",
    "tgt",
    "page_title",
    "desc",
    "keywords",
    "passage",
    "question",
    "answer",
    "sentence1",
    "sentence2",
    "body",
    "content",
)
_LINE_SUFFIXES, _JSON_SUFFIXES = (".txt",), (".jsonl", ".ndjson")


@dataclass(frozen=True, slots=True)
class CorpusConfig:
    """How texts are read and parted.

    Attributes:
        fields: Fields of JSON objects that hold a text or a list of texts.
        held_out: Share of the texts that is kept for measuring, 0 to 0.5.
        seed: Of the parting.

    Raises:
        ConfigError: If a value is out of range.
    """

    fields: tuple[str, ...] = TEXT_FIELDS
    held_out: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.fields:
            raise ConfigError("fields must name at least one field that holds texts")
        if not 0 <= self.held_out <= 0.5:
            raise ConfigError(f"held_out must be from 0 to 0.5, not {self.held_out}")
        if self.seed < 0:
            raise ConfigError(f"seed must be 0 or more, not {self.seed}")


@dataclass(frozen=True, slots=True)
class CorpusText:
    """One text.

    Attributes:
        text: The text.
        language: BCP 47 tag; "und" where the source names none.
        is_held_out: Whether it is kept for measuring.
    """

    text: str
    language: str
    is_held_out: bool


def find_files(paths: Sequence[Path]) -> list[Path]:
    """Return the files to read: those named, and in folders all of known endings.

    Args:
        paths: Files and folders; folders are searched to their depth.

    Returns:
        Files, each once, those of a folder in the order of their names.

    Raises:
        DataError: If a path does not exist, or nothing is found.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            found.update((file, None) for file in sorted(path.rglob("*")) if _is_known(file))
        elif path.is_file() and _kind(path) == ".json":
            raise DataError(
                f"{path} is one JSON value, whose lines are no texts. Write an object a line: "
                f"jq -c '.[]' {path} > {path.with_suffix('.jsonl')}"
            )
        elif path.is_file():
            found[path] = None
        else:
            raise DataError(f"there is no file or folder {path} to read texts of.")
    if not found:
        endings = ", ".join((*_LINE_SUFFIXES, *_JSON_SUFFIXES))
        raise DataError(
            f"no texts in {', '.join(map(str, paths))}: files must end in {endings}, or in one of "
            "these and .gz."
        )
    return list(found)


def _kind(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix


def _is_known(path: Path) -> bool:
    return path.is_file() and _kind(path) in (*_LINE_SUFFIXES, *_JSON_SUFFIXES)


def read_texts(
    paths: Sequence[Path], config: CorpusConfig, progress: StepProgress | None = None
) -> Iterator[CorpusText]:
    """Read texts one by one; a text that a language has had before is left out.

    A file that does not end in .jsonl or .ndjson holds one text a line. A JSON object gives the
    language in ``lang``. Of translations, ``lang`` is that of ``tgt``; that of ``src`` is
    ``src_lang``, or undetermined.

    Args:
        paths: Files and folders.
        config: Fields, and how texts are parted.
        progress: Called with the step "texts" and bytes read.

    Yields:
        Texts in the order of the files.

    Raises:
        DataError: If a file is missing or cannot be read as what its name says, or no object of
            it has one of the fields.
    """
    files = find_files(paths)
    report = progress or (lambda step, done, total: None)
    total, before = sum(path.stat().st_size for path in files), 0
    seen: set[bytes] = set()
    for path in files:
        for done, text, language in _read_file(path, config.fields):
            digest = _digest(text, language, config.seed)
            if digest not in seen:
                seen.add(digest)
                share = int.from_bytes(digest, "little") / 2**64
                yield CorpusText(text, language, share < config.held_out)
            report("texts", before + done, total)
        before += path.stat().st_size
    report("texts", total, total)


def _digest(text: str, language: str, seed: int) -> bytes:
    salt = (seed % 2**64).to_bytes(16, "little")
    return blake2b(f"{language}\0{text}".encode(), digest_size=8, salt=salt).digest()


def _read_file(path: Path, fields: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """Yield bytes read so far, text and language."""
    is_json, is_used, is_empty = _kind(path) in _JSON_SUFFIXES, False, True
    for number, done, line in _lines(path):
        is_empty = False
        where = f"{path}, line {number}"
        texts = _row_texts(line, fields, where) if is_json else [(line, UNDETERMINED)]
        for text, language in texts:
            is_used = True
            yield done, check_text(text, where), language
    if not (is_used or is_empty):
        raise DataError(
            f"no object of {path} has a text in one of the fields {', '.join(fields)}. "
            "Name the right ones with --text-field, or --set text_fields."
        )


def _lines(path: Path) -> Iterator[tuple[int, int, str]]:
    """Yield number, bytes read so far and text of the lines that are not blank."""
    try:
        with path.open("rb") as raw:
            stream = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if path.suffix == ".gz" else raw
            for number, line in enumerate(stream, 1):
                text = line.decode("utf-8-sig" if number == 1 else "utf8").rstrip("\r\n")
                if text.strip():
                    yield number, raw.tell(), text
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as exc:
        raise DataError(
            f"{path} cannot be read to its end: {exc}. It must be UTF-8 text; a file whose name "
            "ends in .gz must be gzip."
        ) from exc


def _row_texts(line: str, fields: Sequence[str], where: str) -> list[tuple[str, str]]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise DataError(f"{where}: not JSON: {exc}. Lines of text belong in a .txt file.") from exc
    if not isinstance(row, dict):
        raise DataError(f"{where}: a JSON {type(row).__name__}, not an object.")
    found: list[tuple[str, str]] = []
    for field in fields:
        value = row.get(field)
        texts = value if isinstance(value, list) else [value]
        language = _language(row, field)
        found += [(text, language) for text in texts if isinstance(text, str) and text.strip()]
    return found


def _language(row: Mapping[str, Any], field: str) -> str:
    own = row.get(f"{field}_lang")
    language = own if own is not None or field == "src" else row.get("lang")
    return str(language) if language else UNDETERMINED
