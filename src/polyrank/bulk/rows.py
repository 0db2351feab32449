"""Rows of a slice of input: a table, where each row came from, and the rows that were refused."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from polyrank.errors import DataError

MOST_SHOWN = 2000  # characters of a refused row that its record holds

_MISFITS = (pa.ArrowException, UnicodeEncodeError, OverflowError)


@dataclass(frozen=True, slots=True)
class PoisonRow:
    """A row that cannot be computed, and why.

    Attributes:
        file: Input file.
        place: Number of the row in its file from 0, or the byte at which its line begins.
        unit: "row" or "byte".
        reason: What is wrong with it.
        content: How the row begins.
    """

    file: str
    place: int
    unit: str
    reason: str
    content: str

    def line(self) -> str:
        """Return it as a line of JSON."""
        fields = {"file": self.file, self.unit: self.place, "reason": self.reason}
        return json.dumps({**fields, "content": self.content}, ensure_ascii=True)


@dataclass(slots=True)
class Rows:
    """Rows that were read.

    Attributes:
        table: The sound ones so far, in input order.
        places: Where each row of the table came from; see `PoisonRow.place`.
        poison: The others.
    """

    table: pa.Table
    places: Sequence[int]
    poison: list[PoisonRow] = field(default_factory=list)


def shown(value: object) -> str:
    """Return the beginning of a value as text."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=True, default=repr)
    return text[:MOST_SHOWN]


def infer_schema(
    rows: Sequence[Mapping[str, Any]], texts: Collection[str], wanted: Collection[str] | None = None
) -> pa.Schema:
    """Return the types of the columns that some JSON rows fill.

    Args:
        rows: A sample.
        texts: Columns that must be texts.
        wanted: Columns to look at; None takes all.

    Returns:
        Columns in the order in which they come; those that are always null are texts.

    Raises:
        DataError: If a column holds values of several types.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    fields = []
    for name in names:
        if wanted is not None and name not in wanted:
            continue
        kind = pa.string()
        if name not in texts:
            try:
                kind = _filled(pa.array([row.get(name) for row in rows]).type)
            except _MISFITS as exc:
                raise DataError(
                    f"column {name!r} holds values of several types: {exc}. Name the columns to "
                    "keep with --columns."
                ) from exc
        fields.append(pa.field(name, kind))
    return pa.schema(fields)


def _filled(kind: pa.DataType) -> pa.DataType:
    """Return a type with texts where nothing was seen but nulls."""
    if pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_filled(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(each.name, _filled(each.type)) for each in kind])
    return kind


def as_table(
    rows: Sequence[tuple[int, Mapping[str, Any]]], schema: pa.Schema, file: str, unit: str
) -> Rows:
    """Return JSON rows as a table; those that do not fit its columns are poison.

    Args:
        rows: Each with where it came from.
        schema: The columns.
        file: Name for records.
        unit: Of the places, "row" or "byte".

    Returns:
        The rows.
    """
    poison, sound = [], []
    whole = pa.struct(list(schema))
    for place, row in rows:
        unknown = next(_unknown(row, whole, ""), None)
        if unknown is None:
            sound.append((place, row))
        else:
            reason = f"field {unknown!r} is in no row of the sample; --columns leaves fields out"
            poison.append(PoisonRow(file, place, unit, reason, shown(row)))
    try:
        table = pa.Table.from_pylist([dict(row) for _, row in sound], schema=schema)
    except _MISFITS:
        wrong = {place: told for place, row in sound if (told := _misfit(row, schema))}
        for place, row in sound:
            if place in wrong:
                poison.append(PoisonRow(file, place, unit, wrong[place], shown(row)))
        sound = [(place, row) for place, row in sound if place not in wrong]
        table = pa.Table.from_pylist([dict(row) for _, row in sound], schema=schema)
    return Rows(table, [place for place, _ in sound], poison)


def _misfit(row: Mapping[str, Any], schema: pa.Schema) -> str | None:
    for column in schema:
        try:
            pa.array([row.get(column.name)], column.type)
        except _MISFITS as exc:
            value = row[column.name]
            kind = "half a character" if isinstance(exc, UnicodeEncodeError) else column.type
            is_holding = "holds" if isinstance(exc, UnicodeEncodeError) else "does not hold"
            return f"field {column.name!r} {is_holding} {kind}: {type(value).__name__}"
    return None


def _unknown(value: object, kind: pa.DataType, path: str) -> Iterator[str]:
    """Yield fields of a value that a type lacks: Arrow would drop them without a word."""
    if pa.types.is_struct(kind) and isinstance(value, Mapping):
        for name, member in value.items():
            at = kind.get_field_index(name)
            if at < 0:
                yield f"{path}{name}"
            elif isinstance(member, Mapping | list):
                yield from _unknown(member, kind.field(at).type, f"{path}{name}.")
    elif pa.types.is_list(kind) and isinstance(value, list):
        for member in value:
            yield from _unknown(member, kind.value_type, path)
