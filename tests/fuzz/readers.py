"""Readers of untrusted files, fuzzed by coverage: bytes by libFuzzer, values by our mutations.

python -m tests.fuzz.readers READER [CORPUS…] [-max_total_time=60 and other flags of libFuzzer]
python -m tests.fuzz.readers --write-corpus

`make fuzz` runs each reader of `READERS`. `read` is what a test runs on every kept file.
"""

import json
import random
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

if __name__ == "__main__" and "--write-corpus" not in sys.argv:
    import atheris

    with atheris.instrument_imports(include=["polyrank"]):
        import polyrank.encoder.native
        import polyrank.text.tokenizer  # noqa: F401

from polyrank.checkpoint.formats.mixed import locate_mixed, read_mixed, unpack_mixed
from polyrank.checkpoint.header import read_header
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.checkpoint.weights import Weights
from polyrank.config import EngineConfig
from polyrank.encoder.native import NativeEncoder
from polyrank.errors import PolyrankError
from polyrank.text.tokenizer import Tokenizer
from polyrank.types import PackedBatch
from tests.fuzz import tiny
from tests.fuzz.mutations import (
    as_json,
    change_tensor,
    change_value,
    join_weights,
    parse_tensors,
    split_weights,
    written_weights,
)

CORPUS = Path(__file__).parent / "corpus"
WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
BATCH = PackedBatch(np.array([1, 5, 2, 3], np.int32), np.array([0, 3, 4], np.int32))


class Place:
    """A folder of a tiny model, one of whose files is what is fuzzed."""

    def __init__(self, kind: str, parent: Path) -> None:
        self.folder = parent / kind
        tiny.MAKERS[kind](self.folder)

    def put(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        return path


def run(folder: Path) -> None:
    """Load a folder's body as it is stored, and run it."""
    opened = read_checkpoint(folder)
    NativeEncoder(opened, EngineConfig(num_threads=1, compute_dtype="int8")).run(BATCH, ("mean",))


def read_weight_header(place: Place, content: bytes) -> None:
    read_header(place.put(WEIGHTS, content))


def read_config(place: Place, content: bytes) -> None:
    place.put(CONFIG, content)
    run(place.folder)


def read_table(place: Place, content: bytes) -> None:
    place.put(WEIGHTS, content)
    weights = Weights.open(place.folder)
    locate_mixed(tiny.WORDS, tiny.WORDS, (tiny.NUM_WORDS, tiny.WIDTH), weights)
    unpack_mixed(read_mixed(tiny.WORDS, tiny.NUM_WORDS, weights))


def read_weights(place: Place, content: bytes) -> None:
    place.put(WEIGHTS, content)
    run(place.folder)


def read_tokenizer(place: Place, content: bytes) -> None:
    Tokenizer(place.put(TOKENIZER, content))


# By name: what reads, the tiny folder around it, and the file of it that is fuzzed.
READERS: dict[str, tuple[Callable[[Place, bytes], None], str, str]] = {
    "header": (read_weight_header, "float32", WEIGHTS),
    "config": (read_config, "int8", CONFIG),
    "mixed": (read_table, "table", WEIGHTS),
    "int4": (read_weights, "int4", WEIGHTS),
    "panels": (read_weights, "int8", WEIGHTS),
    "tokenizer": (read_tokenizer, "float32", TOKENIZER),
}


def read(name: str, place: Place, content: bytes) -> str | None:
    """Give a reader a file; the name of polyrank's own error that refused it, or None."""
    try:
        READERS[name][0](place, content)
    except PolyrankError as exc:
        return type(exc).__name__
    return None


# --- values -----------------------------------------------------------------------------------


def change_file(name: str, content: bytes, draw: random.Random) -> bytes:
    """Change a value of a file, or a tensor of it, so that it stays one of its kind."""
    if READERS[name][2] != WEIGHTS:
        return as_json(change_value(draw, json.loads(content))[0])
    if draw.random() < 0.5:
        header, data = split_weights(content)
        return join_weights(as_json(change_value(draw, header)[0]), data)
    found, metadata = parse_tensors(content)
    change_tensor(draw, found, draw.choice(list(found)))
    return written_weights(found, metadata, shift=draw.choice((0, 0, 1, 4)))


def mutator(name: str) -> Callable[[bytes, int, int], bytes]:
    def mutate(content: bytes, max_size: int, seed: int) -> bytes:
        draw = random.Random(seed)
        if draw.random() < 0.5:
            try:
                return change_file(name, content, draw)[:max_size]
            except Exception:  # noqa: BLE001  no file of its kind: bytes then
                pass
        return atheris.Mutate(content, max_size)

    return mutate


def write_corpus() -> None:
    """Write a file of a tiny folder for each reader."""
    for name, (_, kind, file) in READERS.items():
        with tempfile.TemporaryDirectory() as parent:
            content = (Place(kind, Path(parent)).folder / file).read_bytes()
        (CORPUS / name).mkdir(parents=True, exist_ok=True)
        (CORPUS / name / f"whole{Path(file).suffix}").write_bytes(content)


def main(argv: list[str]) -> None:
    if argv[1:] == ["--write-corpus"]:
        return write_corpus()
    name = argv.pop(1)
    with tempfile.TemporaryDirectory() as parent:
        place = Place(READERS[name][1], Path(parent))
        atheris.Setup(argv, partial(read, name, place), custom_mutator=mutator(name))
        atheris.Fuzz()
    return None


if __name__ == "__main__":
    main(sys.argv)
