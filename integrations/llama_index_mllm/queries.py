"""Queries of LlamaIndex as searches of a memory: how each mode ranks, and what is found with no question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from llama_index.core.vector_stores.types import (
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)
from numpy.typing import NDArray

from llama_index_mllm.nodes import chunk_node
from mllm_plugin import Hit, MemoryIndex
from mllm_plugin.errors import InvalidInputError

Scored = tuple[Hit, float | None]
QueryMode = VectorStoreQueryMode

OPTIONS = ("beam_width", "exact", "mode", "prefix", "exclude_labels", "unique_documents")
MMR_OPTIONS = ("mmr_threshold", "mmr_prefetch_k", "mmr_prefetch_factor")

_WORDS = (QueryMode.SPARSE, QueryMode.TEXT_SEARCH)
_MODES = (QueryMode.DEFAULT, QueryMode.HYBRID, *_WORDS, QueryMode.MMR)
_SETTINGS: dict[str, tuple[QueryMode, ...]] = {
    "alpha": (QueryMode.HYBRID,),
    "sparse_top_k": (QueryMode.HYBRID, QueryMode.SPARSE),
    "mmr_threshold": (QueryMode.MMR,),
    "output_fields": (),
    "embedding_field": (),
}
_PREFETCH_FACTOR = 4
_EVEN = 0.5  # weighs two sides alike


def matches(memory: MemoryIndex, **where: Any) -> list[Hit]:
    """What matches a filter, up to k, where nothing is asked: no chunk is nearer than another."""
    return memory.search(_nowhere(memory), **where)


class Search:
    """A query to a memory.

    Args:
        memory: Where to search.
        query: What for; its filters and ids are the caller's.
        options: More arguments of `MemoryIndex.search`, and `MMR_OPTIONS`.

    Raises:
        InvalidInputError: A mode or setting without counterpart, or a value out of range.
    """

    def __init__(self, memory: MemoryIndex, query: VectorStoreQuery, options: Mapping[str, Any]) -> None:
        self._memory, self._query, self._mode = memory, query, QueryMode(query.mode)
        self._where = {name: value for name, value in options.items() if name not in MMR_OPTIONS}
        self._mmr = {name: value for name, value in options.items() if name in MMR_OPTIONS}
        self._words = query.query_str if (query.query_str or "").strip() else None
        _check(query, self._mode, options)

    def result(self) -> VectorStoreQueryResult:
        """Searches; nodes best first."""
        scored = self._scored()
        nodes = [chunk_node(hit) for hit, _ in scored]
        similarities = [score for _, score in scored if score is not None]
        return VectorStoreQueryResult(
            nodes=nodes,
            similarities=similarities if len(similarities) == len(nodes) else None,
            ids=[node.node_id for node in nodes],
        )

    def _scored(self) -> list[Scored]:
        query, k = self._query, self._query.similarity_top_k
        if self._words is None and query.query_embedding is None:
            return [(hit, None) for hit in matches(self._memory, k=k, **self._where)]
        if self._mode is QueryMode.MMR:
            return _relevant(self._diverse(k))
        if self._mode in _WORDS:
            return _relevant(self._by_words(query.sparse_top_k or k))
        if self._mode is QueryMode.DEFAULT:
            return _relevant(self._by_all(k))
        if query.alpha is not None or query.sparse_top_k is not None:
            return self._blended(k)[: query.hybrid_top_k or k]
        return _relevant(self._by_all(query.hybrid_top_k or k))

    def _by_all(self, k: int) -> list[Hit]:
        """By embedding and words, weighed as the memory weighs them."""
        return self._memory.search(**self._looked_for(), k=k, **self._where)

    def _by_words(self, k: int) -> list[Hit]:
        """By words alone; what has none of them is left out. A walk would have no direction."""
        if self._words is None:
            return []
        how = {} if self._where.get("exact") else {"mode": "flat"}
        where = {"reranker": None, **how, **self._where}
        hits = self._memory.search(self._words, embedding=_nowhere(self._memory), k=k, **where)
        return [hit for hit in hits if hit.score > 0]

    def _blended(self, k: int) -> list[Scored]:
        """By embedding alone and by words alone: each list's scores from 1 to 0, weighed by alpha."""
        alpha = _EVEN if self._query.alpha is None else self._query.alpha
        scores: dict[int, float] = {}
        hits: dict[int, Hit] = {}
        for weight, found in (
            (alpha, self._memory.search(self._vector(), k=k, **self._where) if alpha else []),
            (1 - alpha, self._by_words(self._query.sparse_top_k or k) if alpha < 1 else []),
        ):
            for hit, share in zip(found, _shares(found), strict=True):
                hits[hit.chunk_id] = hit
                scores[hit.chunk_id] = scores.get(hit.chunk_id, 0.0) + weight * share
        best = sorted(hits, key=lambda chunk: -scores[chunk])
        return [(hits[chunk], scores[chunk]) for chunk in best]

    def _diverse(self, k: int) -> list[Hit]:
        """By all, but each unlike those before it; compared are the stored embeddings."""
        factor = self._mmr.get("mmr_prefetch_factor", _PREFETCH_FACTOR)
        candidates = max(k, self._mmr.get("mmr_prefetch_k") or int(factor * k))
        recall = self._memory.recall(**self._looked_for(), k=candidates, nodes=0, **self._where)
        stored = {chunk.node_id: chunk.vectors[0] for chunk in recall.levels.get(1, ())}
        vectors = [stored[hit.chunk_id] for hit in recall.hits]
        threshold = _threshold(self._query, self._mmr)
        places = _unlike(np.array(self._vector()), np.array(vectors), threshold, k) if vectors else []
        return [recall.hits[place] for place in places]

    def _looked_for(self) -> dict[str, Any]:
        vector = self._query.query_embedding
        return {"query": vector} if self._words is None else {"query": self._words, "embedding": vector}

    def _vector(self) -> Any:
        if self._query.query_embedding is not None:
            return self._query.query_embedding
        return self._memory.encoder.encode_queries([self._words or ""])[0]


