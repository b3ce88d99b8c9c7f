"""The scan: all chunks of a namespace compared with the queries, by pooled vectors and words.

With windows too it is the oracle: every live chunk gets its full score, block by block for a whole batch.

Shapes: n chunks, k of the best, d dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mllm_plugin.search.query import Query, View
from mllm_plugin.search.rank import Candidates, best_candidates, best_rows, cosines_of, joined
from mllm_plugin.shapes import Bool, Float32, Float64, Int64
from mllm_plugin.store.decoded import Image
from mllm_plugin.store.snapshot import Snapshot

_BLOCK_CHUNKS = 1024


@dataclass(frozen=True)
class Evidence:
    """What a scan knows of every chunk that may be returned, for one query; rows as in `ids`."""

    ids: Int64[np.ndarray, " n"]
    cosine: Float32[np.ndarray, " n"]
    lexical: Float64[np.ndarray, " n"]


@dataclass(frozen=True)
class Scan:
    """A namespace's chunks compared with some queries.

    Attributes:
        image: All of the chunks.
        keep: Which rows of each part may be returned.
        evidence: Of each query.
    """

    image: Image
    keep: Sequence[Bool[np.ndarray, " _"]]
    evidence: Sequence[Evidence]

    @classmethod
    def of(cls, view: View, image: Image, queries: Sequence[Query]) -> Scan:
        """Compares every chunk of the image with the queries."""
        keep = [
            view.admitted(part.current() if view.through_masks else part.live, part.ids)
            for part in image.parts
        ]
        parts = list(zip(image.parts, keep, strict=True))
        ids = joined([part.ids[rows] for part, rows in parts], np.int64)
        scores = [cosines_of(view, queries, part.vectors[:, None]) for part in image.parts]
        found = []
        for place, (terms, _) in enumerate(view.words(queries)):
            cosine = joined([part[place][rows] for part, rows in zip(scores, keep, strict=True)], np.float32)
            lexical = joined([part.lexical(terms, view.lexical)[rows] for part, rows in parts])
            found.append(Evidence(ids, cosine, lexical))
        return cls(image, keep, found)

    def candidates(self, place: int, rows: Int64[np.ndarray, " k"]) -> Candidates:
        """Chosen rows of one query's evidence."""
        evidence = self.evidence[place]
        return Candidates(
            ids=evidence.ids[rows],
            vectors=self._vectors(rows),
            lexical=evidence.lexical[rows],
            complete=len(rows) == len(evidence.ids),
            scored=len(evidence.ids),
        )

    def _vectors(self, rows: Int64[np.ndarray, " k"]) -> Float32[np.ndarray, "k d"]:
        """Vectors of rows counted over the kept rows of all parts."""
        vectors = np.empty((len(rows), self.image.parts[0].vectors.shape[1]), dtype=np.float32)
        first = 0
        for part, mask in zip(self.image.parts, self.keep, strict=True):
            kept = np.flatnonzero(mask)
            mine = (rows >= first) & (rows < first + len(kept))
            vectors[mine] = part.vectors[kept[rows[mine] - first]]
            first += len(kept)
        return vectors


def scan(view: View, image: Image, queries: Sequence[Query], *, most: int) -> list[Candidates]:
    """The `most` best chunks of each query by exact pooled cosine and lexical evidence."""
    found = Scan.of(view, image, queries)
    partial = view.hierarchy.leaf_ranker.partial
    return [
        found.candidates(place, best_candidates(view, partial(own.cosine, own.lexical), own.ids, most))
        for place, own in enumerate(found.evidence)
    ]


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
