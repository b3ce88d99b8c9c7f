"""The scan: all chunks of a namespace compared with the queries, by pooled vectors and words.

Shapes: n chunks, k of the best, d dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mllm_plugin.search.query import Query
from mllm_plugin.search.rank import Candidates, best_candidates, cosines_of, joined
from mllm_plugin.search.view import View
from mllm_plugin.shapes import Bool, Float32, Float64, Int64
from mllm_plugin.store.decoded import Image


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
            cosine = joined([part[place][rows] for part, rows in zip(scores, keep, strict=True)])
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