def _nowhere(memory: MemoryIndex) -> NDArray[np.float32]:
    """An embedding that is equally far from every other."""
    return np.zeros(memory.dim, dtype=np.float32)


def _relevant(hits: Sequence[Hit]) -> list[Scored]:
    return [(hit, hit.relevance) for hit in hits]


def _shares(hits: Sequence[Hit]) -> list[float]:
    """Scores of hits, best first, from 1 to 0."""
    best, least = (hits[0].score, hits[-1].score) if hits else (0.0, 0.0)
    return [(hit.score - least) / (best - least) if best > least else 1.0 for hit in hits]


def _unlike(
    query: NDArray[np.floating], vectors: NDArray[np.floating], threshold: float, k: int
) -> list[int]:
    """Maximal marginal relevance: rows of vectors [n, d], like the query [d] and unlike those before.

    Source: Carbonell and Goldstein, The Use of MMR, SIGIR 1998.
    """
    gain = threshold * (vectors @ (query / (np.linalg.norm(query) or 1.0)))
    likeness = vectors @ vectors.T
    chosen = [int(np.argmax(gain))]
    while len(chosen) < min(k, len(vectors)):
        scores = gain - (1 - threshold) * likeness[chosen].max(axis=0)
        scores[chosen] = -np.inf
        chosen.append(int(np.argmax(scores)))
    return chosen


def _threshold(query: VectorStoreQuery, options: Mapping[str, Any]) -> float:
    given = options.get("mmr_threshold", query.mmr_threshold)
    return _EVEN if given is None else given


def _check(query: VectorStoreQuery, mode: QueryMode, options: Mapping[str, Any]) -> None:
    if mode not in _MODES:
        raise InvalidInputError(
            f"query mode {mode.value!r} has no counterpart in a memory; expected one of {_named(_MODES)}"
        )
    for name, modes in _SETTINGS.items():
        value = getattr(query, name)
        if value is not None and mode not in modes:
            where = f"it counts in mode {_named(modes)}" if modes else "leave it out"
            raise InvalidInputError(f"{name}={value!r} has no counterpart in mode {mode.value!r}; {where}")
    for name in MMR_OPTIONS:
        if name in options and mode is not QueryMode.MMR:
            raise InvalidInputError(f"{name} counts in mode 'mmr' only, got mode {mode.value!r}")
    if "unique_documents" in options and mode is QueryMode.MMR:
        raise InvalidInputError("unique_documents has no counterpart in mode 'mmr'; leave it out")
    for name, share in (("alpha", query.alpha), ("mmr_threshold", _threshold(query, options))):
        if share is not None and not 0 <= share <= 1:
            raise InvalidInputError(f"{name} must be from 0 to 1, got {share!r}")


def _named(modes: Sequence[QueryMode]) -> str:
    return ", ".join(repr(mode.value) for mode in modes)
