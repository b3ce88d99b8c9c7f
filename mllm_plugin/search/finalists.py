"""Scores finalists with all their evidence, in arithmetic that gives the same bits in every mode and batch.

Shapes: m query vectors, n chunks, w windows of all chunks, d dimensions.
"""

from __future__ import annotations

from typing import Any

import apsw
import numpy as np
from numpy.typing import NDArray

from mllm_plugin.hierarchy.leaf import NO_MEANING
from mllm_plugin.search.query import Query
from mllm_plugin.store.codec import Windows, unpack_all


def cosines(query: Query, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Best cosine [n] of each chunk with any of the query's vectors, each row summed by itself."""
    found = np.max([_dot(vectors, vector) for vector in query.vectors], axis=0, initial=-2.0)
    return with_meaning(found, vectors)


def with_meaning(cosines: NDArray[Any], vectors: NDArray[np.float32]) -> NDArray[Any]:
    """Cosines [n] with vectors [n, d], `NO_MEANING` where a vector is zero; changed in place."""
    rows = np.flatnonzero(cosines == 0)
    cosines[rows[~vectors[rows].any(axis=1)]] = NO_MEANING
    return cosines


def best_windows(query: Query, windows: Windows, fallback: NDArray[np.float64]) -> NDArray[np.float64]:
    """Window evidence [n]: for each window of the query the best cosine with one of the chunk's; their mean.

    For a query without windows it is the best cosine of any window with any of the query's vectors.
    `fallback` where a chunk has none.
    """
    has = np.flatnonzero(windows.sizes)
    if not len(has):
        return fallback
    probes = query.vectors if query.windows is None else query.windows
    starts = windows.starts[has]
    each = [np.maximum.reduceat(_dot(windows.vectors, probe), starts) for probe in probes]
    best = fallback.copy()
    # python's sum goes probe by probe; numpy's would depend on how many chunks there are
    best[has] = np.max(each, axis=0) if query.windows is None else sum(each) / len(each)
    return best


def read_windows(tx: apsw.Connection, ids: NDArray[np.int64], dim: int) -> Windows:
    """Windows of chunks by id; none where none are stored."""
    query = "SELECT data FROM windows WHERE chunk_id = ?"
    return unpack_all([tx.execute(query, (chunk_id,)).get or b"" for chunk_id in ids.tolist()], dim)


def _dot(vectors: NDArray[np.float32], vector: NDArray[np.float32]) -> NDArray[np.float64]:
    """Row-wise products summed along the row: unlike a matrix product, independent of the other rows."""
    return (vectors * vector).sum(axis=1).astype(np.float64)
