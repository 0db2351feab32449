"""Several systems on one set: tests of difference, tables, the page, and the command."""

import itertools
import json
import re

import numpy as np
import pytest

from polyrank.errors import ConfigError
from polyrank.evaluation import (
    Bm25Retriever,
    EmbeddingRetriever,
    EvaluationConfig,
    System,
    compare,
    evaluate,
    load_dataset,
    write_comparison,
)
from polyrank.evaluation.comparison_report import ComparisonProvenance, summary
from polyrank.evaluation.significance import holm, permutation_p_value
from tests.unit.cli.test_evaluate import call
from tests.unit.evaluation.test_run import LANGUAGES, SAMPLE, Overlap, Trigrams

CONFIG = EvaluationConfig(mode="same", num_resamples=100)


@pytest.fixture(scope="module")
def comparison():
    retriever = EmbeddingRetriever(Trigrams())
    systems = (
        System("words", Bm25Retriever()),
        System("trigrams", retriever),
        System("<b>both</b>", retriever, Overlap()),
    )
    return compare(load_dataset(SAMPLE), systems, config=CONFIG)


def test_each_system_has_the_figures_of_its_own_evaluation(comparison):
    dataset = load_dataset(SAMPLE)
    retriever = EmbeddingRetriever(Trigrams())
    alone = evaluate(dataset, retriever=retriever, reranker=Overlap(), config=CONFIG)
    assert comparison.systems[2].mean == alone.mean(lambda group: group.reranked)
    assert comparison.systems[1].mean == alone.mean(lambda group: group.first_stage)
    gain = comparison.differences[2]
    assert (gain.system, gain.other) == ("<b>both</b>", "trigrams")
    assert gain.mean == alone.mean(lambda group: group.difference)["nDCG@10"]
    assert comparison.from_baseline("words") is None
    assert comparison.from_baseline("trigrams") is comparison.differences[0]


def test_an_index_is_made_once_for_systems_that_share_a_first_stage():
    class Counting(Trigrams):
        num_indexed = 0

        def encode(self, texts, *, input_type):
            self.num_indexed += input_type == "document"
            return super().encode(texts, input_type=input_type)

    embedder = Counting()
    retriever = EmbeddingRetriever(embedder)
    systems = (System("alone", retriever), System("reranked", retriever, Overlap()))
    compare(load_dataset(SAMPLE), systems, config=CONFIG)
    assert embedder.num_indexed == len(LANGUAGES)


def test_bands_of_length_hold_every_query_once(comparison):
    num_queries = sum(len(group.query_ids) for group in comparison.report.groups)
    assert sum(band.num_queries for band in comparison.lengths) == num_queries
    edges = [(band.shortest, band.longest) for band in comparison.lengths]
    assert edges == sorted(edges)
    assert all(early[1] < late[0] for early, late in itertools.pairwise(edges))


def test_permutation_test_finds_what_is_there_and_not_what_is_not():
    generator = np.random.default_rng(5)
    better = [generator.normal(0.1, 0.2, 200), generator.normal(0.1, 0.2, 120)]
    same = [generator.normal(0.0, 0.2, 200), generator.normal(0.0, 0.2, 120)]
    assert permutation_p_value(better, seed=0) < 0.001
    assert permutation_p_value(same, seed=0) > 0.05
    assert permutation_p_value([np.zeros(10)], seed=0) == 1.0


def test_twelve_translations_of_a_question_are_one_witness():
    difference = np.random.default_rng(1).normal(0.05, 0.2, 30)
    once = permutation_p_value([difference], seed=0)
    assert permutation_p_value([difference] * 12, seed=0) == once


def test_false_claims_are_as_rare_as_promised():
    generator = np.random.default_rng(3)
    claims = [
        permutation_p_value([generator.normal(0, 1, 40)], seed=seed) < 0.05 for seed in range(100)
    ]
    assert sum(claims) <= 12


def test_holm_corrects_by_rank_and_never_lets_a_smaller_p_value_pass_a_larger():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_page_needs_nothing_beside_itself_and_believes_no_name(comparison, tmp_path):
    provenance = ComparisonProvenance({"words": "bm25"}, "2026-01-31T12:00:00+00:00", {"seed": 1})
    paths = write_comparison(comparison, provenance, tmp_path)
    assert [path.name for path in paths] == ["report.json", "report.md", "report.html"]
    page = paths[2].read_text()
    assert "default-src 'none'" in page
    assert not re.search(r"<script|src=|href=|url\(|@import", page)
    assert "<b>both</b>" not in page
    assert "&lt;b&gt;both&lt;/b&gt;" in page
    content = json.loads(paths[0].read_text())
    assert content["baseline"] == "words"
    assert [each["name"] for each in content["systems"]][:2] == ["words", "trigrams"]
    assert len(content["differences"]) == 3
    markdown = paths[1].read_text()
    for row in summary(comparison):
        assert row[0] in markdown


@pytest.mark.parametrize("names", [(), ("one", "one")])
def test_systems_need_names_of_their_own(names):
    with pytest.raises(ConfigError, match="names of their own"):
        compare(load_dataset(SAMPLE), [System(name, Bm25Retriever()) for name in names])


def test_command_compares(checkpoint, tmp_path):
    embedder = str(checkpoint("multilingual-e5-small"))
    result = call(
        str(SAMPLE),
        *("--system", "bm25", "--system", f"vectors={embedder}"),
        *("--system", f"both=bm25+{embedder}", "--output", str(tmp_path)),
    )
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "report.json").read_text())
    assert [system["name"] for system in content["systems"]] == ["bm25", "vectors", "both"]
    assert (tmp_path / "report.html").stat().st_size < 100_000


@pytest.mark.parametrize("given", ["", "+default", "bm25+", "bm25+default@", "name="])
def test_command_refuses_a_system_without_parts(given):
    with pytest.raises(ConfigError, match="names nothing to measure"):
        call(SAMPLE, "--system", given)


def test_command_refuses_a_system_beside_a_reranker():
    with pytest.raises(ConfigError, match="leave out"):
        call(SAMPLE, "--system", "bm25", "--reranker", "default")
