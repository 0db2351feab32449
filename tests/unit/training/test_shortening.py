import numpy as np
import pytest

from polyrank.training.data.sampling import RankedList
from polyrank.training.data.shortening import MOST_SENTENCES, sentences, shortened


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Cats sleep a whole day long. Dogs do not. They bark at night!", 2),
        (
            "家の猫は一日中ずっと寝ています。しかし犬はまったくそうではありません。夜に大きな声で吠えることもあります。",
            3,
        ),
        ("Wie lange leben Katzen denn? Etwa fünfzehn Jahre lang.", 2),
        ("one line without an end\nand another line\n", 2),
        ("It costs 3.50 euros in the shop.", 1),
        ("word " * 200, 5),
        ("x" * 1000, 5),
        ("", 1),
        (". . . .", 1),
    ],
)
def test_sentences_make_up_the_text(text, parts):
    found = sentences(text)
    assert "".join(found) == text
    assert len(found) == parts
    assert all(found) or not text


def test_the_best_sentence_is_kept_with_its_neighbours():
    filler = [f"This is sentence number {i} of it." for i in range(8)]
    passages = tuple(
        " ".join([*filler[:at], "Cats live fifteen years.", *filler[at:]]) for at in range(9)
    )
    entry = RankedList("cats?", passages, (2,) + (0,) * 8, (0.0,) * 9, "en", "en")
    asked = []

    def fit(pairs):
        asked.extend(pairs)
        return np.array([float("Cats" in text) for _, text in pairs], np.float32)

    generators = [np.random.default_rng(seed) for seed in range(20)]
    made = shortened([entry] * 20, fit, generators)
    assert {query for query, _ in asked} == {"cats?"}
    counts = set()
    for cut in made:
        assert cut.grades == entry.grades
        assert all("Cats live fifteen years." in text for text in cut.passages)
        numbers = {len(sentences(text)) for text in cut.passages}
        assert len(numbers) == 1  # length tells nothing about the grade
        counts |= numbers
    assert counts == set(range(1, MOST_SENTENCES + 1))


def test_nothing_to_shorten():
    def fit(pairs):
        raise AssertionError(pairs)

    assert shortened([], fit, []) == []
    entry = RankedList("cats?", ("Cats.", ""), (2, 0), (0.0, 0.0), "en", "en")
    generator = np.random.default_rng(0)
    made = shortened([entry], lambda pairs: np.zeros(len(pairs), np.float32), [generator])
    assert made == [entry]
