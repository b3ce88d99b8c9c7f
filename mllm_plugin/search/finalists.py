"""Scores finalists with all their evidence, in arithmetic that gives the same bits in every mode and batch.

Shapes: m query vectors, n chunks, w windows of all chunks, d dimensions.
"""

from __future__ import annotations

import apsw
import numpy as np
from numpy.typing import NDArray

from mllm_plugin.search.query import Query
from mllm_plugin.store.codec import Windows, unpack_all


def cosines(query: Query, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Best cosine [n] of each chunk with any of the query's vectors, each row summed by itself."""
    return np.max([_dot(vectors, vector) for vector in query.vectors], axis=0, initial=-2.0)


def best_windows(query: Query, windows: Windows, fallback: NDArray[np.float64]) -> NDArray[np.float64]:
    """Best window cosine [n] of each chunk; `fallback` where a chunk has none."""
    has = np.flatnonzero(windows.sizes)
    if not len(has):
        return fallback
    scores = np.max([_dot(windows.vectors, vector) for vector in query.vectors], axis=0)
    best = fallback.copy()
    best[has] = np.maximum.reduceat(scores, windows.starts[has])
    return best


def read_windows(tx: apsw.Connection, ids: NDArray[np.int64], dim: int) -> Windows:
    """Windows of chunks by id; none where none are stored."""
    query = "SELECT data FROM windows WHERE chunk_id = ?"
    return unpack_all([tx.execute(query, (chunk_id,)).get or b"" for chunk_id in ids.tolist()], dim)


def _dot(vectors: NDArray[np.float32], vector: NDArray[np.float32]) -> NDArray[np.float64]:
    """Row-wise products summed along the row: unlike a matrix product, independent of the other rows."""
    return (vectors * vector).sum(axis=1).astype(np.float64)
