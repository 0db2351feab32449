"""A job on disk: what it is, which partitions are written, and what each of them holds.

The output folder holds `part-00000.parquet` and its like, and beside them, under names that readers
of Parquet folders leave out: `_manifest.json` (the job), `_done/` (a record for each partition,
written after it), `_poison/` (rows that were refused) and, at the end, `_summary.json`.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from polyrank.bulk.inputs import InputFile, Split, splits
from polyrank.bulk.places import Place
from polyrank.bulk.settings import JobSettings
from polyrank.errors import JobMismatchError

VERSION = 1
MANIFEST, SUMMARY = "_manifest.json", "_summary.json"
DONE, POISON = "_done", "_poison"
_LOOKED_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class PartitionRecord:
    """What is known of a partition that is written.

    Attributes:
        index: Its number.
        rows: Rows in it.
        poison: Rows of its slice that were refused.
        truncated: Rows longer than the model reads.
        tokens: Tokens that were run for it.
        seconds: How long computing took.
        size_bytes: Size of its file.
        sha256: Hash of its file.
    """

    index: int
    rows: int
    poison: int
    truncated: int
    tokens: int
    seconds: float
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Job:
    """What a job is; two are the same if this is.

    Attributes:
        source: URL of the input.
        settings: What it was told.
        identity: Hashes of the model's files, and the compute dtype that "auto" became.
        files: The input.
        columns: The columns that are read of it, with their types.
        is_selective: Whether the input may have other columns.
    """

    source: str
    settings: JobSettings
    identity: Mapping[str, str]
    files: tuple[InputFile, ...]
    columns: pa.Schema
    is_selective: bool = field(default=False)

    @property
    def splits(self) -> list[Split]:
        """Its partitions."""
        return splits(self.files)

    @property
    def passed_on(self) -> list[str]:
        """Names of the columns that the output has of the input."""
        wanted = self.settings.columns
        names = list(self.columns.names)
        return names if wanted is None else [name for name in names if name in wanted]

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON keeps it."""
        schema = base64.b64encode(self.columns.serialize().to_pybytes()).decode()
        return {
            "version": VERSION,
            "source": self.source,
            "settings": self.settings.as_json(),
            "identity": dict(self.identity),
            "files": [asdict(file) for file in self.files],
            "columns": schema,
            "is_selective": self.is_selective,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Job":
        """Return a job that `as_json` gave."""
        return cls(
            source=content["source"],
            settings=JobSettings.from_json(content["settings"]),
            identity=content["identity"],
            files=tuple(InputFile(**file) for file in content["files"]),
            columns=pa.ipc.read_schema(pa.py_buffer(base64.b64decode(content["columns"]))),
            is_selective=content["is_selective"],
        )


def part_name(index: int) -> str:
    """Return the name of a partition's file."""
    return f"part-{index:05}.parquet"


def record_name(index: int) -> str:
    """Return the name of a partition's record."""
    return f"{DONE}/{index:05}.json"


def poison_name(index: int) -> str:
    """Return the name of the file of a partition's refused rows."""
    return f"{POISON}/{index:05}.jsonl"


def content_hash(content: bytes) -> str:
    """Return the hash by which a partition's file is known."""
    return hashlib.sha256(content).hexdigest()


def begin(output: Place, job: Job) -> None:
    """Write a job's manifest, or see that the one in the folder is the same job's.

    Args:
        output: The folder.
        job: The job.

    Raises:
        JobMismatchError: If the folder holds another job, or files of something else.
        StorageError: If it cannot be read or written.
    """
    own = job.as_json()
    there = output.read(MANIFEST)
    if there is None:
        foreign = sorted(output.names())
        if foreign:
            raise JobMismatchError(
                f"{output.url} holds {len(foreign):,} files of something else, such as "
                f"{foreign[0]}. Choose another --output, or empty it first."
            )
        output.write(MANIFEST, json.dumps(own, indent=1, ensure_ascii=False).encode())
        return
    try:
        other = json.loads(there)
        difference = next(_differences(other, own), None)
    except (ValueError, TypeError, AttributeError) as exc:
        raise JobMismatchError(
            f"{output.url}/{MANIFEST} is no manifest of a job: {exc}. Choose another --output."
        ) from exc
    if difference is not None:
        raise JobMismatchError(
            f"{output.url} holds another job: {difference}. Give it what it was begun with, or "
            "choose another --output."
        )


def _differences(there: Mapping[str, Any], own: Mapping[str, Any]) -> Iterator[str]:
    """Yield in words what differs between the job of a folder and one that is asked for."""
    if there.get("version") != own["version"]:
        yield f"it is of version {there.get('version')}, and {own['version']} is written"
    for part in ("settings", "identity"):
        before, now = there.get(part, {}), own[part]
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name):
                yield _change(name, before.get(name), now.get(name))
    for name in ("source", "is_selective"):
        if there.get(name) != own[name]:
            yield _change(name, there.get(name), own[name])
    yield from _changed_files(there.get("files", []), own["files"])
    if there.get("columns") != own["columns"]:
        yield "the input's columns have changed"


