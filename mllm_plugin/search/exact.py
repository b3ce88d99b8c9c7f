"""The oracle: every live chunk gets its full score, windows included, block by block for all queries at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import apsw
import numpy as np
from numpy.typing import NDArray

from mllm_plugin.search.allowed import Allowed
from mllm_plugin.search.candidates import Candidates, View, best_rows, scan
from mllm_plugin.search.query import Query
from mllm_plugin.store.codec import unpack_windows
from mllm_plugin.store.image import Image

_BLOCK_CHUNKS = 1024


def exact_candidates(
    view: View, image: Image, queries: Sequence[Query], *, most: int, allowed: Allowed | None
) -> list[Candidates]:
    """The `most` best chunks of each query by their full score."""
    everything = scan(view, image, queries, most=view.row.live_chunks, allowed=allowed)
    ids = np.sort(everything[0].ids)
    windows = _best_windows(view.tx, ids, queries)
    results = []
    for query, found, window in zip(queries, everything, windows, strict=True):
        cosine = (found.vectors @ query.vectors.T).max(axis=1).astype(np.float64)
        window = window[np.searchsorted(ids, found.ids)]
        window = np.where(np.isnan(window), cosine, window)
        best = best_rows(view.hierarchy.leaf_ranker.score(cosine, window, found.lexical), found.ids, most)
        results.append(
            Candidates(
                found.ids[best], found.vectors[best], found.lexical[best], len(best) == len(ids), len(ids)
            )
        )
    return results


def _best_windows(
    tx: apsw.Connection, ids: NDArray[np.int64], queries: Sequence[Query]
) -> list[NDArray[np.float64]]:
    """Best window cosine of every chunk [n] for each query; NaN where a chunk has no windows."""
    best = [np.full(len(ids), np.nan) for _ in queries]
    dim = queries[0].vectors.shape[1]
    for rows, stacked, starts in _window_blocks(tx, ids, dim):
        for place, query in enumerate(queries):
            scores = (stacked @ query.vectors.T).max(axis=1)
            best[place][rows] = np.maximum.reduceat(scores, starts)
    return best


def _window_blocks(
    tx: apsw.Connection, ids: NDArray[np.int64], dim: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]]:
    """Blocks of windows [w, d] with the rows they belong to and where each row's windows start."""
    for first in range(0, len(ids), _BLOCK_CHUNKS):
        block = ids[first : first + _BLOCK_CHUNKS]
        stored = _stored_windows(tx, block)
        rows = np.array([row for row, chunk in enumerate(block.tolist()) if chunk in stored], dtype=np.int64)
        if not len(rows):
            continue
        windows = [unpack_windows(stored[chunk], dim) for chunk in block[rows].tolist()]
        sizes = np.array([len(one) for one in windows])
        yield first + rows, np.concatenate(windows), np.cumsum(sizes) - sizes


def _stored_windows(tx: apsw.Connection, ids: NDArray[np.int64]) -> dict[int, bytes]:
    """Packed windows by chunk id: one range where the ids lie close together, else one by one."""
    first, last = int(ids[0]), int(ids[-1])
    if last - first < 4 * len(ids):
        rows = tx.execute("SELECT chunk_id, data FROM windows WHERE chunk_id BETWEEN ? AND ?", (first, last))
        return {chunk: data for chunk, data in rows if data}
    query = "SELECT data FROM windows WHERE chunk_id = ?"
    found = ((chunk, tx.execute(query, (chunk,)).get) for chunk in ids.tolist())
    return {chunk: data for chunk, data in found if data}
