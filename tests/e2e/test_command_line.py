"""The installed command, as people and pipes call it."""

import csv
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from polyrank import Embedder, Reranker
from tests.texts import SENTENCES

Checkpoint = Callable[[str], Path]
COMMAND = [sys.executable, "-m", "polyrank"]


def run(
    *arguments: str | Path, stdin: str | None = None, check: bool = True, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        encoding="utf8",
        check=check,
        timeout=120,
        env={**os.environ, "COLUMNS": "100", **environment},
    )


def lines(output: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in output.splitlines()]


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    path = tmp_path / "documents.jsonl"
    rows = [{"id": lang, "text": text, "n": 1} for lang, text in SENTENCES.items()]
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf8")
    return path


def test_rerank_in_a_pipe(checkpoint: Checkpoint, documents: Path) -> None:
    folder = checkpoint("bge-reranker-base")
    done = run("rerank", "how long?", documents, "--model", folder, "--top-n", "4")
    rows = lines(done.stdout)
    expected = Reranker(folder).rank("how long?", list(SENTENCES.values()), top_n=4)
    assert [row["index"] for row in rows] == [hit.index for hit in expected]
    assert [row["rank"] for row in rows] == [1, 2, 3, 4]
    assert [row["score"] for row in rows] == pytest.approx([hit.score for hit in expected])
    assert all(row["text"] == SENTENCES[str(row["id"])] for row in rows)
    assert all(row["n"] == 1 for row in rows)
    assert done.stderr == ""


def test_rerank_from_standard_input(checkpoint: Checkpoint) -> None:
    done = run(
        "rerank", "q", "--model", checkpoint("bge-reranker-base"), stdin="one\n猫\n\nthree\n"
    )
    assert {row["text"] for row in lines(done.stdout)} == {"one", "猫", "three"}


def test_rerank_adds_what_a_search_found(checkpoint: Checkpoint) -> None:
    folder, texts = checkpoint("bge-reranker-base"), list(SENTENCES.values())
    found = [{"text": text, "bm25": 3.5 * (i % 4)} for i, text in enumerate(texts)]
    given = "\n".join(json.dumps(row) for row in found)
    options = ["--model", folder, "--first-stage-field", "bm25"]
    done = run("rerank", "how long?", *options, "--first-stage", "2", stdin=given)
    scores = [row["bm25"] for row in found]
    expected = Reranker(folder).rank("how long?", texts, first_stage_scores=scores, first_stage=2.0)
    assert [row["index"] for row in lines(done.stdout)] == [hit.index for hit in expected]
    assert all(row["bm25"] == scores[row["index"]] for row in lines(done.stdout))
    refused = run("rerank", "how long?", *options, stdin=given, check=False)
    assert refused.returncode == 1
    assert "polyrank train first-stage-weight" in " ".join(refused.stderr.split())


def test_rerank_on_a_terminal_shows_a_table(checkpoint: Checkpoint, documents: Path) -> None:
    arguments = ["rerank", "how long?", documents, "--model", checkpoint("bge-reranker-base")]
    shown = on_terminal([*COMMAND, *map(str, arguments)])
    assert "rank" in shown
    assert "█" in shown
    assert "猫" in shown
    assert "{" not in shown


def on_terminal(command: list[str]) -> str:
    main, second = pty.openpty()
    process = subprocess.Popen(
        command, stdout=second, stderr=second, env={**os.environ, "COLUMNS": "120"}
    )
    os.close(second)
    output = b""
    while True:
        try:
            if select.select([main], [], [], 60)[0]:
                part = os.read(main, 65536)
        except OSError:
            break
        if not part:
            break
        output += part
    os.close(main)
    assert process.wait() == 0
    return output.decode("utf8", "replace")


def test_long_documents_are_remarked(checkpoint: Checkpoint) -> None:
    folder = checkpoint("bge-reranker-base")
    text = "cats and dogs " * 400
    short = ("rerank", "q", "--model", folder, "--max-length", "32")
    read = run(*short, stdin=f"{text}\nshort\n")
    assert "longer" not in read.stderr
    assert [len(row.get("passages", ())) > 20 for row in lines(read.stdout)].count(True) == 1
    done = run(*short, "--aggregation", "truncate", stdin=f"{text}\nshort\n")
    assert "1 of 2 were longer than 32 tokens" in done.stderr
    assert [row.get("is_truncated", False) for row in lines(done.stdout)].count(True) == 1
    quiet = run(*short, "--aggregation", "truncate", "-q", stdin=text)
    assert quiet.stderr == ""


