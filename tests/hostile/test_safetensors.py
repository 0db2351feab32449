"""Weight files that the safetensors library refuses are refused here, whatever is wrong."""

import json
import random
import struct
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError, safe_open

from polyrank.checkpoint.header import read_header
from polyrank.errors import CorruptWeightsError

DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL", "U16", "U32", "U64")
NUM_FILES = 1_500


def good(draw: random.Random) -> tuple[dict[str, Any], bytes]:
    """Entries of a header that is right, and the data."""
    entries: dict[str, Any] = {}
    end = 0
    for number in range(draw.randrange(5)):
        dtype = draw.choice(DTYPES)
        shape = [draw.choice([0, 1, 2, 3]) for _ in range(draw.randrange(4))]
        size = {"64": 8, "32": 4, "16": 2}.get(dtype[-2:], 1)
        start = end
        for length in shape:
            size *= length
        end += size
        entries[f"t{number}"] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    if draw.random() < 0.5:
        entries["__metadata__"] = {"format": "pt"}
    return entries, bytes(end)


VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 3, 2**31, 2**63, 2**64, 1.0, 1e3),
    *("", "F32", "F4", "F6_E2M3", "F8_E4M3", "\ud800"),
    *([], [0], [0, 0], [2**63, 2, 0], [2**32, 2**32], {}, {"a": "b"}, {"a": 1}),
)


def any_value(draw: random.Random) -> Any:
    return draw.choice(VALUES)


def mutate_entries(entries: dict[str, Any], draw: random.Random) -> None:
    name = draw.choice([*entries, "new", "__metadata__", "\ud800"])
    if draw.random() < 0.4 or not isinstance(entries.get(name), dict):
        entries[name] = draw.choice([any_value(draw), *entries.values()])
        return
    key = draw.choice(["dtype", "shape", "data_offsets", "more", ""])
    numbers = entries[name].get(key)
    if isinstance(numbers, list) and numbers and draw.random() < 0.7:
        place = draw.randrange(len(numbers))
        change = draw.choice([-8, -4, -1, 1, 4, 8, 2**32, 2**64])
        entries[name][key] = list(numbers)
        entries[name][key][place] += change
    elif draw.random() < 0.3:
        entries[name].pop(key, None)
    else:
        entries[name] = {**entries[name], key: any_value(draw)}


def mutate_text(text: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(text))
    kind = draw.randrange(8)
    if kind == 0:
        return text.decode().encode(draw.choice(["utf-16", "utf-16-le", "utf-32", "utf-8-sig"]))
    if kind == 1:  # a key twice
        return b"{" + draw.choice([b'"t0":1,', b'"__metadata__":{},', b'"x":[],']) + text[1:]
    if kind == 2:
        return text + draw.choice([b" ", b"\n", b"\0", b"x", b"{}"])
    if kind == 3:
        return draw.choice([b" ", b"\n", b"\xff", b"[", b"\0"]) + text
    if kind == 4:
        return text.replace(b"[", draw.choice([b"[NaN,", b"[-0,", b"[Infinity,", b"[01,"]), 1)
    if kind == 5:
        return text.replace(b'"dtype"', b'"dtype":"F32","dtype"', 1)
    if kind == 6:
        return text[:at] + bytes([draw.randrange(256)]) + text[at + 1 :]
    return text[:at] + text[at + 1 :]


def make(draw: random.Random) -> bytes:
    entries, data = good(draw)
    for _ in range(draw.choice([0, 1, 1, 1, 2])):
        mutate_entries(entries, draw)
    text = json.dumps(entries).encode()
    if draw.random() < 0.4:
        text = mutate_text(text, draw)
    length = len(text) + draw.choice([0] * 20 + [1, -1, 2**40])
    data = data + bytes(draw.choice([0] * 10 + [1, 8])) if draw.random() < 0.5 else data
    return struct.pack("<Q", max(length, 0)) + text + data


def refusals(path: Path) -> tuple[bool, bool]:
    """Whether the library refuses a file, and whether polyrank does."""
    theirs = ours = False
    try:
        with safe_open(path, "np"):
            pass
    except (SafetensorError, OSError):
        theirs = True
    try:
        read_header(path)
    except CorruptWeightsError:
        ours = True
    return theirs, ours


def test_what_the_library_refuses_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    draw = random.Random(16)
    seen = {(theirs, ours): 0 for theirs in (True, False) for ours in (True, False)}
    for _ in range(NUM_FILES):
        path.write_bytes(make(draw))
        found = refusals(path)
        assert found != (True, False), path.read_bytes()
        seen[found] += 1
    # both kinds were drawn often, and little is refused here alone: keys twice, odd blanks
    assert seen[True, True] > NUM_FILES / 4
    assert seen[False, False] > NUM_FILES / 10
    assert seen[False, True] < NUM_FILES / 10


@pytest.mark.parametrize("size", [0, 1, 2, 3])
def test_right_files_are_read(size: int, tmp_path: Path) -> None:
    draw = random.Random(size)
    path = tmp_path / "model.safetensors"
    for _ in range(100):
        entries, data = good(draw)
        text = json.dumps(entries).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data)
        assert refusals(path) == (False, False)
        assert set(read_header(path)) == set(entries) - {"__metadata__"}
