import gzip
import json

import numpy as np
import pytest

from polyrank.errors import ConfigError, DataError
from polyrank.training.config import DataSource, TrainingConfig
from polyrank.training.data.negatives import Miner, Request
from polyrank.training.data.reading import read_mixture, read_sources
from polyrank.training.data.sampling import IRRELEVANT, NEUTRAL, RELEVANT, Drawer
from polyrank.training.data.schedule import plan_draws
from polyrank.training.data.source import text_key
from tests.toys import marked_beir, marked_rows, write_lines
from tests.unit.evaluation.test_run import Trigrams

LANGUAGES = ("de", "en", "ja", "th")


def read(path, weight=None):
    return read_sources(DataSource(path, weight))


def drawer_for(sources, miner=None, teacher=None, **settings):
    config = TrainingConfig(**{"task": "reranker", "steps": 50, **settings})
    schedule = plan_draws(sources, config)
    return Drawer(sources, schedule, config, miner=miner, teacher=teacher), schedule


def draw_all(sources, **settings):
    drawer, schedule = drawer_for(sources, **settings)
    return drawer.draw(range(len(schedule)))


def write_qa(folder, num_groups=6):
    """Each group has three passages; a question for the first, and one that none answers."""
    passages, questions = [], []
    for group in range(num_groups):
        ids = [f"p{group}-{k}" for k in range(3)]
        passages += [
            {
                "id": own,
                "title": f"T{group}",
                "text": f"text {own}",
                "lang": "fr",
                "group": f"g{group}",
            }
            for own in ids
        ]
        named = {"lang": "fr", "group": f"g{group}", "source": "x"}
        questions += [
            {"id": f"q{group}", "query": f"what {group}?", "positives": ids[:1], **named},
            {
                "id": f"u{group}",
                "query": f"none {group}?",
                "positives": [],
                "related": ids[1:2],
                **named,
            },
        ]
    write_lines(folder / "x.jsonl", questions)
    write_lines(folder / "x.passages.jsonl", passages)
    return folder


def write_docs(folder, languages=LANGUAGES, num_sections=12):
    for language in languages:
        rows = [
            {
                "id": f"s{k}",
                "page": f"page{k // 3}",
                "title": f"title {k} {language}",
                "text": f"section {k} in {language}",
                "lang": language,
            }
            for k in range(num_sections)
        ]
        write_lines(folder / f"help.{language}.jsonl", rows)
    return folder


def test_reads_lists_with_passages_once(tmp_path):
    rows = [
        {"query": "a", "positives": ["x"], "negatives": ["y"], "scores": [2, 0.5]},
        {"query": "b", "positives": ["y"], "neutrals": ["x"], "lang": ""},
    ]
    (source,) = read(write_lines(tmp_path / "rows.jsonl", rows))
    assert (source.layout, len(source.passages), len(source.examples)) == ("lists", 2, 2)
    assert source.examples[0].scores == {0: 2.0, 1: 0.5}
    assert source.examples[1].neutrals == (0,)


def test_reads_a_beir_folder(tmp_path):
    (source,) = read(marked_beir(tmp_path / "toy"))
    assert (source.name, source.layout, len(source.examples)) == ("toy", "beir", 12)
    assert source.passages[source.examples[0].positives[0]].versions[""].endswith("eighteen")


def test_the_hash_follows_the_content(tmp_path):
    hashes = set()
    for name, count in (("a", 5), ("b", 5), ("c", 6)):
        path = write_lines(tmp_path / name / "rows.jsonl", marked_rows(count))
        hashes.add(read(path)[0].sha256)
    assert len(hashes) == 2


def test_reads_questions_and_takes_neutrals_from_the_group(tmp_path):
    (source,) = read(write_qa(tmp_path))
    answered, unanswered = source.examples[:2]
    assert source.passages[0].versions == {"fr": "T0 text p0-0"}
    assert source.neutral_positions(answered) == (1, 2)
    assert source.neutral_positions(unanswered) == (1, 0, 2)


def test_reads_gzip(tmp_path):
    write_qa(tmp_path / "plain")
    (tmp_path / "zipped").mkdir()
    for path in (tmp_path / "plain").iterdir():
        zipped = tmp_path / "zipped" / f"{path.name}.gz"
        zipped.write_bytes(gzip.compress(path.read_bytes()))
    (plain,), (zipped,) = read(tmp_path / "plain"), read(tmp_path / "zipped")
    assert plain.examples == zipped.examples


def test_sections_are_one_passage_in_many_languages(tmp_path):
    (source,) = read(write_docs(tmp_path))
    assert source.name == "help"
    assert source.is_parallel
    assert set(source.passages[0].versions) == set(LANGUAGES)
    assert source.examples[0].queries["th"] == "title 0 th"
    assert source.neutral_positions(source.examples[0]) == (1, 2)


