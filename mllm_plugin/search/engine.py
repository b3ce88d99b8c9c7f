"""Runs a search over one or several namespaces of one snapshot and returns hits."""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import apsw
import numpy as np

from mllm_plugin.config import MemoryConfig
from mllm_plugin.protocols import Reranker
from mllm_plugin.search import finalists
from mllm_plugin.search.allowed import Allowed, AllowedCache
from mllm_plugin.search.candidates import Candidates, View, scan
from mllm_plugin.search.exact import exact_candidates
from mllm_plugin.search.paths import trace_paths
from mllm_plugin.search.query import Query
from mllm_plugin.search.walk import walk
from mllm_plugin.store.blocks import BlockCache
from mllm_plugin.store.hierarchies import HierarchyInUse
from mllm_plugin.store.image import Image, build_image
from mllm_plugin.store.namespaces import NamespaceRow
from mllm_plugin.types import Hit, Mode, Namespace, PathStep

MOST_QUERIES = 64  # searched at once: a scan keeps some bytes per query and chunk


@dataclass(frozen=True)
class Request:
    """What a search is asked for, checked; see `MemoryIndex.search`."""

    k: int
    beam_width: int
    mode: Mode
    condition: Mapping[str, Any] | None
    exclude_labels: tuple[str, ...]
    unique_documents: bool
    reranker: Reranker | None = None


class Ranked(NamedTuple):
    """A scored chunk before its text is read."""

    score: float
    chunk_id: int


class Place(NamedTuple):
    """Where a chunk lies."""

    document_rowid: int
    document_id: str
    start: int
    end: int
    node_id: int


