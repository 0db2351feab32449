import gzip
import json

import pytest

from polyrank.errors import DataError
from polyrank.evaluation.beir import load_dataset
from polyrank.evaluation.dataset import CorpusDocument
from tests.unit.evaluation.test_run import SAMPLE

CORPUS = [{"_id": "d1", "text": "one"}, {"_id": "d2", "title": "Two", "text": "two"}]
QUERIES = [{"_id": "q1", "text": "which?"}]
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t1\n"


def write(folder, corpus=CORPUS, queries=QUERIES, qrels=QRELS, qrels_file="qrels.tsv"):
    for name, rows in (("corpus", corpus), ("queries", queries)):
        text = rows if isinstance(rows, str) else "\n".join(map(json.dumps, rows))
        (folder / f"{name}.jsonl").write_text(text, "utf8")
    (folder / qrels_file).parent.mkdir(exist_ok=True)
    (folder / qrels_file).write_text(qrels, "utf8")
    return folder


def test_reads_every_field(tmp_path):
    dataset = load_dataset(write(tmp_path))
    assert dataset.name == tmp_path.name
    assert dataset.documents == (CorpusDocument("d1", "one"), CorpusDocument("d2", "two", "Two"))
    assert dataset.qrels == {"q1": {"d1": 1}}
    assert not dataset.has_languages


def test_title_goes_before_the_text_unless_switched_off():
    document = CorpusDocument("d", "text", "Title")
    assert document.content() == "Title text"
    assert document.content(with_title=False) == "text"
    assert CorpusDocument("d", "text").content() == "text"


def test_reads_gzip(tmp_path):
    write(tmp_path)
    for name in ("corpus", "queries"):
        plain = tmp_path / f"{name}.jsonl"
        (tmp_path / f"{name}.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    assert len(load_dataset(tmp_path).documents) == 2


@pytest.mark.parametrize("name", ["qrels/test.tsv", "qrels/dev.tsv"])
def test_finds_judgements_where_beir_puts_them(tmp_path, name):
    assert load_dataset(write(tmp_path, qrels_file=name)).qrels == {"q1": {"d1": 1}}


def test_takes_numbers_as_ids_a_byte_order_mark_blank_lines_and_no_header(tmp_path):
    corpus = '\ufeff{"_id": 7, "text": "seven", "title": null}\n\n'
    dataset = load_dataset(write(tmp_path, corpus=corpus, qrels="q1\t7\t1\r\n"))
    assert dataset.documents == (CorpusDocument("7", "seven"),)
    assert dataset.qrels == {"q1": {"7": 1}}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"corpus": '{"_id": "d1", "text": "one"}\n{"_id": '}, "corpus.jsonl, line 2: not JSON"),
        ({"corpus": "[1]"}, "line 1: a list, not an object"),
        ({"corpus": '{"_id": "d1"}'}, "lacks the key 'text'; it has ['_id']"),
        ({"corpus": '{"text": "one"}'}, "lacks the key '_id'"),
        ({"corpus": '{"_id": "", "text": "one"}'}, "'_id' is empty"),
        ({"corpus": '{"_id": "d1", "text": 3}'}, "'text' is 3. It must be a string"),
        ({"corpus": [CORPUS[0], CORPUS[0]]}, "line 2: the id 'd1' occurs twice, first on line 1"),
        ({"corpus": ""}, "corpus.jsonl is empty"),
        ({"queries": '{"_id": "q1", "text": " "}'}, "the query 'q1' has no text"),
        ({"corpus": [{**CORPUS[0], "lang": "en"}, CORPUS[1]]}, 'line 2: no "lang", and 1 of 2'),
        ({"qrels": "q1\td1\n"}, "line 1: 2 fields"),
        ({"qrels": "q1\td1\tgood\n"}, "['q1', 'd1', 'good']"),
        ({"qrels": "q1\td9\t1\nq8\td1\t1\n"}, "line 1: there is no document 'd9', and 2 lines"),
        ({"qrels": "q8\td1\t1\n"}, "there is no query 'q8', and 1 lines in all"),
        ({"qrels": "q1\td1\t1\nq1\td1\t2\n"}, "were judged 1 before and 2 now"),
        ({"qrels": "query-id\tcorpus-id\tscore\n"}, "qrels.tsv is empty"),
    ],
)
def test_errors_name_file_line_and_what_was_seen(tmp_path, changed, said):
    with pytest.raises(DataError) as caught:
        load_dataset(write(tmp_path, **changed))
    assert said in str(caught.value)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(DataError, match="is not a folder"):
        load_dataset(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"has no corpus\.jsonl nor corpus\.jsonl\.gz"):
        load_dataset(tmp_path)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"\x1f\x8b\x08\x00cut short"])
def test_unreadable_files_are_named(tmp_path, content):
    write(tmp_path)
    (tmp_path / "corpus.jsonl").unlink()
    (tmp_path / "corpus.jsonl.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"corpus\.jsonl\.gz cannot be read to its end"):
        load_dataset(tmp_path)


def test_truncated_gzip_is_an_error_not_a_shorter_corpus(tmp_path):
    whole = gzip.compress((json.dumps(CORPUS[0]) + "\n").encode() * 1)
    write(tmp_path)
    (tmp_path / "corpus.jsonl").unlink()
    (tmp_path / "corpus.jsonl.gz").write_bytes(whole[:-6])
    with pytest.raises(DataError, match="cannot be read to its end"):
        load_dataset(tmp_path)


def test_subset_keeps_one_language_on_each_side():
    part = load_dataset(SAMPLE).subset("th", "en")
    assert {query.language for query in part.queries} == {"th"}
    assert {doc.language for doc in part.documents} == {"en"}
    assert part.qrels["q-moon-th"] == {"moon-en": 1}
    assert part.num_dropped_queries == 0


def test_subset_drops_and_counts_queries_left_without_a_relevant_document(tmp_path):
    corpus = [{"_id": "d1", "text": "x", "lang": "en"}, {"_id": "d2", "text": "y", "lang": "fr"}]
    queries = [{"_id": f"q{i}", "text": "?", "lang": "en"} for i in range(3)]
    # q0 has an answer in English, q1 only in French, q2 only an irrelevant one in English
    dataset = load_dataset(write(tmp_path, corpus, queries, "q0\td1\t1\nq1\td2\t1\nq2\td1\t0\n"))
    part = dataset.subset("en", "en")
    assert [query.query_id for query in part.queries] == ["q0"]
    assert part.num_dropped_queries == 2
    assert dataset.language_pairs() == (("en", "en"), ("en", "fr"))
    assert len(dataset.subset().documents) == 2
