"""Changes of a checkpoint folder, each a function of the folder."""

import base64
import gzip
import json
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

Mutation = Callable[[Path], object]
GONE = object()  # as a value: the key is taken out


def change_json(file: str, change: Callable[[Any], Any]) -> Mutation:
    """Put what `change` returns, or made of its argument, in place of a JSON file's content."""

    def mutate(folder: Path) -> None:
        path = folder / file
        content = json.loads(path.read_text("utf8")) if path.exists() else {}
        changed = change(content)
        path.write_text(json.dumps(content if changed is None else changed), "utf8")

    return mutate


def keys(file: str, **changes: Any) -> Mutation:
    """Set keys of a JSON object, or take them out."""

    def change(content: dict[str, Any]) -> None:
        content.update(changes)
        for key in [key for key, value in changes.items() if value is GONE]:
            del content[key]

    return change_json(file, change)


def config(**changes: Any) -> Mutation:
    return keys("config.json", **changes)


def head(**changes: Any) -> Mutation:
    """Give config.json a classify head of polyrank's own, described wrongly."""
    good = {
        "pooling": "mean",
        "layers": [{"weight": "classifier.out_proj.weight"}],
        "labels": ["relevant"],
    }
    return config(polyrank_heads={"classify": good | changes})


def raw(file: str, data: bytes | str) -> Mutation:
    """Put other bytes in place of a file."""
    return lambda folder: (folder / file).write_bytes(
        data.encode() if isinstance(data, str) else data
    )


def instead(file: str, make: Callable[[Path], object]) -> Mutation:
    """Put something that is no regular file in place of one."""

    def mutate(folder: Path) -> None:
        (folder / file).unlink()
        make(folder / file)

    return mutate


def bind_socket(path: Path) -> None:
    """Leave a socket behind; its name may have 100 characters only, so it is made nearby."""
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def tensors(change: Callable[[dict[str, np.ndarray]], object]) -> Mutation:
    """Change the tensors of model.safetensors."""

    def mutate(folder: Path) -> None:
        path = folder / "model.safetensors"
        found = {name: np.array(value) for name, value in load_file(path).items()}
        change(found)
        save_file(found, path)

    return mutate


def add(**shapes: tuple[int, ...]) -> Mutation:
    """Add tensors of zeros; double underscores in names stand for dots."""
    made = {name.replace("__", "."): np.zeros(shape, "f4") for name, shape in shapes.items()}
    return tensors(lambda found: found.update(made))


def split(path: Path) -> tuple[bytes, bytes]:
    """Return the header of a safetensors file and its data."""
    whole = path.read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    return whole[8 : 8 + length], whole[8 + length :]


def join(path: Path, text: bytes, data: bytes) -> None:
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def header_text(change: Callable[[bytes], bytes], tail: bytes = b"") -> Mutation:
    """Change the header of model.safetensors as text, and add bytes at the end of the file."""

    def mutate(folder: Path) -> None:
        path = folder / "model.safetensors"
        text, data = split(path)
        join(path, change(text), data + tail)

    return mutate


def header(change: Callable[[dict[str, Any]], object], tail: bytes = b"") -> Mutation:
    """Change the header of model.safetensors as an object."""

    def rewrite(text: bytes) -> bytes:
        content = json.loads(text)
        change(content)
        return json.dumps(content).encode()

    return header_text(rewrite, tail)


def entry(name: str, **changes: Any) -> Mutation:
    return header(lambda content: content[name].update(changes))


def tokenizer(**changes: Any) -> Mutation:
    return keys("tokenizer.json", **changes)


def replaces(*pairs: tuple[object, str], key: str = "normalizer") -> Mutation:
    """Let a chain of replacements change every text."""
    steps = [
        {
            "type": "Replace",
            "pattern": {"String": pattern} if isinstance(pattern, str) else pattern,
            "content": content,
        }
        for pattern, content in pairs
    ]
    kind = {"normalizer": "normalizers", "decoder": "decoders"}[key]
    return tokenizer(**{key: {"type": "Sequence", kind: steps}})


def charsmap(table: bytes | str) -> Mutation:
    """Let a table of replacements change every text."""
    text = table if isinstance(table, str) else base64.b64encode(table).decode()
    return tokenizer(normalizer={"type": "Precompiled", "precompiled_charsmap": text})


def hidden_charsmap(folder: Path) -> None:
    """A lying table under a key that is written with an escape, behind the model."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text("utf8"))
    content.pop("normalizer", None)
    text = json.dumps(content, ensure_ascii=False)
    table = base64.b64encode(b"\xf0\xff\xff\xff" + bytes(8)).decode()
    path.write_text(
        text[:-1]
        + ', "n\\u006frmalizer": {"type": "Precompiled", "precompiled\\u005fcharsmap": "'
        + table
        + '"}}',
        "utf8",
    )


def gzip_bomb(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json.gz").write_bytes(gzip.compress(bytes(1 << 28), 9))


def shards(weight_map: Any) -> Mutation:
    """Put an index in place of the single weight file, which stays as the shard `a`."""

    def mutate(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "a.safetensors")
        text = json.dumps({"weight_map": weight_map})
        (folder / "model.safetensors.index.json").write_text(text)

    return mutate


def twice(folder: Path) -> None:
    """Two shards that hold the same tensors."""
    shards({"x": "a.safetensors", "y": "b.safetensors"})(folder)
    (folder / "b.safetensors").write_bytes((folder / "a.safetensors").read_bytes())


def both(*mutations: Mutation) -> Mutation:
    return lambda folder: [mutate(folder) for mutate in mutations]
