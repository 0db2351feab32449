"""A retrieval task of MTEB on data that are at hand; every document is a candidate."""

from collections.abc import Mapping

from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata

NONE = ("date", "domains", "task_subtypes", "license", "annotations_creators", "dialect")


class LocalRetrieval(AbsTaskRetrieval):
    """Texts and queries by id, and the grades of texts for each query."""

    metadata = TaskMetadata(
        **dict.fromkeys((*NONE, "sample_creation", "bibtex_citation", "reference")),
        name="LocalRetrieval",
        description="Local data.",
        dataset={"path": "local", "revision": "1"},
        type="Retrieval",
        category="t2t",
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
    )

    def __init__(self, texts: Mapping, queries: Mapping, qrels: Mapping) -> None:
        """Lay the data out as MTEB does."""
        super().__init__()
        corpus, asked = (
            Dataset.from_list([{"id": name, "text": text} for name, text in texts_.items()])
            for texts_ in (texts, queries)
        )
        ranked = {query: list(texts) for query in queries}
        split = RetrievalSplitData(
            corpus=corpus, queries=asked, relevant_docs=qrels, top_ranked=ranked
        )
        self.dataset, self.data_loaded = {"default": {"test": split}}, True
