"""Many small namespaces scanned at once, as if their chunks lay in one: each by its own words' statistics.

A search below a prefix may meet thousands of them, and a scan of each by itself is mostly overhead. Scores
are those of a scan of each, bit for bit; only the finalists are chosen among all of them together.

Shapes: n chunks, v namespaces, e term entries, t terms of a query with their other forms, d dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from mllm_plugin.config import LexicalConfig
from mllm_plugin.lru import LRU
from mllm_plugin.search.query import Query, View
from mllm_plugin.search.rank import Candidates, best_candidates, cosines_of
from mllm_plugin.shapes import Bool, Float32, Float64, Int64, UInt8, UInt32
from mllm_plugin.store.decoded import Image, ImageCache
from mllm_plugin.text.lexical import asked_terms, best_parts, squared_idfs
from mllm_plugin.types import Namespace

_KEPT = 4  # unions: a process searches few prefixes by turns


@dataclass(frozen=True)
class Union:
    """The images of some namespaces, one after another.

    Attributes:
        owners: The place among the namespaces of each chunk.
        live: Chunks that are unmasked.
        current: Chunks that are there, masked or not.
        hashes, counts, rows: Term entries in order of their hash, and the chunk that each belongs to.
    """

    owners: Int64[np.ndarray, " n"]
    ids: Int64[np.ndarray, " n"]
    vectors: Float32[np.ndarray, "n d"]
    live: Bool[np.ndarray, " n"]
    current: Bool[np.ndarray, " n"]
    lengths: UInt32[np.ndarray, " n"]
    hashes: UInt32[np.ndarray, " e"]
    counts: UInt8[np.ndarray, " e"]
    rows: Int64[np.ndarray, " e"]

    @classmethod
    def of(cls, images: Sequence[Image]) -> Union:
        """Puts images side by side."""
        parts = [(place, part) for place, image in enumerate(images) for part in image.parts]
        sizes = np.array([len(part.ids) for _, part in parts])
        firsts = np.cumsum(sizes) - sizes
        hashes = np.concatenate([part.hashes for _, part in parts])
        order = np.argsort(hashes, kind="stable")
        rows = np.concatenate([part.rows + first for (_, part), first in zip(parts, firsts, strict=True)])
        return cls(
            owners=np.repeat([place for place, _ in parts], sizes),
            ids=np.concatenate([part.ids for _, part in parts]),
            vectors=np.concatenate([part.vectors for _, part in parts]),
            live=np.concatenate([part.live for _, part in parts]),
            current=np.concatenate([part.current() for _, part in parts]),
            lengths=np.concatenate([part.lengths for _, part in parts]),
            hashes=hashes[order],
            counts=np.concatenate([part.counts for _, part in parts])[order],
            rows=rows[order],
        )

    def entries(self, hashes: UInt32[np.ndarray, " t"]) -> list[Int64[np.ndarray, " _"]]:
        """The term entries of each hash."""
        first = np.searchsorted(self.hashes, hashes, side="left")
        last = np.searchsorted(self.hashes, hashes, side="right")
        return [np.arange(a, b) for a, b in zip(first, last, strict=True)]

    def bounds(self) -> Int64[np.ndarray, " _"]:
        """First chunk of each namespace and the end of the last [v + 1]."""
        return np.searchsorted(self.owners, np.arange(self.owners[-1] + 2))


class UnionCache:
    """The unions last used; each takes over the images of namespaces, which are read where they changed."""

    def __init__(self, images: ImageCache) -> None:
        self._images = images
        self._unions: LRU[tuple[tuple[int, int], ...], Union] = LRU(_KEPT)

    def get(self, views: Sequence[View]) -> Union:
        """The union of the namespaces of some views."""
        key = tuple((view.row.namespace_id, view.row.version) for view in views)
        union = self._unions.get(key)
        if union is None:
            union = Union.of([self._images.get(view.snapshot, view.row) for view in views])
            for stale in [old for old in self._unions if [one for one, _ in old] == [one for one, _ in key]]:
                self._unions.pop(stale)
            self._unions.put(key, union, 1)
        return union


class Weighed(NamedTuple):
    """The terms of a query in many namespaces: `QueryTerms` of all.

    `terms` are the entries of each term, from the first to behind the last.
    """

    hashes: UInt32[np.ndarray, " t"]
    terms: list[tuple[int, int]]
    weights: Float64[np.ndarray, "t v"]
    mean_lengths: Float64[np.ndarray, " v"]


@dataclass(frozen=True)
class Together:
    """Some views of one snapshot that are searched at once."""

    views: Sequence[View]
    union: Union

    def namespace_of(self, chunk_id: int) -> Namespace:
        """The namespace of a chunk."""
        return self.view_of(chunk_id).row.namespace

    def view_of(self, chunk_id: int) -> View:
        """The view of a chunk's namespace."""
        at = int(np.flatnonzero(self.union.ids == chunk_id)[0])
        return self.views[self.union.owners[at]]

    def candidates(self, queries: Sequence[Query], *, most: int) -> list[Candidates]:
        """The `most` best chunks of all namespaces for each query."""
        view, union, keep = self.views[0], self.union, np.flatnonzero(self._admitted())
        found = []
        for query, cosine in zip(queries, cosines_of(view, queries, union.vectors[:, None]), strict=True):
            lexical = self._lexical(self._weigh(query), view.lexical)
            partial = view.hierarchy.leaf_ranker.partial(cosine[keep], lexical[keep])
            rows = keep[best_candidates(view, partial, union.ids[keep], most)]
            complete = len(rows) == len(keep)
            found.append(
                Candidates(union.ids[rows], union.vectors[rows], lexical[rows], complete, scored=len(keep))
            )
        return found

    def _admitted(self) -> Bool[np.ndarray, " n"]:
        """Which chunks may be returned."""
        union = self.union
        live = union.current if self.views[0].through_masks else union.live
        if all(view.allowed is None for view in self.views):
            return live
        parts = pairwise(union.bounds().tolist())
        return np.concatenate(
            [
                view.admitted(live[first:last], union.ids[first:last])
                for view, (first, last) in zip(self.views, parts, strict=True)
            ]
        )

    def _weigh(self, query: Query) -> Weighed:
        """Weighs a query's terms as each namespace would by itself; see `QueryTerms.of`."""
        asked = asked_terms(query.text, self.views[0].snapshot.word_rule)
        hashes = np.array([one for term in asked for one in (term.term, *term.forms)], dtype=np.uint32)
        ends = np.cumsum([0, *(1 + len(term.forms) for term in asked)]).tolist()
        chunks = np.array([view.row.live_chunks for view in self.views])
        lengths = np.array([view.row.live_terms for view in self.views])
        occurs = self._frequencies(hashes)
        weights, bound = np.zeros(occurs.shape), np.zeros(len(chunks))
        rows = [occurs[first:last] for first, last in pairwise(ends)]
        together = [np.minimum(chunks, row.sum(axis=0)) for row in rows]
        counts = np.array([*(row[0] for row in rows), *together], np.int64).reshape(-1, len(chunks))
        rarity = _squared_idfs(counts, chunks)
        for place, (term, (first, last)) in enumerate(zip(asked, pairwise(ends), strict=True)):
            weights[first] = rarity[place] * term.repeats
            shared = rarity[len(asked) + place] * term.repeats
            weights[first + 1 : last] = shared * (occurs[first + 1 : last] > 0)
            bound += weights[first]
        weights /= np.where(bound > 0, bound, 1.0)
        means = np.where(chunks > 0, lengths / np.maximum(1, chunks), 1.0)
        return Weighed(hashes, list(pairwise(ends)), weights, means)

    def _frequencies(self, hashes: UInt32[np.ndarray, " t"]) -> Int64[np.ndarray, "t v"]:
        """Live chunks of each namespace that have each term."""
        union, many = self.union, len(self.views)
        rows = (union.rows[own] for own in union.entries(hashes))
        found = [np.bincount(union.owners[own[union.live[own]]], minlength=many) for own in rows]
        return np.array(found, dtype=np.int64).reshape(-1, many)

    def _lexical(self, terms: Weighed, config: LexicalConfig) -> Float64[np.ndarray, " n"]:
        """BM25 over its bound of every chunk; see `QueryTerms.score`."""
        union, total = self.union, np.zeros(len(self.union.ids))
        entries = union.entries(terms.hashes)
        for first, last in terms.terms:
            rows = np.concatenate([union.rows[own] for own in entries[first:last]])
            parts = [
                terms.weights[place, union.owners[union.rows[own]]] * self._saturated(own, terms, config)
                for place, own in enumerate(entries[first:last], first)
            ]
            rows, part = best_parts(rows, parts)
            total[rows] += part
        return total

    def _saturated(
        self, entries: Int64[np.ndarray, " e"], terms: Weighed, config: LexicalConfig
    ) -> Float64[np.ndarray, " e"]:
        rows, count = self.union.rows[entries], self.union.counts[entries].astype(np.float64)
        lengths = config.b * self.union.lengths[rows] / terms.mean_lengths[self.union.owners[rows]]
        return count / (count + config.k1 * (1 - config.b + lengths))


def _squared_idfs(
    occurs: Int64[np.ndarray, "t v"], chunks: Int64[np.ndarray, " v"]
) -> Float64[np.ndarray, "t v"]:
    """`squared_idfs` of terms that so many chunks of each namespace have."""
    width = int(chunks.max()) + 1
    pairs, places = np.unique(occurs * width + chunks, return_inverse=True)
    return np.array(squared_idfs(*divmod(pairs, width)))[places.reshape(occurs.shape)]
