"""Measures of ranking quality on data sets in BEIR form: does reranking help, and where?

The names below load on first use, because the room needs the extra `eval` (bm25s,
ir_measures, matplotlib), which serving does not.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from polyrank._extras import require

if TYPE_CHECKING:
    from polyrank.evaluation.beir import load_dataset
    from polyrank.evaluation.bm25 import Bm25Retriever
    from polyrank.evaluation.comparison import Comparison, System, compare
    from polyrank.evaluation.comparison_report import comparison_table, write_comparison
    from polyrank.evaluation.dataset import Dataset
    from polyrank.evaluation.plan import EvaluationConfig
    from polyrank.evaluation.report import Provenance, write_report
    from polyrank.evaluation.results import Report
    from polyrank.evaluation.retrievers import EmbeddingRetriever, Retriever
    from polyrank.evaluation.run import LogitReranker, evaluate
    from polyrank.evaluation.tables import report_table

__all__ = [
    "Bm25Retriever",
    "Comparison",
    "Dataset",
    "EmbeddingRetriever",
    "EvaluationConfig",
    "LogitReranker",
    "Provenance",
    "Report",
    "Retriever",
    "System",
    "compare",
    "comparison_table",
    "evaluate",
    "load_dataset",
    "report_table",
    "write_comparison",
    "write_report",
]

_HOMES = {
    "Bm25Retriever": "bm25",
    "Comparison": "comparison",
    "Dataset": "dataset",
    "EmbeddingRetriever": "retrievers",
    "EvaluationConfig": "plan",
    "Retriever": "retrievers",
    "LogitReranker": "run",
    "Provenance": "report",
    "Report": "results",
    "System": "comparison",
    "compare": "comparison",
    "comparison_table": "comparison_report",
    "evaluate": "run",
    "load_dataset": "beir",
    "report_table": "tables",
    "write_comparison": "comparison_report",
    "write_report": "report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require("eval", purpose="polyrank.evaluation")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
