"""Scores: of embeddings on the way, in batches, and of the candidates at the end, with all their evidence.

The latter in arithmetic that gives the same bits in every mode and batch.

Shapes: n chunks or other embeddings, r vectors per embedding, k of the best, d dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, overload

import numpy as np

from mllm_plugin.hierarchy.leaf import AMONG, NO_MEANING, Setting
from mllm_plugin.image import SpaceWindows
from mllm_plugin.search.query import Query, View
from mllm_plugin.shapes import Float, Float32, Float64, Int64, Shaped
from mllm_plugin.store.codec import Windows

_READ_FOR_RECENCY = 8  # times as many as are kept


@dataclass(frozen=True)
class Candidates:
    """Chunks of one namespace worth ranking for one query, in any order.

    Attributes:
        ids: Chunk ids.
        vectors: Pooled embeddings.
        lexical: Lexical evidence in [0, 1).
        complete: Every live chunk that the search may return is among them.
        scored: Embeddings compared with the query to find them.
        visited: Nodes whose embedding chunks were looked into.
        windows: Of the chunks, where they are known already.
    """

    ids: Int64[np.ndarray, " n"]
    vectors: Float32[np.ndarray, "n d"]
    lexical: Float64[np.ndarray, " n"]
    complete: bool
    scored: int
    visited: int = 0
    windows: Windows | SpaceWindows | None = None


class Ranked(NamedTuple):
    """A scored chunk before its text is read."""

    score: float
    chunk_id: int
    plain: float  # without what recency added


class Ranking(Sequence[Ranked]):
    """Scored chunks, best first, of which few are ever looked at.

    Args:
        columns: Scores, chunk ids and plain scores.
    """

    def __init__(self, *columns: Shaped[np.ndarray, " n"]) -> None:
        self._columns = columns

    def __len__(self) -> int:
        return len(self._columns[0])

    def __iter__(self) -> Iterator[Ranked]:
        return iter(self[:])

    @overload
    def __getitem__(self, index: int) -> Ranked: ...

    @overload
    def __getitem__(self, index: slice) -> list[Ranked]: ...

    def __getitem__(self, index: int | slice) -> Ranked | list[Ranked]:
        if isinstance(index, slice):
            return list(map(Ranked, *(column[index].tolist() for column in self._columns)))
        return Ranked(*(column[index].item() for column in self._columns))


def rank(view: View, query: Query, candidates: Candidates) -> Ranking:
    """Candidates by all their evidence, best first, lower chunk ids first on ties."""
    return rank_in_setting(view, query, candidates)[0]


def rank_in_setting(view: View, query: Query, candidates: Candidates) -> tuple[Ranking, Setting | None]:
    """`rank`, and what all of it tells; None for a query without words, or without candidates."""
    cosine, window = evidence_of(view, query, candidates)
    plain = view.hierarchy.leaf_ranker.score(cosine, window, candidates.lexical)
    scores = plain if view.recency is None else plain + view.added(candidates.ids)
    order = np.lexsort((candidates.ids, -scores))
    ranked = Ranking(scores[order], candidates.ids[order], plain[order])
    if not len(order) or not query.text:
        return ranked, None
    return ranked, Setting.of(plain[order[:AMONG]], view.answers)


def evidence_of(
    view: View, query: Query, candidates: Candidates
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """Cosine and window evidence of candidates."""
    cosine = cosines(query, candidates.vectors)
    windows = candidates.windows or view.snapshot.windows(candidates.ids)
    return cosine, best_windows(query, windows, cosine)


# -- on the way


def scores_of(
    view: View, level: int, queries: Sequence[Query], embeddings: Float32[np.ndarray, "n r d"]
) -> list[Float32[np.ndarray, " n"]]:
    """Scores of embeddings for each query; queries of one length are scored together."""
    results: list[Float32[np.ndarray, " n"]] = [np.zeros(0, np.float32)] * len(queries)
    for length in {len(query.vectors) for query in queries}:
        places = [place for place, query in enumerate(queries) if len(query.vectors) == length]
        stacked = np.stack([queries[place].vectors for place in places])
        for place, row in zip(places, view.hierarchy.ranker(level).score(stacked, embeddings), strict=True):
            results[place] = row
    return results


def cosines_of(
    view: View, queries: Sequence[Query], embeddings: Float32[np.ndarray, "n 1 d"]
) -> list[Float32[np.ndarray, " n"]]:
    """Level-1 scores of chunks for each query; see `with_meaning`."""
    return [with_meaning(scores, embeddings[:, 0]) for scores in scores_of(view, 1, queries, embeddings)]


def best_rows(
    scores: Float[np.ndarray, " n"], ids: Int64[np.ndarray, " n"], most: int
) -> Int64[np.ndarray, " k"]:
    """Rows of the `most` highest scores, best first, lower ids first on ties."""
    rows = np.arange(len(scores))
    if most < len(scores):
        threshold = np.partition(scores, len(scores) - most)[len(scores) - most]
        rows = np.flatnonzero(scores >= threshold)
    return rows[np.lexsort((ids[rows], -scores[rows]))][:most]


def best_candidates(
    view: View, partial: Float[np.ndarray, " n"], ids: Int64[np.ndarray, " n"], most: int
) -> Int64[np.ndarray, " k"]:
    """Rows of the `most` best by partial score and recency; the latter is read for the best of the former."""
    if view.recency is None:
        return best_rows(partial, ids, most)
    rows = best_rows(partial, ids, _READ_FOR_RECENCY * most)
    return rows[best_rows(partial[rows] + view.added(ids[rows]), ids[rows], most)]


def joined(
    parts: Sequence[Shaped[np.ndarray, "_ ..."]], dtype: type = np.float64
) -> Shaped[np.ndarray, "_ ..."]:
    """Parts one after another, or the only one; an empty array where there is none."""
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=dtype)


# -- at the end


def cosines(query: Query, vectors: Float32[np.ndarray, "n d"]) -> Float64[np.ndarray, " n"]:
    """Best cosine of each chunk with any of the query's vectors, each row summed by itself."""
    found = [_dot(vectors, vector) for vector in query.vectors]
    return with_meaning(found[0] if len(found) == 1 else np.max(found, axis=0), vectors)


def with_meaning(
    cosines: Float[np.ndarray, " n"], vectors: Float32[np.ndarray, "n d"]
) -> Float[np.ndarray, " n"]:
    """Cosines with vectors, `NO_MEANING` where a vector is zero; changed in place."""
    rows = np.flatnonzero(cosines == 0)
    cosines[rows[~vectors[rows].any(axis=1)]] = NO_MEANING
    return cosines


def best_windows(
    query: Query, windows: Windows | SpaceWindows, fallback: Float64[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """Window evidence: for each window of the query the best cosine with one of the chunk's; their mean.

    For a query without windows it is the best cosine of any window with any of the query's vectors.
    `fallback` where a chunk has none.
    """
    has = np.flatnonzero(windows.sizes)
    if not len(has):
        return fallback
    probes = query.vectors if query.windows is None else query.windows
    each = windows.best(probes)
    best = fallback.copy()
    # python's sum goes probe by probe; numpy's would depend on how many chunks there are
    best[has] = np.max(each, axis=0) if query.windows is None else sum(each) / len(each)
    return best


def _dot(vectors: Float32[np.ndarray, "n d"], vector: Float32[np.ndarray, " d"]) -> Float64[np.ndarray, " n"]:
    """Row-wise products summed along the row: unlike a matrix product, independent of the other rows."""
    return (vectors * vector).sum(axis=1).astype(np.float64)