def test_a_heading_that_several_sections_share_asks_for_none(tmp_path):
    rows = [
        {"id": f"s{k}", "page": "p", "title": title, "text": f"text {k}", "lang": "en"}
        for k, title in enumerate(["Syntax", "Syntax", "Borders"])
    ]
    write_lines(tmp_path / "help.en.jsonl", rows)
    (source,) = read(tmp_path)
    assert [example.queries for example in source.examples] == [{"en": "Borders"}]
    assert len(source.passages) == 3


def test_translations_are_ranked_among_others_of_their_language(tmp_path):
    rows = [
        {"src": f"sentence {k}", "tgt": f"{code} {k}", "lang": code}
        for k in range(8)
        for code in ("de", "ja")
    ]
    sources = read(write_lines(tmp_path / "p.jsonl", rows))
    assert sources[0].is_translation
    for entry in draw_all(sources, cross_language=0.0):
        assert entry.query_language != entry.passage_language
        assert entry.query not in entry.passages
        number = entry.query[-1]
        assert [text.endswith(number) for text in entry.passages] == [
            grade == RELEVANT for grade in entry.grades
        ]


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_share_of_lists_across_languages_is_respected(tmp_path, share):
    lists = draw_all(read(write_docs(tmp_path)), steps=250, cross_language=share)
    found = np.mean([entry.query_language != entry.passage_language for entry in lists])
    assert abs(found - share) < 0.03
    assert {entry.query_language for entry in lists} == set(LANGUAGES)
    for entry in lists:
        assert all(text.endswith(entry.passage_language) for text in entry.passages)
        assert entry.query.endswith(entry.query_language)


def test_negatives_of_several_languages_on_request(tmp_path):
    lists = draw_all(read(write_docs(tmp_path)), mixed_languages=1.0)
    spread = [len({text[-2:] for text in entry.passages}) for entry in lists]
    assert np.mean(spread) > 1.5
    assert all(entry.passages[0].endswith(entry.passage_language) for entry in lists)


def test_one_language_alone_never_crosses(tmp_path):
    lists = draw_all(read(write_qa(tmp_path)), cross_language=1.0)
    assert {(entry.query_language, entry.passage_language) for entry in lists} == {("fr", "fr")}


def test_a_list_depends_on_its_place_and_the_seed_alone(tmp_path):
    sources = read(write_docs(tmp_path))
    drawer, _ = drawer_for(sources)
    again, _ = drawer_for(sources)
    assert drawer.draw([3, 5, 9])[1] == again.draw([5])[0]
    other, _ = drawer_for(sources, seed=1)
    assert other.draw(range(40)) != again.draw(range(40))


def test_labels_come_from_structure(tmp_path):
    lists = draw_all(read(write_qa(tmp_path)), task="classifier", steps=20)
    kinds = set()
    for entry in lists:
        group = entry.query.split()[1].rstrip("?")
        for text, grade in zip(entry.passages, entry.grades, strict=True):
            is_own = f"p{group}-" in text
            answers = entry.query.startswith("what") and text.endswith("-0")
            expected = (RELEVANT if answers else NEUTRAL) if is_own else IRRELEVANT
            assert grade == expected
        kinds.add(entry.grades)
    assert (RELEVANT, NEUTRAL, IRRELEVANT) in kinds
    assert (NEUTRAL, IRRELEVANT) in kinds  # nothing answers


def test_queries_without_answers_are_for_classifiers_and_bce(tmp_path):
    sources = read(write_qa(tmp_path))
    assert plan_draws(sources, TrainingConfig("reranker")).num_usable == (6,)
    assert plan_draws(sources, TrainingConfig("reranker", loss="bce")).num_usable == (12,)
    assert plan_draws(sources, TrainingConfig("classifier")).num_usable == (12,)


def test_equal_texts_are_no_negatives(tmp_path):
    rows = [
        {"query": f"q{k}", "positives": ["The same."], "negatives": [f"n{k}"]} for k in range(9)
    ]
    rows.append({"query": "other", "positives": ["the  SAME"], "negatives": ["n"]})
    for entry in draw_all(read(write_lines(tmp_path / "r.jsonl", rows))):
        keys = [text_key(text) for text in entry.passages]
        assert len(set(keys)) == len(keys)


def test_every_query_comes_before_any_comes_again(tmp_path):
    sources = read(write_lines(tmp_path / "r.jsonl", marked_rows(40)))
    schedule = plan_draws(sources, TrainingConfig("reranker", steps=10))
    assert sorted(schedule.example_of[:40]) == list(range(40))