class Searcher:
    """Searches snapshots of one memory; shared by threads.

    Attributes:
        profile: Of the last search in this thread: `timings` (seconds per stage) and `scored` (embeddings
            compared with each query).
    """

    def __init__(self, config: MemoryConfig, hierarchies: HierarchyInUse, dim: int) -> None:
        self._config, self._search, self._hierarchies, self._dim = config, config.search, hierarchies, dim
        self._blocks = BlockCache(config.search.cache_bytes, dim)
        self._images: OrderedDict[int, Image] = OrderedDict()
        self._image_bytes = 0
        self._lock = threading.Lock()
        self._allowed = AllowedCache()
        self.profile = threading.local()

    def search(
        self, tx: apsw.Connection, rows: Sequence[NamespaceRow], queries: Sequence[Query], request: Request
    ) -> list[list[Hit]]:
        """Returns the hits of each query, best first, merged over the namespaces."""
        self.profile.scored = []
        hits: list[list[Hit]] = []
        for start in range(0, len(queries), MOST_QUERIES):
            hits += self._search_group(tx, rows, queries[start : start + MOST_QUERIES], request)
        return hits

    def _search_group(
        self, tx: apsw.Connection, rows: Sequence[NamespaceRow], queries: Sequence[Query], request: Request
    ) -> list[list[Hit]]:
        most = max(self._search.rescore, 2 * request.k)
        scored = [0] * len(queries)
        merged: list[list[Hit]] = [[] for _ in queries]
        for view, allowed in self.views(tx, rows, request):
            if allowed is not None and not len(allowed.chunk_ids):
                continue
            for place, hits in enumerate(
                self._search_wide(view, queries, request, allowed, request.beam_width, most)
            ):
                merged[place].extend(hits)
                scored[place] += self.profile.last[place]
        self.profile.scored += scored
        return [sorted(hits, key=_order)[: request.k] for hits in merged]

    def views(
        self, tx: apsw.Connection, rows: Sequence[NamespaceRow], request: Request
    ) -> Iterator[tuple[View, Allowed | None]]:
        """Each namespace with live chunks, and which of these the request's filter lets through."""
        hierarchy = self._hierarchies.of(tx)
        for row in rows:
            if row.root_id is None or not row.live_chunks:
                continue
            view = View(tx, row, self._blocks, hierarchy, self._config.lexical)
            with self.stage("filter"):
                allowed = self._allowed.get(tx, row, request.condition, request.exclude_labels)
            yield view, allowed

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time spent inside to `profile.timings`."""
        started = time.perf_counter()
        yield
        timings = self.profile.__dict__.setdefault("timings", {})
        timings[name] = timings.get(name, 0.0) + time.perf_counter() - started

    # -- one namespace
    # -------------------------------------------------------------------------------------------

    def _search_wide(
        self,
        view: View,
        queries: Sequence[Query],
        request: Request,
        allowed: Allowed | None,
        width: int,
        most: int,
    ) -> list[list[Hit]]:
        """Searches with a width; queries that found too few documents are searched again, wider."""
        with self.stage("walk"):
            found = self._candidates(view, queries, request, allowed, width, most)
        with self.stage("score"):
            ranked = [self._rank(view, query, one) for query, one in zip(queries, found, strict=True)]
        with self.stage("fetch"):
            hits = [
                self._hits(view, query, scored, request)
                for query, scored in zip(queries, ranked, strict=True)
            ]
        self.profile.last = [one.scored for one in found]
        if not request.unique_documents:
            return hits
        short = [
            place for place, one in enumerate(found) if len(hits[place]) < request.k and not one.complete
        ]
        if short:
            scored = self.profile.last
            wider = self._search_wide(
                view, [queries[place] for place in short], request, allowed, 4 * width, 4 * most
            )
            for place, more, count in zip(short, wider, self.profile.last, strict=True):
                hits[place], scored[place] = more, count
            self.profile.last = scored
        return hits

    def _candidates(
        self,
        view: View,
        queries: Sequence[Query],
        request: Request,
        allowed: Allowed | None,
        width: int,
        most: int,
    ) -> list[Candidates]:
        mode = request.mode
        if mode == "auto":
            mode = "flat" if view.row.live_chunks <= self._search.flat_below else "beam"
        if mode == "beam":
            return walk(view, queries, width=width, most=most, need=request.k, allowed=allowed)
        image = self._image(view)
        if mode == "flat":
            return scan(view, image, queries, most=most, allowed=allowed)
        return exact_candidates(view, image, queries, most=most, allowed=allowed)

    def _image(self, view: View) -> Image:
        row = view.row
        with self._lock:
            previous = self._images.get(row.namespace_id)
            if previous is not None and previous.version == row.version:
                self._images.move_to_end(row.namespace_id)
                return previous
        image = build_image(view.tx, row.namespace_id, row.version, self._dim, previous)
        with self._lock:
            replaced = self._images.pop(row.namespace_id, None)
            self._image_bytes += image.nbytes - (replaced.nbytes if replaced else 0)
            self._images[row.namespace_id] = image
            while self._image_bytes > self._search.cache_bytes and len(self._images) > 1:
                self._image_bytes -= self._images.popitem(last=False)[1].nbytes
        return image

    def _rank(self, view: View, query: Query, found: Candidates) -> list[Ranked]:
        """Candidates with all their evidence, best first, lower chunk ids first on ties."""
        leaf = view.hierarchy.leaf_ranker
        cosine = finalists.cosines(query, found.vectors)
        windows = finalists.read_windows(view.tx, found.ids, self._dim)
        window = finalists.best_windows(query, windows, cosine)
        scores = leaf.score(cosine, window, found.lexical)
        order = np.lexsort((found.ids, -scores))
        return [Ranked(*pair) for pair in zip(scores[order].tolist(), found.ids[order].tolist(), strict=True)]

    # -- hits
    # ----------------------------------------------------------------------------------------------------

    def _hits(self, view: View, query: Query, ranked: list[Ranked], request: Request) -> list[Hit]:
        places = self._first_places(view.tx, ranked, request)
        paths = trace_paths(view, query, {place.node_id for _, place in places})
        return list(_read_hits(view, places, paths))

    @staticmethod
    def _first_places(
        tx: apsw.Connection, ranked: list[Ranked], request: Request
    ) -> list[tuple[Ranked, Place]]:
        """The best k with where they lie; ties are settled by document id and offset, not by insertion."""
        kept: list[tuple[Ranked, Place]] = []
        documents: set[int] = set()
        for one in ranked:
            if len(kept) >= request.k and one.score < kept[request.k - 1][0].score:
                break
            place = Place(
                *tx.execute(
                    'SELECT d.document_rowid, d.id, c.start, c."end", c.node_id FROM chunks c '
                    "JOIN documents d USING (document_rowid) WHERE c.chunk_id = ?",
                    (one.chunk_id,),
                ).get
            )
            if request.unique_documents and place.document_rowid in documents:
                continue
            documents.add(place.document_rowid)
            kept.append((one, place))
        kept.sort(key=lambda pair: (-pair[0].score, pair[1].document_id, pair[1].start))
        return kept[: request.k]


def _read_hits(
    view: View,
    places: list[tuple[Ranked, Place]],
    paths: Mapping[int, tuple[PathStep, ...]],
) -> Iterator[Hit]:
    namespace: Namespace = view.row.namespace
    documents: dict[int, tuple[str, str]] = {}
    for ranked, place in places:
        if place.document_rowid not in documents:
            text, metadata = view.tx.execute(
                "SELECT text, metadata FROM documents WHERE document_rowid = ?", (place.document_rowid,)
            ).get
            documents[place.document_rowid] = text.decode("utf-8"), metadata
        text, metadata = documents[place.document_rowid]
        yield Hit(
            document_id=place.document_id,
            chunk_id=ranked.chunk_id,
            text=text[place.start : place.end],
            start=place.start,
            end=place.end,
            score=ranked.score,
            relevance=view.hierarchy.leaf_ranker.relevance(ranked.score),
            metadata=json.loads(metadata),
            path=(*paths[place.node_id], PathStep(1, ranked.chunk_id, ranked.score)),
            namespace=namespace,
        )


def _order(hit: Hit) -> tuple[float, Namespace, str, int]:
    return (-hit.score, hit.namespace, hit.document_id, hit.start)
