"""The shipped model's scores, bit for bit, on every kernel path: what changes of code must keep.

`python -m tests.unit.inference.test_released_bits` writes them down anew, which a change of the
model, of a kernel's arithmetic or of the compiler makes necessary, and nothing else.
"""

import json
import os
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest

from polyrank import Classifier, Embedder, Reranker
from polyrank.inference import model
from tests.texts import SENTENCES

try:
    from polyrank import _native
except ImportError:  # pragma: no cover - the pure Python install
    _native = None

# NumPy rounds exp and log otherwise on other instruction sets: bits are promised for one machine
NUMPY = [np.__version__, *np.show_config(mode="dicts")["SIMD Extensions"]["found"]]
ELSEWHERE = 2e-6

FILE = Path(__file__).parents[2] / "data" / "released_bits.json"
PATHS = _native.usable_paths() if _native else []
LANGUAGES = [lang for lang in SENTENCES if lang != "en"]


def pairs() -> list[tuple[str, str]]:
    """For each language: English asks it, it asks English, it asks Russian."""
    made = []
    for lang in LANGUAGES:
        text = SENTENCES[lang]
        made += [(SENTENCES["en"], text), (text, SENTENCES["en"]), (text, SENTENCES["ru"])]
    return made


def bits() -> dict[str, list[str]]:
    """Logits, class probabilities and the first values of vectors, as hexadecimal float32."""
    logits = Reranker().score(pairs(), logits=True)
    classes = Classifier().classify(pairs()[::3])
    vectors = Embedder().encode(list(SENTENCES.values()), input_type="document")
    return {
        "logits": _hex(logits),
        "probabilities": _hex(np.array([[*c.probabilities.values()] for c in classes])),
        "vectors": _hex(vectors[:, :8]),
    }


def _hex(values: np.ndarray) -> list[str]:
    return [format(bits, "08x") for bits in values.astype("<f4").view("<u4").ravel().tolist()]


def _values(words: list[str]) -> np.ndarray:
    return np.array([int(word, 16) for word in words], "<u4").view("<f4")


@pytest.mark.parametrize("path", PATHS)
def test_scores_have_the_bits_that_were_released(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = json.loads(FILE.read_text())
    if path not in recorded:
        pytest.skip(f"the bits of {path} were never written down: no such processor was at hand")
    monkeypatch.setenv("POLYRANK_ISA", path)
    # a model that another test still holds would compute on the path that it was loaded with
    monkeypatch.setattr(model, "_shared", weakref.WeakValueDictionary())
    made = bits()
    if recorded["numpy"] == NUMPY:
        assert made == recorded[path]
    for name, values in made.items():
        expected = _values(recorded[path][name])
        np.testing.assert_allclose(_values(values), expected, rtol=ELSEWHERE, atol=ELSEWHERE)


if __name__ == "__main__":
    record = json.loads(FILE.read_text()) if FILE.exists() else {}
    for isa in PATHS:
        os.environ["POLYRANK_ISA"] = isa
        record[isa] = bits()
    record["numpy"] = NUMPY
    FILE.write_text(json.dumps(record, indent=0) + "\n")
    sys.stdout.write(f"{FILE}: {', '.join(record)}\n")
