"""Evaluation sets: documents, queries, and which documents answer which queries.

`polyrank.evaluation.beir` reads them from disk.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

Qrels = Mapping[str, Mapping[str, int]]
"""Relevance of documents: query id, document id, grade; 1 and above is relevant."""


@dataclass(frozen=True, slots=True)
class CorpusDocument:
    """A document that may be found.

    Attributes:
        doc_id: Its id, unique in the corpus.
        text: Its text, which may be empty where the title is not.
        title: Its title, empty where it has none.
        language: BCP 47 tag, or None where the set names no languages.
    """

    doc_id: str
    text: str
    title: str = ""
    language: str | None = None

    def content(self, *, with_title: bool = True) -> str:
        """Return what is searched: title, a space and text, or the text alone."""
        return f"{self.title} {self.text}" if with_title and self.title else self.text


@dataclass(frozen=True, slots=True)
class Query:
    """A query.

    Attributes:
        query_id: Its id, unique among the queries.
        text: Its text.
        language: BCP 47 tag, or None where the set names no languages.
    """

    query_id: str
    text: str
    language: str | None = None


@dataclass(frozen=True, slots=True)
class Dataset:
    """Documents, queries and judgements.

    Attributes:
        name: Name of its folder.
        documents: The corpus, in file order.
        queries: The queries, in file order.
        qrels: Judgements; every id in them exists.
        num_dropped_queries: Queries that a selection left without a relevant document.
    """

    name: str
    documents: tuple[CorpusDocument, ...]
    queries: tuple[Query, ...]
    qrels: Qrels = field(repr=False)
    num_dropped_queries: int = 0

    @property
    def has_languages(self) -> bool:
        """Whether documents and queries say which language they are in."""
        return bool(self.query_languages and self.document_languages)

    @property
    def query_languages(self) -> tuple[str, ...]:
        """Languages of the queries, sorted."""
        return tuple(sorted({query.language for query in self.queries if query.language}))

    @property
    def document_languages(self) -> tuple[str, ...]:
        """Languages of the documents, sorted."""
        return tuple(sorted({doc.language for doc in self.documents if doc.language}))

    def language_pairs(self) -> tuple[tuple[str, str], ...]:
        """Return each (query language, document language) with a relevant document, sorted."""
        languages = {doc.doc_id: doc.language for doc in self.documents}
        pairs: set[tuple[str, str]] = set()
        for query in self.queries:
            for doc_id, grade in self.qrels.get(query.query_id, {}).items():
                language = languages[doc_id]
                if grade > 0 and query.language and language:
                    pairs.add((query.language, language))
        return tuple(sorted(pairs))

    def subset(
        self, query_language: str | None = None, document_language: str | None = None
    ) -> "Dataset":
        """Return the queries of one language, the documents of another, and their judgements.

        Args:
            query_language: Language of the queries to keep; None keeps all.
            document_language: Language of the documents to keep; None keeps all.

        Returns:
            The part of the set whose two sides remain. Queries left without a relevant
            document are dropped, and counted in its `num_dropped_queries`.
        """
        return self.select(
            None if query_language is None else {query_language},
            None if document_language is None else {document_language},
        )

    def select(
        self,
        query_languages: Collection[str] | None = None,
        document_languages: Collection[str] | None = None,
    ) -> "Dataset":
        """Return the part of the set in some languages, by the rule of `subset`.

        Args:
            query_languages: Languages of the queries to keep; None keeps all.
            document_languages: Languages of the documents to keep; None keeps all.

        Returns:
            The part, without queries that have no relevant document in it.
        """
        documents = tuple(doc for doc in self.documents if _is_in(doc, document_languages))
        doc_ids = {doc.doc_id for doc in documents}
        candidates = [query for query in self.queries if _is_in(query, query_languages)]
        qrels: dict[str, Mapping[str, int]] = {}
        for query in candidates:
            judged = self.qrels.get(query.query_id, {})
            kept = {doc_id: grade for doc_id, grade in judged.items() if doc_id in doc_ids}
            if any(grade > 0 for grade in kept.values()):
                qrels[query.query_id] = kept
        queries = tuple(query for query in candidates if query.query_id in qrels)
        return Dataset(self.name, documents, queries, qrels, len(candidates) - len(queries))


def _is_in(row: CorpusDocument | Query, languages: Collection[str] | None) -> bool:
    return languages is None or row.language in languages
