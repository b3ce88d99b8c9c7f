"""Scores finalists with all their evidence, in arithmetic that gives the same bits in every mode and batch.

Shapes: m query vectors, n chunks, w windows of all chunks, d dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import apsw
import numpy as np
from numpy.typing import NDArray

from mllm_plugin.search.query import Query
from mllm_plugin.store.codec import unpack_windows


def cosines(query: Query, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Best cosine [n] of each chunk with any of the query's vectors, each row summed by itself."""
    return np.max([_dot(vectors, vector) for vector in query.vectors], axis=0, initial=-2.0)


def best_windows(
    query: Query, windows: Sequence[NDArray[np.float32]], fallback: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Best window cosine [n] of each chunk; `fallback` where a chunk has none."""
    sizes = np.array([len(found) for found in windows], dtype=np.int64)
    has = np.flatnonzero(sizes)
    if not len(has):
        return fallback
    stacked = np.concatenate([windows[row] for row in has.tolist()])
    scores = np.max([_dot(stacked, vector) for vector in query.vectors], axis=0)
    starts = np.cumsum(sizes[has]) - sizes[has]
    best = fallback.copy()
    best[has] = np.maximum.reduceat(scores, starts)
    return best


def read_windows(tx: apsw.Connection, ids: NDArray[np.int64], dim: int) -> list[NDArray[np.float32]]:
    """Windows [w, d] of each chunk; empty where none are stored."""
    none = np.zeros((0, dim), dtype=np.float32)
    found = []
    for chunk_id in ids.tolist():
        data = tx.execute("SELECT data FROM windows WHERE chunk_id = ?", (chunk_id,)).get
        found.append(none if data is None else unpack_windows(data, dim))
    return found


def _dot(vectors: NDArray[np.float32], vector: NDArray[np.float32]) -> NDArray[np.float64]:
    """Row-wise products summed along the row: unlike a matrix product, independent of the other rows."""
    return (vectors * vector).sum(axis=1).astype(np.float64)
