"""Hard negatives: passages that an embedder takes for answers, and that are none.

Passages are encoded once and kept on disk; the queries of a batch are encoded and searched when
the batch is drawn. The search is exact.

Reference: de Souza P. Moreira et al., arXiv:2407.15831 (the margin rule, section 3: a share of the
positive's similarity).
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from polyrank._files import replacing
from polyrank.checkpoint.gate import fingerprint
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.evaluation.retrievers import EmbedderLike, EmbeddingRetriever
from polyrank.inference.embedder import Embedder
from polyrank.progress import Progress
from polyrank.training.config import TrainingConfig
from polyrank.training.data.source import TrainingSource, text_key
from polyrank.types import Float32Array


@dataclass(frozen=True, slots=True)
class PassagePool:
    """Passages of one source and language that are searched.

    Attributes:
        language: Language of the versions that were encoded.
        positions: Their places in the source, ascending, shape (num_passages,).
        vectors: Shape (num_passages, dim).
    """

    language: str
    positions: NDArray[np.intp]
    vectors: Float32Array


@dataclass(frozen=True, slots=True)
class Request:
    """What to find hard negatives for.

    Attributes:
        query: The query.
        positives: Positions of the passages that answer it.
    """

    query: str
    positives: tuple[int, ...]


class Miner:
    """Finds hard negatives with an embedder."""

    def __init__(
        self,
        embedder: EmbedderLike,
        config: TrainingConfig,
        *,
        cache_dir: Path | None = None,
        identity: str = "",
        progress: Progress | None = None,
    ) -> None:
        """Make a miner.

        Args:
            embedder: Encodes queries and passages.
            config: Depth, margin, size of the pools, seed.
            cache_dir: Where vectors of passages are kept; None keeps them in memory alone.
            identity: Tells embedders apart in the cache.
            progress: Called as passages are encoded.
        """
        self._stage = EmbeddingRetriever(embedder)
        self._config = config
        self._cache_dir, self._identity = cache_dir, identity
        self._progress = progress or (lambda done, total: None)
        self._pools: dict[tuple[int, str], PassagePool] = {}

    def pool(self, source: TrainingSource, language: str) -> PassagePool:
        """Return the pool that serves a source and a language of passages.

        Passages with versions in several languages are searched in the language that most of
        them have: one search serves every language.

        Args:
            source: The source.
            language: Language that the negatives will be in.

        Returns:
            The pool, encoded at the first call.
        """
        searched = source.pivot if source.is_parallel else language
        key = (id(source), searched)
        if key not in self._pools:
            self._pools[key] = self._encode_pool(source, searched)
        return self._pools[key]

    def find(
        self, source: TrainingSource, language: str, requests: Sequence[Request]
    ) -> list[NDArray[np.intp]]:
        """Return hard negatives of some queries.

        Dropped are the positives, passages whose text equals a positive's, and passages nearer
        to the query than `mine_margin` times the nearest positive.

        Args:
            source: Where the passages are.
            language: Language that the passages must have a version in.
            requests: The queries.

        Returns:
            Positions of passages for each query, nearest first, at most `mine_depth`.
        """
        pool = self.pool(source, language)
        queries = self._stage.read_queries([r.query for r in requests], _ignore)
        answers = self._answers(source, pool, requests)
        ends = np.cumsum([len(request.positives) for request in requests])
        parts = np.split(answers, ends[:-1])
        # room for the positives themselves and for near copies of them
        depth = self._config.mine_depth * 2 + max(len(r.positives) for r in requests)
        rows = np.arange(len(requests), dtype=np.intp)
        found = self._stage.search(queries, rows, pool.vectors, depth)
        results = []
        for row, (request, own, hits) in enumerate(zip(requests, parts, found, strict=True)):
            nearest = float((own @ queries[row]).max()) if len(own) else np.inf
            ceiling = nearest * self._config.mine_margin if nearest > 0 else nearest
            near = pool.positions[hits.doc_indices[hits.scores <= ceiling]]
            languages = {language, pool.language}
            results.append(self._without_copies(source, language, languages, request, near))
        return results

    def _without_copies(
        self,
        source: TrainingSource,
        language: str,
        compared: Collection[str],
        request: Request,
        near: NDArray[np.intp],
    ) -> NDArray[np.intp]:
        passages = source.passages
        answers = {
            text_key(text) for p in request.positives for text in passages[p].versions.values()
        }
        kept: list[int] = []
        for position in map(int, near):
            versions = passages[position].versions
            if language not in versions or position in request.positives:
                continue
            texts = (versions[code] for code in compared if code in versions)
            if not any(text_key(text) in answers for text in texts):
                kept.append(position)
            if len(kept) == self._config.mine_depth:
                break
        return np.array(kept, np.intp)

    def _answers(
        self, source: TrainingSource, pool: PassagePool, requests: Sequence[Request]
    ) -> Float32Array:
        """Vectors of all positives, one request's after the other's."""
        wanted = np.array([p for request in requests for p in request.positives], np.intp)
        vectors = np.zeros((len(wanted), pool.vectors.shape[1]), np.float32)
        places = np.minimum(np.searchsorted(pool.positions, wanted), len(pool.positions) - 1)
        is_pooled = pool.positions[places] == wanted
        vectors[is_pooled] = pool.vectors[places[is_pooled]]
        absent = np.flatnonzero(~is_pooled)
        if len(absent):
            texts = [self._text(source, int(wanted[i]), pool.language) for i in absent]
            vectors[absent] = self._stage.index_documents(texts, _ignore)
        return vectors

    @staticmethod
    def _text(source: TrainingSource, position: int, language: str) -> str:
        versions = source.passages[position].versions
        return versions.get(language) or next(iter(versions.values()))

    def _encode_pool(self, source: TrainingSource, language: str) -> PassagePool:
        positions = source.by_language[language]
        if len(positions) > self._config.mine_pool:
            generator = np.random.default_rng((self._config.seed, 2))
            drawn = generator.choice(len(positions), self._config.mine_pool, replace=False)
            positions = positions[np.sort(drawn)]
        texts = [source.passages[position].versions[language] for position in positions]
        return PassagePool(language, positions, self._cached(texts))

    def _cached(self, texts: list[str]) -> Float32Array:
        if self._cache_dir is None:
            return self._encode(texts)
        digest = hashlib.sha256(self._identity.encode())
        for text in texts:
            digest.update(hashlib.sha256(text.encode()).digest())
        path = self._cache_dir / f"{digest.hexdigest()[:32]}.npy"
        if path.is_file():
            return np.load(path, allow_pickle=False)
        vectors = self._encode(texts)
        with replacing(path, is_shared=True) as temporary:
            np.save(temporary, vectors)
        return vectors

    def _encode(self, texts: list[str]) -> Float32Array:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self._progress(done, len(texts))

        self._progress(0, len(texts))
        return self._stage.index_documents(texts, advance)


def _ignore(_: int) -> None:
    return None


def make_miner(
    embedder: Embedder, config: TrainingConfig, cache_dir: Path | None, progress: Progress
) -> Miner:
    """Return a miner whose kept vectors are told apart by the embedder's weights and settings.

    Args:
        embedder: Encodes queries and passages.
        config: Depth, margin, size of the pools, seed.
        cache_dir: Where vectors of passages are kept; None keeps them in memory alone.
        progress: Called as passages are encoded.

    Returns:
        The miner.
    """
    info = embedder.info
    weights = read_checkpoint(Path(info.folder)).weights
    identity = f"{fingerprint(weights.paths)} {info.encoder.compute_dtype} {info.max_length}"
    return Miner(embedder, config, cache_dir=cache_dir, identity=identity, progress=progress)
