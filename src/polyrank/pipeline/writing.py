"""Passages into a store in batches, so that a kill at any point loses and doubles nothing.

Before a batch is written the manifest names its files as pending, and after it says how much of
each is there. Passages of an older version go when all of the new one are there, and only then is
the file's row changed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from polyrank.inference.embedder import Embedder
from polyrank.inference.reranker import Reranker
from polyrank.pipeline.listing import Signature
from polyrank.pipeline.manifest import FileRecord, Manifest, Pending
from polyrank.pipeline.passages import FilePassage, passage_ids
from polyrank.pipeline.words import WordIndex
from polyrank.progress import Progress
from polyrank.stores.base import Entry, Store

BATCH = 512  # passages embedded and written at a time: full batches, and little done twice


@dataclass(slots=True)
class NewFile:
    """A file whose passages are to be written.

    Attributes:
        path: The file.
        content: Hash of what was read.
        signature: Its size and times, where they tell of a later change.
        passages: All of its passages.
        written: How many are in the store already.
        older: What the store holds of an older version.
        size: Its bytes, for the progress.
    """

    path: str
    content: str
    signature: Signature | None
    passages: Sequence[FilePassage]
    written: int = 0
    older: FileRecord | None = None
    size: int = 0

    @property
    def pending(self) -> Pending:
        """What the manifest says of it while it is written."""
        return Pending(self.path, self.content, len(self.passages), self.written)

    @property
    def record(self) -> FileRecord:
        """What the manifest says of it when it is there."""
        return FileRecord(self.path, self.content, len(self.passages), self.signature)


@dataclass(slots=True)
class _Part:
    file: NewFile
    passages: Sequence[FilePassage] = field(default_factory=list)


class Writer:
    """Takes files, and writes their passages when enough have come together.

    Attributes:
        num_written: Passages written so far.
        num_removed: Passages removed so far, of files that are gone or were changed.
        row_bytes: Bytes of their rows written so far, in float32.
    """

    def __init__(
        self,
        store: Store,
        words: WordIndex | None,
        manifest: Manifest,
        embedder: Embedder,
        reranker: Reranker | None = None,
    ) -> None:
        """Take where passages go.

        Args:
            store: The store.
            words: The index of words beside it, if it has none of its own.
            manifest: What is in it.
            embedder: Makes vectors.
            reranker: Makes rows of late interaction, if the store keeps them.
        """
        self._store, self._words = store, words
        self._manifest, self._embedder, self._reranker = manifest, embedder, reranker
        self._parts: list[_Part] = []
        self._waiting = 0
        self.num_written, self.num_removed, self.row_bytes = 0, 0, 0

    def add(self, file: NewFile, progress: Progress | None = None) -> None:
        """Take a file; its passages are written now or with those of the next ones.

        Args:
            file: The file.
            progress: Called with tokens done and tokens in all, of each batch.
        """
        at = file.written
        while True:
            room = BATCH - self._waiting
            taken = file.passages[at : at + room]
            self._parts.append(_Part(file, taken))
            self._waiting += len(taken)
            at += len(taken)
            if self._waiting >= BATCH:
                self.flush(progress)
            if at >= len(file.passages):
                return

    def flush(self, progress: Progress | None = None) -> None:
        """Write what waits.

        Args:
            progress: Called with tokens done and tokens in all.
        """
        parts, self._parts, self._waiting = self._parts, [], 0
        if not parts:
            return
        files = [part.file for part in parts]
        self._manifest.write_pending(file.pending for file in files)
        passages = [passage for part in parts for passage in part.passages]
        if passages:
            self._write(passages, progress)
        for part in parts:
            part.file.written += len(part.passages)
        self._manifest.write_pending(file.pending for file in files)
        whole = [file for file in files if file.written == len(file.passages)]
        for file in whole:
            if file.older is not None:
                self.remove(file.path, file.older.content, file.older.passages)
        self._manifest.finish(file.record for file in whole)

    def _write(self, passages: Sequence[FilePassage], progress: Progress | None) -> None:
        texts = [passage.read for passage in passages]
        vectors = self._embedder.encode(texts, input_type="document", progress=progress)
        reranker = self._reranker
        rows = (
            [None] * len(texts)
            if reranker is None
            else reranker.document_rows(texts, progress=progress)
        )
        entries = [
            Entry(passage.id, passage.text, vector, passage.metadata, own)
            for passage, vector, own in zip(passages, vectors, rows, strict=True)
        ]
        if self._words is not None:
            self._words.add(entries)
        self._store.add(entries)
        self.num_written += len(entries)
        self.row_bytes += sum(own.nbytes for own in rows if own is not None)

    def remove(self, path: str, content: str, count: int) -> None:
        """Remove the passages of a version of a file, those that are there.

        Args:
            path: The file.
            content: Hash of that version.
            count: How many passages it has.
        """
        names = passage_ids(path, content, 0, count)
        self._store.delete(names)
        if self._words is not None:
            self._words.delete(names)
        self.num_removed += count

    def take_back(self, pending: Pending, record: FileRecord | None) -> FileRecord | None:
        """Remove what a killed run has begun to write.

        Args:
            pending: What it was about to write.
            record: What the store held before.

        Returns:
            What it holds now: `record`, or None where the killed run may have begun to remove
            that too.
        """
        if record is not None and pending.written >= pending.passages:
            self.remove(record.path, record.content, record.passages)
            record = None
            self._manifest.begin_removal(pending)
        else:
            self._manifest.write_pending([replace(pending, written=0)])
        self.remove(pending.path, pending.content, pending.passages)
        self._manifest.drop_pending(pending.path)
        return record

    def forget(self, record: FileRecord) -> None:
        """Remove all passages of a file.

        Args:
            record: What the store holds of it.
        """
        self._manifest.begin_removal(Pending(record.path, record.content, record.passages))
        self.remove(record.path, record.content, record.passages)
        self._manifest.drop_pending(record.path)

    def forget_all(self, records: Iterable[FileRecord]) -> None:
        """Remove the passages of files from the store and the manifest.

        Args:
            records: The files.
        """
        for record in records:
            self.forget(record)
