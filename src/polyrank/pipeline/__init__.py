"""Files into a store of vectors, and questions to it.

>>> from polyrank.pipeline import index_files, search
>>> report = index_files(["handbook"], "sqlite://handbook.db")  # doctest: +SKIP
>>> search("How do I reset my password?", "sqlite://handbook.db")[0].path  # doctest: +SKIP
"""

from polyrank.pipeline.indexing import Indexer, IndexReport, IndexSettings, index_files
from polyrank.pipeline.listing import Remark
from polyrank.pipeline.models import ModelSettings
from polyrank.pipeline.searching import Answer, Searcher, search

__all__ = [
    "Answer",
    "IndexReport",
    "IndexSettings",
    "Indexer",
    "ModelSettings",
    "Remark",
    "Searcher",
    "index_files",
    "search",
]