def test_embed_to_each_kind_of_file(
    checkpoint: Checkpoint, documents: Path, tmp_path: Path
) -> None:
    import pyarrow.parquet as pq

    folder = checkpoint("multilingual-e5-small")
    expected = Embedder(folder).encode(list(SENTENCES.values()), input_type="document")
    run("embed", documents, "--model", folder, "--output", tmp_path / "v.npy")
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), expected, atol=1e-6)
    run("embed", documents, "--model", folder, "--output", tmp_path / "v.parquet")
    table = pq.read_table(tmp_path / "v.parquet")
    assert table.column("id").to_pylist() == list(SENTENCES)
    np.testing.assert_allclose(table.column("embedding").to_pylist(), expected, atol=1e-6)
    done = run("embed", documents, "--model", folder)
    found = [row["embedding"] for row in lines(done.stdout)]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    query = run("embed", documents, "--model", folder, "--input-type", "query")
    assert query.stdout != done.stdout


def test_classify(checkpoint: Checkpoint, documents: Path) -> None:
    folder = checkpoint("three-way-classifier")
    done = run("classify", documents, "--query", "how long?", "--model", folder)
    rows = lines(done.stdout)
    assert [row["id"] for row in rows] == list(SENTENCES)
    for row in rows:
        probabilities = row["probabilities"]
        assert isinstance(probabilities, dict)
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert row["label"] == max(probabilities, key=probabilities.__getitem__)


