"""Files to index, and models that need no time."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docx
import numpy as np

from polyrank.pipeline.models import ModelSettings
from polyrank.stores import open_store

DIMENSIONS = 32
_PADDING = bytes.fromhex("28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A")


class Words:
    """A tokenizer to which a word is a token."""

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.zeros(len(text.split()), np.int32) for text in texts]


class Hashes:
    """An embedder whose vectors are hashes of texts."""

    def __init__(self, seed: str = "") -> None:
        self.dimensions = DIMENSIONS
        self.seed = seed
        self.info = type("Info", (), {"name": f"hashes{seed}"})()

    def encode(self, texts: str | Sequence[str], **_: Any) -> np.ndarray:
        if isinstance(texts, str):
            return self.encode([texts])[0]
        rows = [
            np.frombuffer(hashlib.sha256((self.seed + text).encode()).digest(), np.uint8)
            for text in texts
        ]
        return np.array(rows, np.float32).reshape(len(texts), DIMENSIONS) - 128


@dataclass(frozen=True, slots=True)
class FakeModels(ModelSettings):
    """Models that are quick."""

    seed: str = ""

    def embedder(self) -> Any:
        return Hashes(self.seed)

    def tokenizer(self) -> Any:
        return Words()


def contents(url: str) -> list[tuple[Any, ...]]:
    """Return all that a store of SQLite holds: names, texts, metadata, vectors."""
    with open_store(url, dimensions=DIMENSIONS, create=False) as store:
        select = (
            "SELECT id, text, metadata, vector FROM polyrank_entries JOIN polyrank_vectors "
            "ON polyrank_vectors.rowid = number ORDER BY id"
        )
        rows = store._connection.execute(select).fetchall()
        assert len(rows) == store.count()
        return rows


def pdf(*pages: str, password: str | None = None) -> bytes:
    """Return a PDF with a line of text a page."""
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for i, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET"
        objects += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * i} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>",
            f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream",
        ]
    trailer = ""
    if password is not None:
        objects.append(_encryption(password))
        trailer = f"/Encrypt {len(objects)} 0 R /ID [<{'00' * 16}> <{'00' * 16}>]"
    out = io.BytesIO(b"%PDF-1.4\n")
    out.seek(0, io.SEEK_END)
    offsets = []
    for number, body in enumerate(objects, start=1):
        offsets.append(out.tell())
        out.write(f"{number} 0 obj\n{body}\nendobj\n".encode("latin-1"))
    start = out.tell()
    out.write(f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode())
    out.writelines(f"{offset:010} 00000 n \n".encode() for offset in offsets)
    size = len(objects) + 1
    out.write(f"trailer << /Size {size} /Root 1 0 R {trailer} >>\n".encode())
    out.write(f"startxref\n{start}\n%%EOF\n".encode())
    return out.getvalue()


def _encryption(password: str) -> str:
    """Return the dictionary of the standard handler, revision 2 (PDF 1.7, 7.6.3)."""
    padded = (password.encode() + _PADDING)[:32]
    owner = _rc4(hashlib.md5(padded).digest()[:5], padded)
    permissions = (-4 & 0xFFFFFFFF).to_bytes(4, "little")
    key = hashlib.md5(padded + owner + permissions + bytes(16)).digest()[:5]
    user = _rc4(key, _PADDING)
    return f"<< /Filter /Standard /V 1 /R 2 /O <{owner.hex()}> /U <{user.hex()}> /P -4 >>"


def _rc4(key: bytes, data: bytes) -> bytes:
    box, j = list(range(256)), 0
    for i in range(256):
        j = (j + box[i] + key[i % len(key)]) % 256
        box[i], box[j] = box[j], box[i]
    out, i, j = bytearray(), 0, 0
    for byte in data:
        i = (i + 1) % 256
        j = (j + box[i]) % 256
        box[i], box[j] = box[j], box[i]
        out.append(byte ^ box[(box[i] + box[j]) % 256])
    return bytes(out)


def word(path: Path) -> None:
    """Write a Word file with two headings and a table."""
    document = docx.Document()
    document.add_heading("Cats", level=1)
    document.add_paragraph("Cats live for fifteen years.")
    document.add_heading("Food", level=2)
    table = document.add_table(rows=1, cols=2)
    table.cell(0, 0).text, table.cell(0, 1).text = "fish", "daily"
    document.core_properties.title = "All about cats"
    document.save(path)
