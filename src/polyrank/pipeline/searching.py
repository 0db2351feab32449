"""Questions to a store: found by vectors and by words, joined by rank, reranked.

Where the store keeps the rows of late interaction, reranking reads the question alone.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from polyrank._closing import Closing
from polyrank.config import DEFAULT_STORE, check_whole
from polyrank.errors import StoreError
from polyrank.pipeline.cutting import context
from polyrank.pipeline.indexing import MANIFEST, WORDS
from polyrank.pipeline.manifest import Manifest
from polyrank.pipeline.models import ModelSettings, check_probe
from polyrank.pipeline.places import state_folder
from polyrank.pipeline.words import WordIndex
from polyrank.search.fusion import reciprocal_rank_fusion
from polyrank.stores.base import Found, Metadata, Scalar, Store
from polyrank.stores.opening import open_store
from polyrank.text.inputs import check_text

if TYPE_CHECKING:
    from polyrank.inference.reranker import Reranker

TOP_K, CANDIDATES = 10, 50
_NO_METADATA: Metadata = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Answer:
    """A passage that answers a question.

    Attributes:
        id: Its name in the store.
        text: The passage.
        score: What the reranker gives it; without reranking the sum of reciprocal ranks.
        path: The file; "" for entries that `Indexer` has not written.
        start: Offset of its first character in the text of the file, or of its row.
        end: Offset after its last character.
        title: What the document calls itself.
        heading: The headings it stands under.
        page: Its page, of a PDF.
        row: Its row, in a file of rows.
        probability: How probable it is that it answers; None where the model is not calibrated, or
            nothing was reranked.
        metadata: All that the store holds of it.
    """

    id: str
    text: str
    score: float
    path: str = ""
    start: int = 0
    end: int = 0
    title: str = ""
    heading: str = ""
    page: int | None = None
    row: int | None = None
    probability: float | None = None
    metadata: Mapping[str, Scalar] = field(default_factory=lambda: _NO_METADATA)


class Searcher(Closing):
    """An open store with the models that search it. Closed by `with`."""

    def __init__(
        self,
        store: str = DEFAULT_STORE,
        *,
        models: ModelSettings | None = None,
        reranker: str | None = None,
        api_key: str | None = None,
    ) -> None:
        """Open a store that `Indexer` has filled.

        Args:
            store: Its URL.
            models: The model that filled it; None takes what its manifest names.
            reranker: Folder or Hub id of another model to rerank with; None takes the same one.
            api_key: Key of a store's server that asks for one.

        Raises:
            StoreError: If it is not there, cannot be opened, or was filled by another model.
        """
        self._url = store
        folder = state_folder(store)
        if not (folder / MANIFEST).is_file():
            raise StoreError(
                f"nothing was indexed into {store} from here: there is no {folder / MANIFEST}. "
                f"Fill it first: polyrank index FOLDER --store {store}"
            )
        with Manifest(folder / MANIFEST, store) as manifest:
            known = manifest.settings()
        if "probe" not in known:
            raise StoreError(f"indexing into {store} was stopped before it began. Begin it again.")
        models = models or ModelSettings()
        if models.model is None:
            models = replace(models, model=known["model"])
        self._models = models
        self._reranking = models if reranker is None else replace(models, model=reranker)
        self._reranker: Reranker | None = None
        self._embedder = models.embedder()
        check_probe(self._embedder, known["probe"], store, known["model_name"])
        width = int(known.get("row_dimensions", 0))
        # rows are those of the model that filled the store
        self._has_rows = width > 0 and self._reranking == models
        self._store = open_store(
            store,
            dimensions=self._embedder.dimensions,
            row_dimensions=width,
            create=False,
            api_key=api_key,
        )
        self._words: Store | WordIndex = self._store
        if "text" not in self._store.capabilities:
            self._words = WordIndex(folder / WORDS, store)

    @property
    def model_name(self) -> str:
        """Name of the model that makes vectors."""
        return self._embedder.info.name

    def search(
        self,
        query: str,
        *,
        top_k: int = TOP_K,
        candidates: int = CANDIDATES,
        filter: Mapping[str, Scalar] | None = None,
        rerank: bool = True,
    ) -> list[Answer]:
        """Return the passages that answer a question, best first.

        Args:
            query: What is looked for, in any language.
            top_k: How many to return at most.
            candidates: Passages to find by vectors, and as many by words; what both give is
                reranked.
            filter: Metadata that passages must have, such as ``{"path": …, "language": "de"}``.
            rerank: Whether to rerank what was found.

        Returns:
            At most `top_k` passages.

        Raises:
            ConfigError: If a number is below 1.
            InputError: If the query cannot be read.
            StoreError: If the store cannot answer.
        """
        check_text(query, "query")
        check_whole("top_k", top_k)
        check_whole("candidates", candidates)
        wanted = max(candidates, top_k)
        vector = self._embedder.encode(query, input_type="query")
        near = self._store.query(vector, wanted, filter=filter)
        by_words = self._words.query_text(query, wanted, filter=filter)
        found = {hit.id: hit for hit in (*by_words, *near)}
        fused = reciprocal_rank_fusion([_ids(near), _ids(by_words)])
        if not rerank:
            return [_answer(found[each.id], each.score) for each in fused[:top_k]]
        return self._reranked(query, [found[each.id] for each in fused[:wanted]], top_k)

    def _reranked(self, query: str, hits: list[Found], top_k: int) -> list[Answer]:
        if not hits:
            return []
        if self._reranker is None:
            self._reranker = self._reranking.reranker()
        texts = [_read(hit) for hit in hits]
        if self._has_rows:
            kept = self._store.get_rows(_ids(hits))
            rows = [kept.get(hit.id) for hit in hits]
            ranked = self._reranker.rank_rows(query, texts, rows, top_n=top_k)
        else:
            ranked = self._reranker.rank(query, texts, top_n=top_k)
        return [_answer(hits[each.index], each.score, each.probability) for each in ranked]

    def close(self) -> None:
        """Let the store go."""
        self._store.close()
        if isinstance(self._words, WordIndex):
            self._words.close()


def search(
    query: str,
    store: str = DEFAULT_STORE,
    *,
    top_k: int = TOP_K,
    candidates: int = CANDIDATES,
    filter: Mapping[str, Scalar] | None = None,
    rerank: bool = True,
) -> list[Answer]:
    """Ask a store one question; for several, `Searcher` keeps it open.

    Args:
        query: What is looked for.
        store: Its URL.
        top_k: How many passages to return at most.
        candidates: Passages to find by vectors, and as many by words.
        filter: Metadata that passages must have.
        rerank: Whether to rerank what was found.

    Returns:
        At most `top_k` passages, best first.
    """
    with Searcher(store) as searcher:
        return searcher.search(
            query, top_k=top_k, candidates=candidates, filter=filter, rerank=rerank
        )


def _ids(hits: Iterable[Found]) -> list[str]:
    return [hit.id for hit in hits]


def _read(hit: Found) -> str:
    """Return what a model reads of a passage; see `context`."""
    facts = hit.metadata
    return context(str(facts.get("title", "")), str(facts.get("heading", "")), hit.text)


def _answer(hit: Found, score: float, probability: float | None = None) -> Answer:
    facts: Mapping[str, Any] = hit.metadata
    return Answer(
        hit.id,
        hit.text,
        score,
        str(facts.get("path", "")),
        int(facts.get("start", 0)),
        int(facts.get("end", len(hit.text))),
        str(facts.get("title", "")),
        str(facts.get("heading", "")),
        facts.get("page"),
        facts.get("row"),
        probability,
        facts,
    )