@pytest.mark.parametrize(
    ("limits", "expected"),
    [({}, 40), ({"epochs": 2}, 80), ({"steps": 3}, 24), ({"steps": 3, "epochs": 9}, 24)],
)
def test_steps_and_epochs_limit_the_draws(tmp_path, limits, expected):
    sources = read(write_lines(tmp_path / "r.jsonl", marked_rows(40)))
    assert len(plan_draws(sources, TrainingConfig("reranker", **limits))) == expected


def test_weights_share_the_lists(tmp_path):
    small = write_lines(tmp_path / "small.jsonl", marked_rows(10))
    large = write_lines(tmp_path / "large.jsonl", marked_rows(190, seed=1))
    by_size = read_mixture([DataSource(small), DataSource(large)])
    weighed = read_mixture([DataSource(small, 3.0), DataSource(large)])
    shares = []
    for sources in (by_size, weighed):
        schedule = plan_draws(sources, TrainingConfig("reranker", steps=500))
        shares.append(np.mean(schedule.source_of == 0))
    assert shares == pytest.approx([0.05, 0.75], abs=0.02)


def test_a_path_may_carry_a_weight(tmp_path):
    assert DataSource.parse("data/x:0.5").weight == 0.5
    assert DataSource.parse("C:folder").weight is None
    odd = tmp_path / "a:2"
    odd.mkdir()
    assert DataSource.parse(str(odd)) == DataSource(odd)
    with pytest.raises(ConfigError, match="above 0"):
        DataSource.parse("x:0")


# hard negatives


NEAR = [
    ("how long do cats live", "cats live for twelve years or longer"),
    ("when was the bridge built", "the bridge was built in 1357"),
]


def mining_source(tmp_path):
    rows = [{"query": query, "positives": [answer]} for query, answer in NEAR]
    rows[0]["negatives"] = ["dogs live for ten years or longer", "bread needs flour and salt"]
    rows[1]["negatives"] = ["the moon raises the tides", "THE BRIDGE was built, in 1357!"]
    return read(write_lines(tmp_path / "mine.jsonl", rows))[0]


def mined_texts(source, **settings):
    miner = Miner(Trigrams(), TrainingConfig("reranker", **settings))
    requests = [
        Request(next(iter(example.queries.values())), example.positives)
        for example in source.examples
    ]
    found = miner.find(source, "", requests)
    return [[source.passages[p].versions[""] for p in positions] for positions in found]


def test_mining_finds_near_passages_that_do_not_answer(tmp_path):
    cats, bridge = mined_texts(mining_source(tmp_path))
    assert cats[0] == "dogs live for ten years or longer"
    assert NEAR[0][1] not in cats
    assert NEAR[1][1] not in bridge


def test_mining_drops_copies_of_the_answer(tmp_path):
    _, bridge = mined_texts(mining_source(tmp_path), mine_margin=1.0)
    assert not any("1357" in text for text in bridge)


def test_mining_drops_what_is_nearly_as_near_as_the_answer(tmp_path):
    source = mining_source(tmp_path)
    strict, _ = mined_texts(source, mine_margin=0.1)
    assert "dogs live for ten years or longer" not in strict
    assert mined_texts(source, mine_depth=1)[0] == ["dogs live for ten years or longer"]


def test_mined_negatives_get_into_the_lists(tmp_path):
    source = mining_source(tmp_path)
    config = {"neutrals": 0, "hard_negatives": 1, "random_negatives": 0, "mine_depth": 1}
    rows = [{"query": query, "positives": [answer]} for query, answer in NEAR]
    rows += [{"query": "x", "positives": [p.versions[""]]} for p in source.passages]
    bare = read(write_lines(tmp_path / "bare.jsonl", rows))
    miner = Miner(Trigrams(), TrainingConfig("reranker", **config))
    lists = draw_all(bare, miner=miner, **config)
    cats = [entry for entry in lists if "cats" in entry.query]
    assert {entry.passages[1] for entry in cats} == {"dogs live for ten years or longer"}


def test_vectors_are_kept_by_content(tmp_path):
    source = mining_source(tmp_path)
    config = TrainingConfig("reranker")
    pools = []
    for identity, calls in (("one", 1), ("one", 0), ("two", 1)):
        embedder = Trigrams()
        miner = Miner(embedder, config, cache_dir=tmp_path / "cache", identity=identity)
        pools.append(miner.pool(source, "").vectors)
        assert len(embedder.calls) == calls
    np.testing.assert_array_equal(pools[0], pools[1])
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2


def test_a_small_pool_still_knows_the_answers(tmp_path):
    mined = mined_texts(mining_source(tmp_path), mine_pool=2)
    for (_, answer), texts in zip(NEAR, mined, strict=True):
        assert answer not in texts


