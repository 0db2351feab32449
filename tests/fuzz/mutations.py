"""Changes to a model folder, drawn by a seeded generator: values first, then bytes, then files.

Each mutation takes the folder and a generator and says in words what it did. Files of the folder
may be hard links to those of a seed: they are replaced, never written into.
"""

import copy
import gzip
import json
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

WEIGHTS_SUFFIX = ".safetensors"
DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I8": 1, "U8": 1}
INTERESTING_BYTES = (0, 1, 0x7F, 0x80, 0xFF, 0x20, 0x22, 0x2C, 0x5B, 0x5D, 0x7B, 0x7D)
DEPTHS = (50, 500, 100_000)


class Raw(str):
    """A piece of JSON as it is to stand in the file."""


def nested(depth: int) -> Raw:
    return Raw("[" * depth + "]" * depth)


# What a reader may find where it expects something else. Each is JSON that some parser takes.
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 7, -3, -100, 255, 257, 65_536, 10**8, 10**9,
    2**31 - 1, 2**31, -(2**31), 2**32, 2**63 - 1, 2**63, -(2**63), 2**64, 10**30,
    0.0, -0.0, 0.5, -0.5, 1.5, 1e-45, 1e-12, 1e308, -1e308,
    Raw("NaN"), Raw("Infinity"), Raw("-Infinity"), Raw("1e999"), Raw("9" * 5000),
    "", " ", "small", "1", "-1", "None", "../../etc/passwd", "/dev/zero", "a\0b", "x" * 10_000,
    "mean", "cls", "gelu", "relu", "F32", "Identity", Raw('"\\ud800"'),
    [], {}, [[]], [None], [0], [-1], ["a"], {"a": 1}, {"": {}}, [1] * 3, [1e9], [2**40],
    Raw("[" + ",".join(["0"] * 200_000) + "]"), Raw('{"a":' * 60 + "1" + "}" * 60),
    *(nested(depth) for depth in DEPTHS),
)  # fmt: skip
# Keys that change how a folder is read, to be added where they are absent.
KEYS = (
    "pad_token_id", "num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size",
    "intermediate_size", "max_position_embeddings", "type_vocab_size", "layer_norm_eps",
    "hidden_act", "num_labels", "id2label", "label2id", "problem_type", "architectures",
    "model_type", "position_embedding_type", "is_decoder", "quantization_config", "auto_map",
    "classifier_dropout", "max_seq_length", "do_lower_case", "model_max_length", "torch_dtype",
    "prompts", "default_prompt_name", "similarity_fn_name", "pooling_mode_max_tokens",
    "pooling_mode_cls_token", "pooling_mode_lasttoken", "pooling_mode_weightedmean_tokens",
    "word_embedding_dimension", "include_prompt", "in_features", "out_features", "bias",
    "activation_function", "polyrank_heads", "polyrank_quantization", "late_interaction",
    "layers", "features", "first_stage", "sentence_transformers", "add_prefix_space",
    "truncation", "padding", "post_processor", "normalizer", "unk_id", "byte_fallback",
)  # fmt: skip


