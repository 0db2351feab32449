"""The default model comes calibrated: what answers is kept, and of nothing nothing is returned."""

import subprocess
import sys

import pytest

from polyrank import Classifier, Reranker
from polyrank.checkpoint.hub import default_model_folder
from polyrank.checkpoint.layouts import CALIBRATION_FILE

DOCUMENTS = (
    "Domestic cats live 13 to 15 years on average; some reach the age of 20.",
    "The Eiffel Tower was built from 1887 to 1889 and is 330 metres high.",
    "Kaffee wird aus den gerösteten Samen der Kaffeepflanze zubereitet.",
    "富士山は標高3776メートルの日本で最も高い山である。",
    "La capitale de l'Australie est Canberra, et non Sydney.",
    "Волга — самая длинная река Европы, её длина 3530 километров.",
)
ANSWERED = {
    "How long do cats live on average?": 0,
    "How high is the Eiffel Tower?": 1,
    "Woraus wird Kaffee zubereitet?": 2,
    "富士山の標高は何メートルですか?": 3,
    "Quelle est la capitale de l'Australie ?": 4,
    "Какая самая длинная река Европы?": 5,
}
UNANSWERED = (
    "Who composed the opera Tosca?",
    "Wie viele Planeten hat das Sonnensystem?",
    "相対性理論を発表したのは誰ですか?",
    "Quel est le numéro atomique du carbone ?",
    "Кто написал роман «Война и мир»?",
    "How do I renew my passport online?",
)


@pytest.fixture(scope="module")
def reranker() -> Reranker:
    return Reranker()


def test_unanswerable_questions_return_nothing(reranker: Reranker) -> None:
    kept = {q: reranker.rank(q, DOCUMENTS, min_probability=0.5) for q in ANSWERED}
    assert [[hit.index for hit in hits] for hits in kept.values()] == [
        [place] for place in ANSWERED.values()
    ]
    for question in UNANSWERED:
        assert reranker.rank(question, DOCUMENTS, min_probability=0.5) == []
        assert len(reranker.rank(question, DOCUMENTS)) == len(DOCUMENTS)


def test_the_command_returns_nothing_and_says_so() -> None:
    command = [sys.executable, "-m", "polyrank", "rerank", UNANSWERED[0]]
    for more, num_lines in (([], len(DOCUMENTS)), (["--min-probability", "0.5"], 0)):
        done = subprocess.run(
            [*command, *more],
            input="\n".join(DOCUMENTS),
            capture_output=True,
            encoding="utf8",
            check=True,
        )
        assert len(done.stdout.splitlines()) == num_lines
        assert ("nothing answers" in done.stderr) == (num_lines == 0)


def test_targets_are_thresholds(reranker: Reranker) -> None:
    question = "How long do cats live on average?"
    documents = [*DOCUMENTS, "Cats spend up to sixteen hours a day asleep."]
    sizes = [
        len(reranker.rank(question, documents, min_probability=least))
        for least in ("recall:1", "recall:0.9", "precision:0.5", "precision:0.8")
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]


def test_labels_are_calibrated() -> None:
    found = Classifier().classify([(question, DOCUMENTS[0]) for question in ANSWERED])
    assert found[0].label == "relevant"
    for each in found:
        assert each.calibrated_probabilities is not None
        assert sum(each.calibrated_probabilities.values()) == pytest.approx(1.0)


def test_the_file_is_small() -> None:
    assert (default_model_folder() / CALIBRATION_FILE).stat().st_size < 12_000
