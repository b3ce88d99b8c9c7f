"""The oracle: every live chunk gets its full score, windows included, block by block for a whole batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import apsw
import numpy as np
from numpy.typing import NDArray

from mllm_plugin.search.allowed import Allowed
from mllm_plugin.search.candidates import Candidates, View, best_rows, chosen, evidence
from mllm_plugin.search.query import Query
from mllm_plugin.store.codec import Windows, unpack_all
from mllm_plugin.store.image import Image

_BLOCK_CHUNKS = 1024


def exact_candidates(
    view: View, image: Image, queries: Sequence[Query], *, most: int, allowed: Allowed | None
) -> list[Candidates]:
    """The `most` best chunks of each query by their full score."""
    keep, found = evidence(view, image, queries, allowed)
    ids = np.sort(found[0].ids)
    rows = np.searchsorted(ids, found[0].ids)
    best = []
    for one, window in zip(found, _best_windows(view.tx, ids, queries), strict=True):
        cosine = one.cosine.astype(np.float64)
        window = np.where(np.isnan(window[rows]), cosine, window[rows])
        best.append(best_rows(view.hierarchy.leaf_ranker.score(cosine, window, one.lexical), one.ids, most))
    return chosen(image, keep, found, best)


def _best_windows(
    tx: apsw.Connection, ids: NDArray[np.int64], queries: Sequence[Query]
) -> list[NDArray[np.float64]]:
    """Window evidence of every chunk [n] for each query; NaN where a chunk has no windows."""
    best = [np.full(len(ids), np.nan) for _ in queries]
    probes = [query.vectors if query.windows is None else query.windows for query in queries]
    firsts = np.cumsum([0, *map(len, probes)])
    vectors = np.concatenate(probes)
    for rows, windows in _window_blocks(tx, ids, vectors.shape[1]):
        scores = np.maximum.reduceat(windows.vectors @ vectors.T, windows.starts, axis=0)
        for place, (query, (first, last)) in enumerate(zip(queries, pairwise(firsts), strict=True)):
            mine = scores[:, first:last]
            best[place][rows] = mine.max(axis=1) if query.windows is None else mine.mean(axis=1)
    return best


def _window_blocks(
    tx: apsw.Connection, ids: NDArray[np.int64], dim: int
) -> Iterator[tuple[NDArray[np.int64], Windows]]:
    """Blocks of windows with the rows of `ids` that they belong to; rows without windows are left out."""
    for first in range(0, len(ids), _BLOCK_CHUNKS):
        block = ids[first : first + _BLOCK_CHUNKS].tolist()
        stored = _stored_windows(tx, block)
        rows = [row for row, chunk in enumerate(block) if chunk in stored]
        if rows:
            yield first + np.array(rows), unpack_all([stored[block[row]] for row in rows], dim)


def _stored_windows(tx: apsw.Connection, ids: list[int]) -> dict[int, bytes]:
    """Packed windows by chunk id: one range where the ids lie close together, else one by one."""
    if ids[-1] - ids[0] < 4 * len(ids):
        rows = tx.execute(
            "SELECT chunk_id, data FROM windows WHERE chunk_id BETWEEN ? AND ?", (ids[0], ids[-1])
        )
        return {chunk: data for chunk, data in rows if data}
    query = "SELECT data FROM windows WHERE chunk_id = ?"
    found = ((chunk, tx.execute(query, (chunk,)).get) for chunk in ids)
    return {chunk: data for chunk, data in found if data}
