"""Files into a store: what is new or changed is read, split, embedded and written."""

import os
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from polyrank.config import (
    DEFAULT_MAX_FILE_BYTES,
    DEFAULT_PASSAGE_TOKENS,
    DEFAULT_STORE,
    check_whole,
)
from polyrank.errors import ConfigError, DataError, MissingExtraError
from polyrank.inference.embedder import Embedder
from polyrank.pipeline.extracting.document import ExtractedDocument
from polyrank.pipeline.extracting.formats import NotText, extract
from polyrank.pipeline.listing import Listing, Remark, Signature, list_files
from polyrank.pipeline.manifest import FileRecord, Manifest, Pending
from polyrank.pipeline.models import ModelSettings, check_probe, probe
from polyrank.pipeline.passages import check_kept_fields, content_hash, file_passages
from polyrank.pipeline.places import held, left_out, state_folder
from polyrank.pipeline.words import WordIndex
from polyrank.pipeline.writing import NewFile, Writer
from polyrank.progress import StepProgress, unheard
from polyrank.stores.base import Store
from polyrank.stores.opening import open_store
from polyrank.text.tokenizer import Tokenizer

MANIFEST, WORDS = "manifest.db", "words.db"
_STEP = "indexing (bytes)"
_AS_BEGUN = "Leave the option out, or index into a new store."
_RENEWED = 10  # the store's own index is renewed when a tenth of the passages is new

Places = Iterable[str | os.PathLike[str]]


