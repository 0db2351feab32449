"""Readers give polyrank's own errors, or none, on every kept file and on values near those."""

import random
from pathlib import Path

import pytest

from tests.fuzz.readers import CORPUS, READERS, Place, change_file, read

MOST_BYTES = 200_000  # of all kept files
NUM_CHANGES = 60
KEPT = sorted(path for path in CORPUS.rglob("*") if path.is_file())


@pytest.fixture(scope="module", params=READERS)
def reader(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Place]:
    parent = tmp_path_factory.mktemp(request.param)
    return request.param, Place(READERS[request.param][1], parent)


def test_kept_files(reader: tuple[str, Place]) -> None:
    name, place = reader
    kept = [path for path in KEPT if path.parent.name == name]
    found = {path.stem: read(name, place, path.read_bytes()) for path in kept}
    assert found.pop("whole") is None
    # others were kept since they are refused, or worked though they look wrong
    assert all(error is None or error.endswith("Error") for error in found.values())


def test_values_near_a_whole_file(reader: tuple[str, Place]) -> None:
    name, place = reader
    whole = next((CORPUS / name).glob("whole.*")).read_bytes()
    outcomes = {
        read(name, place, change_file(name, whole, random.Random(seed)))
        for seed in range(NUM_CHANGES)
    }
    assert len(outcomes) > 1  # some work, some are refused


def test_the_kept_files_stay_small() -> None:
    assert sum(Path(path).stat().st_size for path in KEPT) < MOST_BYTES