def test_info_and_doctor_speak_json_in_a_pipe(checkpoint: Checkpoint) -> None:
    facts = json.loads(run("info", checkpoint("bge-reranker-v2-m3")).stdout)
    assert facts["max_length"] == 8192
    assert facts["reranks_by"] == "cross-encoder score"
    assert "sigmoid" in facts["tasks"]["rerank"]
    facts = json.loads(run("doctor").stdout)
    assert facts["usable_threads"] >= 1
    assert "onnx" in facts["encoders"]
    assert facts["extras"]["server"] == "installed"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["rerank", "q", "missing.txt"], 1, "cannot be opened"),
        (["rerank", "q", "-", "--model", "no/such/model"], 1, "neither a folder"),
        (["rerank", "q", "-", "--encoder", "abacus"], 2, "abacus"),
        (["rerank", "q", "-", "--max-length", "99999"], 2, "at most"),
        (["info", "nowhere/"], 1, "neither a folder"),
        (["rerank"], 2, "Missing argument"),
        (["--unknown"], 2, "No such option"),
    ],
)
def test_errors_are_one_line_and_a_code(
    arguments: list[str], code: int, message: str, checkpoint: Checkpoint
) -> None:
    if arguments[:1] == ["rerank"] and len(arguments) > 1 and "--model" not in arguments:
        arguments = [*arguments, "--model", str(checkpoint("bge-reranker-base"))]
    done = run(*arguments, stdin="text\n", check=False)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_broken_checkpoint_shows_no_traceback(checkpoint: Checkpoint, tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(checkpoint("bge-reranker-base"), tmp_path / "cut")
    weights = Path(folder) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    done = run("rerank", "q", "--model", folder, stdin="a\n", check=False)
    assert done.returncode == 1
    assert "cut short" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_lone_surrogate_in_a_file_is_named(checkpoint: Checkpoint) -> None:
    text = '{"text": "fine"}\n{"text": "half \\ud83d"}\n'
    done = run("rerank", "q", "--model", checkpoint("bge-reranker-base"), stdin=text, check=False)
    assert done.returncode == 1
    assert "lone surrogate" in done.stderr
    assert "Traceback" not in done.stderr


def test_output_appears_whole_or_not_at_all(checkpoint: Checkpoint, tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    target.write_text("before")
    text = '{"text": "fine"}\n{"text": 5}\n'
    done = run(
        "embed",
        *("--model", checkpoint("multilingual-e5-small"), "--output", target),
        stdin=text,
        check=False,
    )
    assert done.returncode == 1
    assert target.read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl"]


def test_ctrl_c_leaves_no_half_written_file(checkpoint: Checkpoint, tmp_path: Path) -> None:
    target = tmp_path / "vectors.jsonl"
    process = subprocess.Popen(
        [
            *COMMAND,
            *("embed", "--model", str(checkpoint("multilingual-e5-small"))),
            *("--output", str(target)),
        ],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background job, as CI may be, ignores Ctrl-C and hands that on
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdin is not None
    process.stdin.write("some text\n" * 1500)  # one chunk is written, the next one waits
    process.stdin.flush()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not any(
        path.stat().st_size for path in tmp_path.iterdir()
    ):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in message
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_stops_early_is_no_error(checkpoint: Checkpoint, documents: Path) -> None:
    folder = checkpoint("multilingual-e5-small")
    command = " ".join([*COMMAND, "embed", str(documents), "--model", str(folder), "| head -c 10"])
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.startswith('{"id": ')
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


@pytest.mark.parametrize("command", ["rerank", "embed", "classify", "eval", "info", "doctor"])
def test_help_teaches(command: str) -> None:
    shown = run(command, "--help").stdout
    assert "Usage:" in shown
    assert command == "doctor" or "For example" in shown


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


def test_rankings_in_a_table(checkpoint: Checkpoint, documents: Path, tmp_path: Path) -> None:
    base = ["rerank", "how long?", documents, "--model", checkpoint("bge-reranker-base")]
    expected = lines(run(*base, "--top-k", "3").stdout)
    run(*base, "--top-n", "3", "--output", tmp_path / "best.csv")
    found = read_table(tmp_path / "best.csv")
    assert found == [{key: str(value) for key, value in row.items()} for row in expected]


def test_labels_in_tables(checkpoint: Checkpoint, documents: Path, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    folder = checkpoint("three-way-classifier")
    run("classify", documents, "--query", "how long?", "--model", folder, "--output", path)
    expected = lines(run("classify", documents, "--query", "how long?", "--model", folder).stdout)
    for row, wanted in zip(read_table(path), expected, strict=True):
        assert row["label"] == wanted["label"]
        for label, share in wanted["probabilities"].items():  # type: ignore[attr-defined]
            assert float(row[f"probabilities.{label}"]) == share


def test_an_unknown_output_is_refused_before_any_work(tmp_path: Path) -> None:
    done = run("embed", "--output", tmp_path / "v.csv", "--model", "no/such", check=False)
    assert done.returncode == 2
    assert ".npy, .parquet, .jsonl, .ndjson" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_json_array_is_ranked_by_its_texts(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    rows = [{"id": i, "text": text} for i, text in enumerate(["cats", "dogs"])]
    path.write_text(json.dumps(rows, indent=2))
    folder = checkpoint("bge-reranker-base")
    from_file = run("rerank", "q", path, "--model", folder).stdout
    assert {row["text"] for row in lines(from_file)} == {"cats", "dogs"}
    assert run("rerank", "q", "--model", folder, stdin=path.read_text()).stdout == from_file


@pytest.mark.parametrize("field", ["text", "passage"])
def test_rows_of_pairs_are_labelled_as_pairs(
    checkpoint: Checkpoint, tmp_path: Path, field: str
) -> None:
    folder = checkpoint("three-way-classifier")
    path = tmp_path / "pairs.jsonl"
    rows = [{"query": "how long?", field: text} for text in ("a year", "a cat")]
    path.write_text("\n".join(map(json.dumps, rows)))
    found = lines(run("classify", path, "--model", folder).stdout)
    named = run("classify", path, "--query-field", "query", "--model", folder).stdout
    assert found == lines(named)
    alone = run("classify", path, "--query-field", "", "--model", folder).stdout
    assert [row["probabilities"] for row in lines(alone)] != [row["probabilities"] for row in found]
    path.write_text(json.dumps(rows[0]) + "\n" + json.dumps({field: "no query"}))
    done = run("classify", path, "--model", folder, check=False)
    assert done.returncode == 1
    assert "line 2: no text in the field 'query'" in " ".join(done.stderr.split())


def test_an_empty_query_is_remarked(checkpoint: Checkpoint) -> None:
    done = run("rerank", " ", "--model", checkpoint("bge-reranker-base"), stdin="one\n")
    assert "the query is empty" in done.stderr
    assert len(lines(done.stdout)) == 1