@dataclass(frozen=True, slots=True)
class IndexSettings:
    """How files become passages.

    Attributes:
        passage_tokens: Tokens of a passage at most; None takes what the store was begun with, 256
            for a new one.
        kept_fields: Fields of rows (JSON lines, Parquet) to keep as metadata; None takes what the
            store was begun with.
        max_file_bytes: Larger files are not read.
        api_key: Key of a store's server that asks for one.
        rows: Whether the store keeps the rows of late interaction too, so that a search reranks
            without reading passages again; None takes what the store was begun with, which is no
            rows for a new one.
    """

    passage_tokens: int | None = None
    kept_fields: tuple[str, ...] | None = None
    max_file_bytes: int = DEFAULT_MAX_FILE_BYTES
    api_key: str | None = None
    rows: bool | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if self.passage_tokens is not None:
            check_whole("passage_tokens", self.passage_tokens, low=16, high=8_192)
        check_whole("max_file_bytes", self.max_file_bytes)
        check_kept_fields(self.kept_fields or ())


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What a run has done.

    Attributes:
        added: Files that are new in the store.
        changed: Files whose passages took the place of older ones.
        unchanged: Files that are as they were.
        deleted: Files that are gone, and their passages with them.
        num_written: Passages written.
        num_passages: Passages of all files in the store now.
        skipped: Files that were passed over on purpose.
        failed: Files that could not be read; what the store held of them before is still there.
        row_bytes: Bytes of rows of late interaction that were written, in float32.
    """

    added: int
    changed: int
    unchanged: int
    deleted: int
    num_written: int
    num_passages: int
    skipped: tuple[Remark, ...]
    failed: tuple[Remark, ...]
    row_bytes: int = 0


class Indexer:
    """Fills a store from files, again and again: each run brings it up to date."""

    def __init__(
        self,
        store: str = DEFAULT_STORE,
        *,
        models: ModelSettings | None = None,
        settings: IndexSettings | None = None,
    ) -> None:
        """Take where and how; nothing is opened before `run`.

        Args:
            store: URL of a store; see `polyrank.stores.open_store`.
            models: The model that embeds; None takes the default one.
            settings: How files become passages; None takes the usual.

        Raises:
            ConfigError: If the URL names no kind of store.
        """
        self._url = store
        self._models, self._settings = models or ModelSettings(), settings or IndexSettings()
        state_folder(store)

    def run(self, places: Places, progress: StepProgress = unheard) -> IndexReport:
        """Bring the store up to date with files and folders.

        Args:
            places: Files and folders. What the store holds of files in other places stays.
            progress: Called with bytes done and bytes in all.

        Returns:
            What was done. Files that could not be read are in `failed`; the others are indexed.

        Raises:
            DataError: If a place is not there.
            ConfigError: If a setting is not what the store was begun with.
            CapabilityError: If rows are to be kept, and the store keeps none or the model has none.
            StoreError: If the store cannot be opened or written, holds other vectors, or is being
                indexed by another process.
        """
        begun_ns = time.time_ns()
        listing = list_files(places, left_out(self._url))
        with ExitStack() as stack:
            folder = stack.enter_context(held(self._url))
            manifest = stack.enter_context(Manifest(folder / MANIFEST, self._url))
            embedder = self._models.embedder()
            settings = self._agreed(manifest, embedder)
            width = int(settings["row_dimensions"])
            store = stack.enter_context(
                open_store(
                    self._url,
                    dimensions=embedder.dimensions,
                    row_dimensions=width,
                    api_key=self._settings.api_key,
                )
            )
            manifest.set(settings)
            words = None
            if "text" not in store.capabilities:
                words = WordIndex(folder / WORDS, self._url)
                stack.callback(words.close)
            run = _Run(
                Writer(
                    *(store, words, manifest, embedder),
                    self._models.reranker() if width else None,
                ),
                manifest,
                self._models.tokenizer(),
                IndexSettings(
                    int(settings["passage_tokens"]),
                    tuple(settings["kept_fields"]),
                    self._settings.max_file_bytes,
                ),
                progress,
            )
            run.heal(store)
            run.bring_up_to_date(listing, begun_ns)
            run.renew(store)
            return run.report(listing)

    def _agreed(self, manifest: Manifest, embedder: Embedder) -> dict[str, Any]:
        """Return how the store is filled: as it was begun, which is what was asked for."""
        known, own = {"row_dimensions": 0, **manifest.settings()}, self._settings
        if "probe" not in known:
            return {
                "row_dimensions": self._models.reranker().row_dimensions if own.rows else 0,
                "model": self._models.model,
                "model_name": embedder.info.name,
                "probe": probe(embedder),
                "dimensions": embedder.dimensions,
                "passage_tokens": own.passage_tokens or DEFAULT_PASSAGE_TOKENS,
                "kept_fields": list(own.kept_fields or ()),
            }
        check_probe(embedder, known["probe"], self._url, known["model_name"])
        fields = None if own.kept_fields is None else list(own.kept_fields)
        asked = {"passage_tokens": own.passage_tokens, "kept_fields": fields}
        for name, value in asked.items():
            if value is not None and value != known[name]:
                raise ConfigError(
                    f"{self._url} was begun with {name} {known[name]}, not {value}. {_AS_BEGUN}"
                )
        if own.rows is not None and own.rows != bool(known["row_dimensions"]):
            begun = "with" if known["row_dimensions"] else "without"
            raise ConfigError(
                f"{self._url} was begun {begun} rows of late interaction. {_AS_BEGUN}"
            )
        return known


class _Run:
    """One run over a listing."""

    def __init__(
        self,
        writer: Writer,
        manifest: Manifest,
        tokenizer: Tokenizer,
        settings: IndexSettings,
        progress: StepProgress,
    ) -> None:
        self._writer, self._manifest, self._tokenizer = writer, manifest, tokenizer
        self._settings, self._progress = settings, progress
        self._files, self._pending = manifest.files(), manifest.pending()
        self._counts = {"added": 0, "changed": 0, "unchanged": 0, "deleted": 0}
        self._skipped: list[Remark] = []
        self._failed: list[Remark] = []
        self._touched: list[FileRecord] = []
        self._done, self._total = 0, 0
        self._current: NewFile | None = None

    def heal(self, store: Store) -> None:
        """Begin anew where the store has lost what the manifest says is there."""
        settled = sum(
            record.passages for path, record in self._files.items() if path not in self._pending
        )
        if store.count() < settled:
            self._writer.forget_all(self._files.values())
            self._files = {}

    def bring_up_to_date(self, listing: Listing, begun_ns: int) -> None:
        """Write what is new, and remove what is gone.

        Args:
            listing: What is there.
            begun_ns: When the listing was begun.
        """
        self._total = sum(signature.size for signature in listing.files.values())
        begun = [each for path, each in self._pending.items() if path not in listing.files]
        for pending in begun:
            if self._writer.take_back(pending, self._files.get(pending.path)) is None:
                self._files.pop(pending.path, None)
        for path in [path for path in self._files if listing.is_gone(path)]:
            self._writer.forget(self._files.pop(path))
            self._counts["deleted"] += 1
        for path, signature in listing.files.items():
            self._take(path, signature, begun_ns)
            self._done += signature.size
            self._say()
        self._writer.flush(self._heard)
        self._manifest.finish(self._touched)

    def _take(self, path: str, signature: Signature, begun_ns: int) -> None:
        """Look at a file, and hand it to the writer if it is new or changed."""
        record, pending = self._files.get(path), self._pending.get(path)
        if record is not None and record.signature == signature and pending is None:
            self._counts["unchanged"] += 1
            return
        try:
            data = self._read(path, signature)
            content = content_hash(data)
            settled = signature.settled(begun_ns)
            if record is not None and record.content == content and pending is None:
                self._leave(replace(record, signature=settled))
                return
            documents = self._documents(path, data)
        except (DataError, MissingExtraError) as exc:
            self._failed.append(Remark(path, str(exc)))
            if pending is not None:
                self._writer.take_back(pending, record)
            return
        file = NewFile(path, content, settled, (), older=record, size=signature.size)
        self._begin(file, documents, pending)

    def _begin(
        self, file: NewFile, documents: list[ExtractedDocument], pending: Pending | None
    ) -> None:
        settings = self._settings
        assert settings.passage_tokens is not None
        file.passages = file_passages(
            *(file.path, file.content, documents, self._tokenizer),
            *(settings.passage_tokens, settings.kept_fields or ()),
        )
        if pending is not None and pending.content == file.content:
            file.written = min(pending.written, len(file.passages))
        elif pending is not None:
            file.older = self._writer.take_back(pending, file.older)
            if file.older is not None and file.older.content == file.content:
                self._leave(replace(file.older, signature=file.signature))
                return
        if not file.passages:
            self._skipped.append(Remark(file.path, "holds no text"))
        if file.passages or file.older is not None:
            self._counts["added" if file.older is None else "changed"] += 1
        self._current = file
        self._writer.add(file, self._heard)
        self._current = None

    def _leave(self, record: FileRecord) -> None:
        """Note that a file has other times than before, but the same content."""
        self._touched.append(record)
        self._counts["unchanged"] += 1

    def _read(self, path: str, signature: Signature) -> bytes:
        most = self._settings.max_file_bytes
        if signature.size > most:
            raise DataError(
                f"{signature.size:,} bytes; {most:,} are the most that is read of a file. Split "
                "it, or raise the limit."
            )
        try:
            with open(path, "rb") as file:
                return file.read(most)
        except FileNotFoundError as exc:
            raise DataError("vanished while the others were indexed") from exc
        except OSError as exc:
            raise DataError(f"cannot be read: {exc.strerror or exc}") from exc

    def _documents(self, path: str, data: bytes) -> list[ExtractedDocument]:
        try:
            return extract(path, data)
        except NotText:
            return []

    def _say(self) -> None:
        note = f"{self._writer.num_written:,} passages"
        file, done = self._current, self._done
        if file is not None and file.passages:
            done += file.size * file.written // len(file.passages)
        self._progress(_STEP, done, self._total, note)

    def _heard(self, done: int, total: int) -> None:
        self._say()

    def renew(self, store: Store) -> None:
        """Renew the store's own index where much has changed."""
        changed = self._writer.num_written + self._writer.num_removed
        if "index" in store.capabilities and changed * _RENEWED > self._manifest.count_passages():
            store.optimize()

    def report(self, listing: Listing) -> IndexReport:
        """Return what was done."""
        return IndexReport(
            **self._counts,
            num_written=self._writer.num_written,
            num_passages=self._manifest.count_passages(),
            skipped=(*listing.skipped, *self._skipped),
            failed=(*listing.failed, *self._failed),
            row_bytes=self._writer.row_bytes,
        )


def index_files(
    places: Places,
    store: str = DEFAULT_STORE,
    *,
    models: ModelSettings | None = None,
    settings: IndexSettings | None = None,
    progress: StepProgress = unheard,
) -> IndexReport:
    """Bring a store up to date with files and folders; see `Indexer`.

    Args:
        places: Files and folders.
        store: URL of a store.
        models: The model that embeds; None takes the default one.
        settings: How files become passages; None takes the usual.
        progress: Called with bytes done and bytes in all.

    Returns:
        What was done.
    """
    return Indexer(store, models=models, settings=settings).run(places, progress)