def _change(name: str, before: object, now: object) -> str:
    if name == "calibration":
        return "the model's calibration has changed"
    return f"its {name} is {_short(before)}, not {_short(now)}"


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) < 80 else text[:16] + "…" + text[-4:]


def _changed_files(
    before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    old, new = ({file["path"]: file for file in files} for files in (before, now))
    for path in sorted(old.keys() | new.keys()):
        if path not in new:
            yield f"input file {path} is gone"
        elif path not in old:
            yield f"input file {path} is new (run a job of its own for it)"
        elif old[path] != new[path]:
            yield f"input file {path} has changed since"


def finished(output: Place, job: Job, *, is_verifying: bool) -> dict[int, PartitionRecord]:
    """Return the partitions that are written and whole, by number.

    Args:
        output: The folder.
        job: The job.
        is_verifying: Whether to read each and compare its hash, or to go by its size.

    Returns:
        Their records. What is damaged or lacks a record is not among them.

    Raises:
        StorageError: If the folder cannot be read.
    """
    records = output.names(DONE)
    sizes = {file.path.rpartition("/")[2]: file.size_bytes for file in output.files()}
    wanted = [i for i in range(len(job.splits)) if record_name(i).rpartition("/")[2] in records]

    def look(index: int) -> PartitionRecord | None:
        record = read_record(output, index)
        if record is None or sizes.get(part_name(index)) != record.size_bytes:
            return None
        if not is_verifying:
            return record
        content = output.read(part_name(index))
        is_whole = content is not None and content_hash(content) == record.sha256
        return record if is_whole else None

    with ThreadPoolExecutor(_LOOKED_AT_ONCE) as pool:
        found = pool.map(look, wanted)
        return {record.index: record for record in found if record is not None}


def read_record(output: Place, index: int) -> PartitionRecord | None:
    """Return the record of a partition; None where there is none that can be read."""
    content = output.read(record_name(index))
    try:
        return None if content is None else PartitionRecord(**json.loads(content))
    except (ValueError, TypeError):
        return None


def end(output: Place, job: Job, records: Mapping[int, PartitionRecord]) -> dict[str, Any]:
    """Write the summary of a job that is done.

    Args:
        output: The folder.
        job: The job.
        records: Of all its partitions.

    Returns:
        The summary.

    Raises:
        StorageError: If it cannot be written.
    """
    summary = {
        "rows": sum(record.rows for record in records.values()),
        "poison": sum(record.poison for record in records.values()),
        "truncated": sum(record.truncated for record in records.values()),
        "tokens": sum(record.tokens for record in records.values()),
        "seconds": round(sum(record.seconds for record in records.values()), 3),
        "size_bytes": sum(record.size_bytes for record in records.values()),
        "partitions": [
            {"file": part_name(index), **asdict(records[index])} for index in sorted(records)
        ],
    }
    output.write(SUMMARY, json.dumps(summary, indent=1).encode())
    return summary
