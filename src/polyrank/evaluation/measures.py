"""Ranking measures by the library ir_measures, one value for each query.

Ties: trec_eval orders documents of equal score by descending document id, whatever order a
system showed. Here a ranking is handed over with its ranks as scores, all different, so the
order that polyrank shows is the order that is measured.
"""

from collections.abc import Mapping, Sequence

import ir_measures
import numpy as np
from numpy.typing import NDArray

from polyrank.evaluation.dataset import Qrels

Float64Array = NDArray[np.float64]


def measures_for(top_k: int) -> tuple[str, ...]:
    """Return the measures of rankings of `top_k` documents, the main one first.

    nDCG@10, RR@10 (its mean is MRR@10), AP (its mean is mAP, over the top_k documents that
    were ranked), R@10, and R@top_k: the share of relevant documents that a reranker gets to see.

    Reference: Järvelin and Kekäläinen, TOIS 2002 (nDCG, here as trec_eval has it: the gain is
    the grade itself); names as in MacAvaney et al., ECIR 2022 (ir_measures).
    """
    return tuple(dict.fromkeys(("nDCG@10", "RR@10", "AP", "R@10", f"R@{top_k}")))


def measure(
    names: Sequence[str], qrels: Qrels, rankings: Mapping[str, Sequence[str]]
) -> dict[str, Float64Array]:
    """Return each measure's value for each query.

    Args:
        names: Measures, as ir_measures writes them.
        qrels: Judgements of the queries to measure; a grade of 1 or more is relevant.
        rankings: Document ids of each query, best first. A query without a ranking gets 0.

    Returns:
        For each measure, values from 0 to 1 in the order of `qrels`, shape (num_queries,).
    """
    run = {
        query_id: {doc_id: float(len(ranking) - i) for i, doc_id in enumerate(ranking)}
        for query_id, ranking in rankings.items()
        if ranking and query_id in qrels
    }
    rows = {query_id: row for row, query_id in enumerate(qrels)}
    parsed = {ir_measures.parse_measure(name): name for name in names}
    values = {name: np.zeros(len(qrels)) for name in names}
    judged = {query_id: dict(grades) for query_id, grades in qrels.items()}
    for result in ir_measures.iter_calc(list(parsed), judged, run):
        values[parsed[result.measure]][rows[result.query_id]] = result.value
    return values
