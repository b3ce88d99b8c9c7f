"""The oracle: every live chunk gets its full score, windows included, block by block for a whole batch.

Shapes: n chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from mllm_plugin.search.query import Query
from mllm_plugin.search.rank import Candidates, best_rows
from mllm_plugin.search.scan import Scan
from mllm_plugin.search.view import View
from mllm_plugin.shapes import Float64, Int64
from mllm_plugin.store.decoded import Image
from mllm_plugin.store.snapshot import Snapshot

_BLOCK_CHUNKS = 1024


def exact_candidates(view: View, image: Image, queries: Sequence[Query], *, most: int) -> list[Candidates]:
    """The `most` best chunks of each query by their full score."""
    found = Scan.of(view, image, queries)
    ids = np.sort(found.evidence[0].ids)
    rows = np.searchsorted(ids, found.evidence[0].ids)
    windows = _best_windows(view.snapshot, ids, queries)
    results = []
    for place, own in enumerate(found.evidence):
        cosine, window = own.cosine.astype(np.float64), windows[place][rows]
        window = np.where(np.isnan(window), cosine, window)
        scores = view.hierarchy.leaf_ranker.score(cosine, window, own.lexical) + view.added(own.ids)
        results.append(found.candidates(place, best_rows(scores, own.ids, most)))
    return results


def _best_windows(
    snapshot: Snapshot, ids: Int64[np.ndarray, " n"], queries: Sequence[Query]
) -> list[Float64[np.ndarray, " n"]]:
    """Window evidence of every chunk for each query; NaN where a chunk has no windows."""
    best = [np.full(len(ids), np.nan) for _ in queries]
    probes = [query.vectors if query.windows is None else query.windows for query in queries]
    firsts = np.cumsum([0, *map(len, probes)])
    vectors = np.concatenate(probes)
    for start in range(0, len(ids), _BLOCK_CHUNKS):
        windows = snapshot.windows(ids[start : start + _BLOCK_CHUNKS])
        has = np.flatnonzero(windows.sizes)
        if not len(has):
            continue
        scores = np.maximum.reduceat(windows.vectors @ vectors.T, windows.starts[has], axis=0)
        for place, (query, (first, last)) in enumerate(zip(queries, pairwise(firsts), strict=True)):
            mine = scores[:, first:last]
            best[place][start + has] = mine.max(axis=1) if query.windows is None else mine.mean(axis=1)
    return best