def test_parallel_passages_are_searched_in_one_language(tmp_path):
    (source,) = read(write_docs(tmp_path))
    embedder = Trigrams()
    miner = Miner(embedder, TrainingConfig("reranker"))
    request = Request("title 3 de", source.examples[3].positives)
    assert len(miner.find(source, "ja", [request])[0])
    assert len(miner.find(source, "th", [request])[0])
    passages = [texts for kind, texts in embedder.calls if kind == "document"]
    assert [len(texts) for texts in passages] == [12]


# scores


def test_the_rows_own_scores_are_targets(tmp_path):
    rows = [{"query": "q", "positives": ["a"], "negatives": ["b", "c"], "scores": [9, 2, -1.5]}] * 2
    settings = {"neutrals": 0, "random_negatives": 0}
    sources = read(write_lines(tmp_path / "r.jsonl", rows))
    entry = draw_all(sources, loss="margin-mse", **settings)[0]
    known = {"a": 9.0, "b": 2.0, "c": -1.5}
    assert [known[text] for text in entry.passages] == list(entry.scores)


def test_a_teacher_scores_the_pairs(tmp_path):
    sources = read(write_lines(tmp_path / "r.jsonl", marked_rows(10)))

    def teacher(pairs):
        return np.array([len(text) for _, text in pairs], np.float32)

    for entry in draw_all(sources, loss="distill", teacher=teacher, teacher_scale=2.0):
        assert entry.scores == tuple(2.0 * len(text) for text in entry.passages)


def test_scores_must_come_from_somewhere(tmp_path):
    sources = read(write_lines(tmp_path / "r.jsonl", marked_rows(10)))
    with pytest.raises(DataError, match="--teacher"):
        drawer_for(sources, loss="mse")


# hostile data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("not json\n", "line 1: not JSON"),
        ("[1]\n", "a list, not an object"),
        ('{"text": "x"}\n', "no known layout"),
        ('{"query": "q"}\n', "no passages"),
        ('{"query": " ", "positives": ["a", "b"]}\n', "'query' is empty"),
        ('{"query": 3, "positives": ["a", "b"]}\n', "'query' is 3"),
        ('{"query": "q", "positives": "a"}\n', "must be a list of texts"),
        ('{"query": "q", "positives": ["a", null]}\n', "holds None"),
        ('{"query": "q", "positives": ["a"], "negatives": ["a"]}\n', "also among the others"),
        ('{"query": "q", "positives": ["a"], "scores": [1, 2]}\n', "the row has 1 passages"),
        ('{"query": "q", "positives": ["a"], "scores": [NaN]}\n', "holds nan"),
        ('{"query": "q", "positives": ["a"]}\n', "two passages at least"),
        ('{"query": "q", "positives": ["a"]}\n{"query": "q"\n', "line 2"),
        ("[" * 100_000 + "\n", "not JSON"),
    ],
)
def test_broken_rows_are_named(tmp_path, content, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(content, "utf8")
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_broken_files_are_named(tmp_path):
    with pytest.raises(DataError, match="neither a file nor a folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds no \.jsonl"):
        read(tmp_path)
    (tmp_path / "rows.txt").write_text("x")
    with pytest.raises(DataError, match=r"not a \.jsonl"):
        read(tmp_path / "rows.txt")
    (tmp_path / "rows.jsonl.gz").write_bytes(b"not gzip")
    with pytest.raises(DataError, match="must be gzip"):
        read(tmp_path / "rows.jsonl.gz")
    (tmp_path / "latin.jsonl").write_bytes('{"query": "é"}'.encode("latin-1"))
    with pytest.raises(DataError, match="UTF-8"):
        read(tmp_path / "latin.jsonl")


def test_a_question_of_an_unknown_passage_is_named(tmp_path):
    write_qa(tmp_path)
    row = {"id": "q", "query": "q", "lang": "fr", "positives": ["px"], "group": "g0"}
    with (tmp_path / "x.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    with pytest.raises(DataError, match="there is no passage 'px'"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "ranker"}, "task must be one of"),
        ({"task": "classifier", "loss": "bce"}, "cannot be trained with"),
        ({"steps": 0}, "steps must be above 0"),
        ({"minutes": float("nan")}, "minutes must be above 0"),
        ({"learning_rate": -1}, "learning_rate must be above 0"),
        ({"cross_language": 1.5}, "from 0 to 1"),
        ({"dropout": 1.0}, "dropout"),
        ({"neutrals": 0, "hard_negatives": 0, "random_negatives": 0}, "a list needs a negative"),
        ({"head": "max"}, "head must be one of"),
        ({"compute_dtype": "int8"}, "compute_dtype must be one of"),
        ({"loss": "bce", "second_weight": 0.5}, "no second loss"),
        ({"max_length": 4}, "max_length must be 8 or more"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        TrainingConfig(**{"task": "reranker", **settings})