def replace_file(path: Path, content: bytes) -> None:
    """Write a file anew: what it was linked to stays as it is."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def read_plain(path: Path) -> bytes:
    raw = path.read_bytes()
    return gzip.decompress(raw) if path.suffix == ".gz" else raw


def write_plain(path: Path, content: bytes) -> None:
    replace_file(path, gzip.compress(content, 1) if path.suffix == ".gz" else content)


def as_json(value: Any) -> bytes:
    """Serialise; `Raw` strings stand in the file as they are."""
    raws: list[str] = []

    def mark(part: Any) -> Any:
        if isinstance(part, Raw):
            raws.append(str(part))
            return f"\0raw{len(raws) - 1}\0"
        if isinstance(part, dict):
            return {key: mark(entry) for key, entry in part.items()}
        return [mark(entry) for entry in part] if isinstance(part, list) else part

    text = json.dumps(mark(value), ensure_ascii=False)
    for number, raw in enumerate(raws):
        text = text.replace(f'"\\u0000raw{number}\\u0000"', raw)
    return text.encode("utf8", "surrogatepass")


# --- values ---------------------------------------------------------------------------------


def draw_place(draw: random.Random, root: Any) -> tuple[Any, Any] | None:
    """Return a container and a key in it, deeper ones as likely as higher ones; None for none."""
    places: list[tuple[Any, Any]] = []
    at = root
    while isinstance(at, dict | list) and at:
        keys = list(at) if isinstance(at, dict) else range(len(at))
        key = draw.choice(keys)
        places.append((at, key))
        at = at[key]
    return draw.choice(places) if places else None


def draw_value(draw: random.Random) -> Any:
    return copy.deepcopy(draw.choice(VALUES))


def other_number(draw: random.Random, value: Any) -> Any:
    """Return a number near another one or a multiple of it."""
    changed = draw.choice((value + 1, value - 1, -value, value * 2, value / 2, value * 1000))
    return int(changed) if isinstance(value, int) and draw.random() < 0.8 else changed


def change_value(draw: random.Random, root: Any) -> tuple[Any, str]:
    """Return a JSON value with one change, and the change in words."""
    place = draw_place(draw, root)
    kind = draw.random()
    if place is None or kind < 0.02:
        return draw_value(draw), "the whole file"
    parent, key = place
    value = parent[key]
    if kind < 0.12:
        del parent[key]
        return root, f"without {key!r}"
    if kind < 0.2:
        taken = draw_place(draw, root)
        assert taken is not None
        parent[key], taken[0][taken[1]] = copy.deepcopy(taken[0][taken[1]]), value
        return root, f"{key!r} and {taken[1]!r} swapped"
    if kind < 0.3:
        name = draw.choice(KEYS)
        target = parent if isinstance(parent, dict) else root
        if isinstance(target, dict):
            target[name] = draw_value(draw)
            return root, f"{name!r} added: {str(target[name])[:40]!r}"
    if kind < 0.36 and isinstance(parent, list):
        many = 100 if isinstance(value, dict | list) else 20_000
        parent.extend([value] * draw.choice((1, 1, 10, many)))
        return root, f"item {key!r} repeated"
    if kind < 0.5 and type(value) in (int, float):
        parent[key] = other_number(draw, value)
    elif kind < 0.55 and isinstance(value, str) and value:
        at = draw.randrange(len(value))
        parent[key] = value[:at] + chr(draw.choice((0, 32, 0x301, 0x2581, 0x10FFFF))) + value[at:]
    else:
        parent[key] = draw_value(draw)
    return root, f"{key!r} is {str(parent[key])[:40]!r}"


def json_files(folder: Path, *, tokenizer: bool) -> list[Path]:
    files = [path for path in folder.rglob("*.json*") if path.is_file()]
    return sorted(path for path in files if path.name.startswith("tokenizer.json") == tokenizer)


def settings(folder: Path, draw: random.Random) -> str:
    files = json_files(folder, tokenizer=False)
    main = folder / "config.json"
    path = main if draw.random() < 0.5 and main in files else draw.choice(files)
    return change_json(path, draw)


def tokenizer(folder: Path, draw: random.Random) -> str:
    files = json_files(folder, tokenizer=True)
    return change_json(draw.choice(files), draw) if files else "no tokenizer left"


def change_json(path: Path, draw: random.Random) -> str:
    try:
        root = json.loads(read_plain(path))
    except ValueError:
        return f"{path.name} left broken"
    root, what = change_value(draw, root)
    write_plain(path, as_json(root))
    return f"{path.name}: {what}"


# --- safetensors ----------------------------------------------------------------------------


def weight_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob(f"*{WEIGHTS_SUFFIX}") if path.is_file())


def split_weights(raw: bytes) -> tuple[dict[str, Any], bytes]:
    length = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def join_weights(header: bytes, data: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def header_values(folder: Path, draw: random.Random) -> str:
    path = draw.choice(weight_files(folder))
    try:
        header, data = split_weights(path.read_bytes())
    except (ValueError, struct.error):
        return "a header left broken"
    header, what = change_value(draw, header)
    text = as_json(header)
    replace_file(path, join_weights(text + b" " * (-len(text) % 8), data))
    return f"{path.name} header: {what}"


def tensors(folder: Path, draw: random.Random) -> str:
    """Change one tensor so that header and data agree, as a writer of such a file would."""
    path = draw.choice(weight_files(folder))
    found, metadata = parse_tensors(path.read_bytes())
    name = draw.choice(list(found))
    what = change_tensor(draw, found, name)
    replace_file(path, written_weights(found, metadata, shift=draw.choice((0, 0, 1, 3, 4))))
    return f"{path.name} {name}: {what}"


def parse_tensors(raw: bytes) -> tuple[dict[str, list[Any]], Any]:
    """Return type, shape and data of each tensor by its name, and the metadata."""
    header, data = split_weights(raw)
    metadata = header.pop("__metadata__", {})
    found = {
        name: [entry["dtype"], entry["shape"], data[slice(*entry["data_offsets"])]]
        for name, entry in header.items()
    }
    return found, metadata


def change_tensor(draw: random.Random, found: dict[str, list[Any]], name: str) -> str:
    dtype, shape, data = found[name]
    size = DTYPE_BYTES.get(dtype, 1)
    kind = draw.randrange(8)
    if kind == 0:
        del found[name]
        return "missing"
    if kind == 1:
        found[name + draw.choice(("_scale", "x", ".weight", "_tiers", "_multiplier"))] = found.pop(
            name
        )
        return "renamed"
    if kind == 2:
        fitting = [other for other, width in DTYPE_BYTES.items() if width == size]
        found[name][0] = draw.choice(fitting)
        return f"{found[name][0]} instead of {dtype}"
    if kind == 3 and shape:
        rows = draw.choice((0, 1, shape[0] - 1, shape[0] + 1, shape[0] * 2))
        whole = len(data) // shape[0] if shape[0] else size
        found[name][1:] = [rows, *shape[1:]], (data * 2 + bytes(whole))[: rows * whole]
        return f"{rows} rows instead of {shape[0]}"
    if kind == 4:
        found[name][1] = draw.choice(
            ([*shape, 1], [1, *shape], shape[::-1], [len(data) // size], [len(data) // size, 1])
        )
        return f"shape {found[name][1]}"
    if kind == 5:
        pattern = draw.choice((b"\0", b"\xff", b"\x7f\x80", b"\x00\x00\xc0\x7f", b"\x00\x7c"))
        found[name][2] = (pattern * (len(data) // len(pattern) + 1))[: len(data)]
        return f"all {pattern.hex()}"
    if kind == 6:
        found[name][2] = draw.randbytes(len(data))
        return "random data"
    other = draw.choice(list(found))
    found[name], found[other] = found[other], found[name]
    return f"swapped with {other}"


def written_weights(found: dict[str, list[Any]], metadata: Any, shift: int) -> bytes:
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    at, parts = 0, []
    for name, (dtype, shape, data) in found.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
        parts.append(data)
    text = json.dumps(header).encode()
    return join_weights(text + b" " * (-len(text) % 8 + shift), b"".join(parts))


def weight_data(folder: Path, draw: random.Random) -> str:
    path = draw.choice(weight_files(folder))
    raw = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(raw[:8], "little")
    if start >= len(raw):
        return "no data left"
    count = draw.choice((1, 4, 64, 4096))
    for _ in range(count):
        raw[draw.randrange(start, len(raw))] = draw.choice(
            (*INTERESTING_BYTES, draw.randrange(256))
        )
    replace_file(path, bytes(raw))
    return f"{path.name}: {count} bytes of data"


# --- bytes and files ------------------------------------------------------------------------


def change_bytes(draw: random.Random, raw: bytes, limit: int | None = None) -> bytes:
    """Return bytes with one to four changes, all below `limit`."""
    for _ in range(draw.choice((1, 1, 2, 4))):
        end = min(len(raw), limit or len(raw))
        at = draw.randrange(end + 1)
        size = draw.choice((1, 1, 2, 4, 8, 100))
        kind = draw.randrange(7)
        if kind == 0:
            raw = raw[:at]
        elif kind == 1:
            raw = raw[:at] + raw[at + size :]
        elif kind == 2:
            raw = raw[:at] + draw.randbytes(size) + raw[at:]
        elif kind == 3:
            raw = raw[:at] + raw[at : at + size] * draw.choice((2, 3, 100)) + raw[at + size :]
        elif kind == 4:
            raw = raw[:at] + bytes([draw.choice(INTERESTING_BYTES)]) + raw[at + 1 :]
        elif kind == 5 and at < len(raw):
            raw = raw[:at] + bytes([raw[at] ^ 1 << draw.randrange(8)]) + raw[at + 1 :]
        else:
            number = draw.choice(VALUES[3:25])
            raw = raw[:at] + str(number).encode() + raw[at + size :]
    return raw


def json_bytes(folder: Path, draw: random.Random) -> str:
    files = json_files(folder, tokenizer=False) * 2 + json_files(folder, tokenizer=True)
    path = draw.choice(files)
    raw = read_plain(path)
    if draw.random() < 0.1:
        encoding = draw.choice(("utf-16", "utf-32", "utf-8-sig", "utf-7"))
        write_plain(path, raw.decode("utf8", "replace").encode(encoding, "replace"))
        return f"{path.name} in {encoding}"
    write_plain(path, change_bytes(draw, raw))
    return f"{path.name}: bytes"


def weight_bytes(folder: Path, draw: random.Random) -> str:
    """Change the length of the header, the header, or the end of the file."""
    path = draw.choice(weight_files(folder))
    raw = path.read_bytes()
    kind = draw.random()
    if kind < 0.15:
        length = draw.choice((0, 1, 2, 2**31, 2**63, 2**64 - 1, len(raw) - 8, len(raw)))
        raw = struct.pack("<Q", length) + raw[8:]
    elif kind < 0.3:
        raw = draw.choice((raw[: draw.randrange(len(raw) + 1)], raw + draw.randbytes(9)))
    else:
        length = int.from_bytes(raw[:8], "little")
        header = change_bytes(draw, raw[8 : 8 + length])
        said = len(header) if draw.random() < 0.7 else length
        raw = struct.pack("<Q", said) + header + raw[8 + length :]
    replace_file(path, raw)
    return f"{path.name}: bytes"


def files(folder: Path, draw: random.Random) -> str:
    """Remove, swap or replace a file by something that is none."""
    every = sorted(path for path in folder.rglob("*") if path.is_file())
    path, kind = draw.choice(every), draw.randrange(7)
    name = path.name
    if kind == 0:
        other = draw.choice(every)
        first, second = path.read_bytes(), other.read_bytes()
        replace_file(path, second)
        replace_file(other, first)
        return f"{name} and {other.name} swapped"
    path.unlink()
    if kind == 1:
        path.touch()
    elif kind == 2:
        path.mkdir()
    elif kind == 3:
        path.symlink_to(draw.choice(("/dev/zero", "/dev/stdin", "nowhere", name, "/proc/self/mem")))
    elif kind == 4:
        os.mkfifo(path)
    elif kind == 5:
        path.write_bytes(draw.randbytes(draw.choice((1, 8, 1000))))
    return f"{name}: " + ("gone", "gone", "a folder", "a link", "a FIFO", "noise", "gone")[kind]


Mutation = Callable[[Path, random.Random], str]
# Each kind with its share of the cases.
MUTATIONS: dict[str, tuple[Mutation, int]] = {
    "values of settings": (settings, 34),
    "values of tokenizer.json": (tokenizer, 14),
    "values of weight headers": (header_values, 10),
    "tensors": (tensors, 16),
    "data of weights": (weight_data, 6),
    "bytes of weight headers": (weight_bytes, 8),
    "bytes of JSON files": (json_bytes, 9),
    "files": (files, 3),
}


def mutate(folder: Path, draw: random.Random) -> tuple[str, str]:
    """Change a folder by one to three mutations of a kind; return the kind and what was done."""
    names = list(MUTATIONS)
    kind = draw.choices(names, [share for _, share in MUTATIONS.values()])[0]
    done = []
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        try:
            done.append(MUTATIONS[kind][0](folder, draw))
        except Exception:  # an earlier one left nothing that could be read and changed
            if not done:
                raise
            break
    return kind, "; ".join(done)
