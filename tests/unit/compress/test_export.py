"""Late interaction exported to sentence-transformers' own multi-vector folder."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import MultiVectorEncoder

from polyrank import Reranker
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.cli.main import main
from polyrank.compress.export import export_multi_vector
from polyrank.errors import CapabilityError, ConfigError
from tests.checkpoints import late_interaction, make
from tests.texts import SENTENCES

TEXTS = list(SENTENCES.values())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint without prompts; its feature is the mean of the best products of clean rows."""
    source = late_interaction(make("multilingual-e5-large", tmp_path), features=["plain_match"])
    export_multi_vector(read_checkpoint(source), tmp_path / "exported")
    return tmp_path / "exported"


def test_rows_are_those_of_the_head(folder: Path) -> None:
    own = Reranker(folder.parent / "multilingual-e5-large", encoder="pytorch")
    scorer = own._scorer
    plan = scorer.prepare([(TEXTS[0], text) for text in TEXTS])
    rows = own._engine.run(plan.batch, (), scorer.width)
    expected = scorer.features(plan, rows)[:, 0]
    model = MultiVectorEncoder(str(folder), device="cpu")
    asked, found = model.encode_query(TEXTS[:1]), [model.encode_document(text) for text in TEXTS]
    theirs = model.similarity(asked, found)[0].numpy()
    np.testing.assert_allclose(theirs, expected, atol=2e-5)
    ours = Reranker(folder).score([(TEXTS[0], text) for text in TEXTS])
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_by_the_command(
    tmp_path: Path, checkpoint: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source = late_interaction(make("multilingual-e5-small", tmp_path), features=["plain_match"])
    output = tmp_path / "made"
    assert _run("compress", "export", str(source), str(output), "--format", "multi-vector") == 0
    assert Reranker(output).score([("a", "b")]).shape == (1,)
    assert not list(tmp_path.glob(".made-*"))


def _run(*arguments: str) -> int:
    import sys
    from unittest.mock import patch

    with patch.object(sys, "argv", ["polyrank", *arguments]):
        try:
            main()
        except SystemExit as exc:
            return int(exc.code or 0)
    return 0


def test_refusals(tmp_path: Path, checkpoint: Callable[[str], Path]) -> None:
    plain = read_checkpoint(checkpoint("multilingual-e5-small"))
    with pytest.raises(CapabilityError, match="no rerank head of late interaction"):
        export_multi_vector(plain, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    with pytest.raises(ConfigError, match="exists already"):
        export_multi_vector(plain, tmp_path)
