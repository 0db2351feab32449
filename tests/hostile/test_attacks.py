"""Every malformed folder of the table ends in its error: of our tree, at once, without memory."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.attacks.folders import ATTACKS, Attack

SECONDS, MEGABYTES = 1.0, 256.0


@pytest.fixture(scope="module")
def endings(
    checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """How loading each folder ended, by name; all are loaded by one process."""
    parent = tmp_path_factory.mktemp("attacks")
    folders = {"": str(checkpoint(ATTACKS[0].base))}
    for number, attack in enumerate(ATTACKS):
        folder = Path(shutil.copytree(checkpoint(attack.base), parent / f"{number}"))
        attack.mutate(folder)
        folders[attack.name] = str(folder)
    listing = parent / "folders.json"
    listing.write_text(json.dumps(folders))
    command = [sys.executable, "-m", "tests.hostile.attacks.run", str(listing)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    told = {entry["name"]: entry for entry in map(json.loads, done.stdout.splitlines())}
    shutil.rmtree(parent)
    lost = [name for name in folders if name and name not in told]
    assert not lost, f"{lost[0]!r} ended the process: {done.stderr[-2000:]}"
    return told


def test_the_table_is_large_and_its_names_differ() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) >= 150


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_the_folder_ends_in_its_error(attack: Attack, endings: dict[str, Any]) -> None:
    ending = endings[attack.name]
    assert ending["error"] == attack.error, ending["message"]
    assert "CheckpointError" in ending["classes"]
    assert attack.says in ending["message"]
    assert len(ending["message"]) < 2000
    assert ending["seconds"] < SECONDS
    assert ending["more_mb"] < MEGABYTES
