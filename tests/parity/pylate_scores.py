"""Write what PyLate itself gives for its seeded folder and for Stanford's, for the parity test.

PyLate pins old versions of libraries that these tests use, so it runs in an environment apart:
``python tests/parity/pylate_scores.py FOLDERS TEXTS.json > tests/data/pylate_scores.json``
with PyLate 1.6.0, on folders that `tests.checkpoints.make` has written. It needs nothing of
polyrank.
"""

import json
import sys
from pathlib import Path

from pylate import models

parent, texts = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text(encoding="utf8"))
found = {}
for name in ("pylate", "stanford"):
    model = models.ColBERT(str(parent / name), device="cpu")
    queries, documents = (
        [model.encode([text], is_query=is_query, convert_to_tensor=True)[0] for text in texts[kind]]
        for kind, is_query in (("queries", True), ("documents", False))
    )
    found[name] = [
        [round(float((query @ document.T).max(1).values.sum()), 6) for document in documents]
        for query in queries
    ]
sys.stdout.write(json.dumps({**texts, "scores": found}, ensure_ascii=False, indent=1) + "\n")
