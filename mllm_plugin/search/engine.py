"""Runs a search over one or several namespaces of one snapshot and returns hits."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from mllm_plugin.config import MemoryConfig
from mllm_plugin.hierarchy import LeafRanker
from mllm_plugin.hierarchy.leaf import Setting
from mllm_plugin.image.keeper import Images
from mllm_plugin.protocols import Reranker
from mllm_plugin.search.allowed import Allowed, AllowedCache
from mllm_plugin.search.hits import Chosen, Told, best, choose, read_hits
from mllm_plugin.search.imaged import candidates_of
from mllm_plugin.search.labels import Labeller
from mllm_plugin.search.query import Query, Recency, View
from mllm_plugin.search.rank import Candidates, rank, rank_in_setting
from mllm_plugin.search.scan import exact_candidates, scan
from mllm_plugin.search.together import Together, UnionCache
from mllm_plugin.search.walk import Beam, walk
from mllm_plugin.store.decoded import EmbeddingChunkCache, HierarchyInUse, ImageCache
from mllm_plugin.store.namespaces import NamespaceRow
from mllm_plugin.store.snapshot import Snapshot
from mllm_plugin.store.times import ALWAYS, When
from mllm_plugin.types import Hits, SearchMode, SearchStatistics

_SMALL = 1000  # chunks of a namespace that is scanned together with others, where there are so many of them
_MANY = 8
MOST_QUERIES = 64  # searched at once: a scan keeps some bytes per query and chunk


@dataclass(frozen=True)
class Request:
    """What a search is asked for, checked; see `MemoryIndex.search`."""

    k: int
    beam_width: int
    mode: SearchMode
    condition: Mapping[str, Any] | None
    exclude_labels: tuple[str, ...]
    unique_documents: bool
    reranker: Reranker | None = None
    when: When = ALWAYS
    recency: Recency | None = None
    neighbours: int = 0


class Clock:
    """Adds up the seconds of each stage of one call."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def stage(self, name: str) -> _Stage:
        """Adds the time spent inside."""
        return _Stage(self.seconds, name)


class _Stage:
    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self._seconds, self._name = seconds, name

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, kind: Any, *raised: Any) -> None:
        if kind is None:
            took = time.perf_counter() - self._started
            self._seconds[self._name] = self._seconds.get(self._name, 0.0) + took


@dataclass(frozen=True)
class Found:
    """What one namespace has for one query; see `Candidates` for the counts, `Setting` for the rest."""

    chosen: Sequence[Chosen]
    candidates: Candidates
    setting: Setting | None


class Searcher:
    """Searches snapshots of one memory; shared by threads.

    Attributes:
        labeller: Of the memory's nodes.
    """

    def __init__(self, config: MemoryConfig, hierarchies: HierarchyInUse, images: Images) -> None:
        self._config, self._search, self._hierarchies = config, config.search, hierarchies
        self._walks = images
        self._embedding_chunks = EmbeddingChunkCache(config.search.cache_bytes)
        self._images = ImageCache(config.search.cache_bytes)
        self._unions = UnionCache(self._images)
        self._allowed = AllowedCache()
        self.labeller = Labeller()

    def views(
        self, snapshot: Snapshot, rows: Sequence[NamespaceRow], request: Request, clock: Clock
    ) -> list[View]:
        """Each namespace with live chunks, and which of these the request's filter lets through."""
        hierarchy, lexical = snapshot.hierarchy(self._hierarchies), self._config.lexical
        views = [
            View(snapshot, row, self._embedding_chunks, hierarchy, lexical, recency=request.recency)
            for row in rows
            if row.root_id is not None and (row.live_chunks or request.when.include_masked)
        ]
        seen = request.when.restricts() or snapshot.overdue is not None
        if not (request.condition or request.exclude_labels or seen):
            return views
        through = bool(request.when.include_masked)
        with clock.stage("filter"):
            return [
                replace(view, allowed=self._let_through(view, request), through_masks=through)
                for view in views
            ]

    def search(
        self, views: Sequence[View], queries: Sequence[Query], request: Request, clock: Clock
    ) -> list[Hits]:
        """Returns the hits of each query, best first, merged over the namespaces."""
        views = [view for view in views if view.answers]
        apart, together = self._divided(views, request, clock)
        found: list[list[Found]] = []
        for start in range(0, len(queries), MOST_QUERIES):
            part = queries[start : start + MOST_QUERIES]
            by_view = [self._search_view(view, part, request, clock) for view in apart]
            by_view += [self._search_together(one, part, request, clock) for one in together]
            found += [[own[place] for own in by_view] for place in range(len(part))]
        modes: set[SearchMode] = {self._mode(view, request) for view in apart}
        modes |= {"flat"} if together else set()
        mode = modes.pop() if len(modes) == 1 else request.mode
        return self._merged(views, queries, found, mode, request, clock)

    def _let_through(self, view: View, request: Request) -> Allowed:
        wanted = request.condition, request.exclude_labels, request.when
        return self._allowed.get(view.snapshot, view.row, *wanted)

    # -- many small namespaces
    # -----------------------------------------------------------------------------------

    def _divided(
        self, views: Sequence[View], request: Request, clock: Clock
    ) -> tuple[Sequence[View], list[Together]]:
        """The views that are searched by themselves, and those that are scanned together, if any are."""
        small = [
            view for view in views if view.row.live_chunks <= _SMALL and self._mode(view, request) == "flat"
        ]
        if len(small) < _MANY or sum(view.row.live_chunks for view in small) > self._most_together(small[0]):
            return views, []
        with clock.stage("walk"):
            union = self._unions.get(small)
        chosen = {view.row.namespace_id for view in small}
        rest = [view for view in views if view.row.namespace_id not in chosen]
        return rest, [Together(small, union)]

    def _most_together(self, view: View) -> int:
        """How many chunks may lie side by side a second time: a quarter of the memory for scans."""
        return self._search.cache_bytes // (16 * view.snapshot.dim)

    def _search_together(
        self, together: Together, queries: Sequence[Query], request: Request, clock: Clock, wider: int = 1
    ) -> list[Found]:
        """Searches small namespaces; a query that found too few documents is searched again, wider."""
        most = wider * max(self._search.rescore, 2 * request.k)
        with clock.stage("walk"):
            candidates = together.candidates(queries, most=most)
        found = []
        view, k, unique = together.views[0], request.k, request.unique_documents
        with clock.stage("score"):
            ranked = [rank(view, *pair) for pair in zip(queries, candidates, strict=True)]
        with clock.stage("fetch"):
            namespace_of = together.namespace_of
            chosen = choose(view, ranked, k, unique_documents=unique, namespace_of=namespace_of)
        for query, own, hits in zip(queries, candidates, chosen, strict=True):
            if unique and len(hits) < k and not own.complete:
                found += self._search_together(together, [query], request, clock, 4 * wider)
                continue
            first = together.view_of(hits[0].found.chunk_id) if hits and query.text else None
            setting = None if first is None else self._setting(first, query, request)
            found.append(Found(hits, own, setting))
        return found

    def _setting(self, view: View, query: Query, request: Request) -> Setting | None:
        """What a search of one namespace by itself tells."""
        return rank_in_setting(view, query, self._candidates(view, [query], request, 1)[0])[1]

    # -- one namespace
    # -------------------------------------------------------------------------------------------

    def _search_view(
        self, view: View, queries: Sequence[Query], request: Request, clock: Clock, wider: int = 1
    ) -> list[Found]:
        """Searches a namespace; queries that found too few documents are searched again, wider."""
        with clock.stage("walk"):
            candidates = self._candidates(view, queries, request, wider)
        with clock.stage("score"):
            ranked = [rank_in_setting(view, *pair) for pair in zip(queries, candidates, strict=True)]
        with clock.stage("fetch"):
            k, unique = request.k, request.unique_documents
            chosen = choose(view, [own for own, _ in ranked], k, unique_documents=unique)
        found = [
            Found(own, known, setting)
            for own, known, (_, setting) in zip(chosen, candidates, ranked, strict=True)
        ]
        short = [
            place
            for place, own in enumerate(found)
            if unique and len(own.chosen) < k and not own.candidates.complete
        ]
        if short:
            again = self._search_view(view, [queries[place] for place in short], request, clock, 4 * wider)
            for place, own in zip(short, again, strict=True):
                found[place] = own
        return found

    def _candidates(
        self, view: View, queries: Sequence[Query], request: Request, wider: int
    ) -> list[Candidates]:
        mode, most = self._mode(view, request), wider * max(self._search.rescore, 2 * request.k)
        beam = Beam(wider * request.beam_width, request.k) if mode == "beam" else None
        imaged = None if mode == "exact" else self._imaged(view, queries, beam, most)
        if imaged is not None:
            return imaged
        if beam is not None:
            return walk(view, queries, beam, most=most)
        image = self._images.get(view.snapshot, view.row)
        if mode == "flat":
            return scan(view, image, queries, most=most)
        return exact_candidates(view, image, queries, most=most)

    def _imaged(
        self, view: View, queries: Sequence[Query], beam: Beam | None, most: int
    ) -> list[Candidates] | None:
        """What the search image has for a walk, or a scan without a beam; None where there is no image."""
        least = self._search.image_from
        small = least is None or view.row.live_chunks < least
        if small or view.through_masks or not view.hierarchy.by_products:
            return None
        use = partial(candidates_of, view, queries, beam, most)
        return self._walks.walked(view.snapshot, view.row, use)

    def _mode(self, view: View, request: Request) -> SearchMode:
        if request.mode != "auto":
            return request.mode
        if view.through_masks:  # a walk would not see below the masks
            return "flat"
        return "flat" if view.row.live_chunks <= self._search.flat_below else "beam"

    # -- all namespaces
    # ------------------------------------------------------------------------------------------

    def _merged(
        self,
        views: Sequence[View],
        queries: Sequence[Query],
        found: Sequence[Sequence[Found]],
        mode: SearchMode,
        request: Request,
        clock: Clock,
    ) -> list[Hits]:
        """The hits of each query from all namespaces, with what the search for them did."""
        leaf = views[0].hierarchy.leaf_ranker if views else LeafRanker()
        with clock.stage("fetch"):
            told = [_told(*pair, request.k, leaf) for pair in zip(queries, found, strict=True)]
            read = read_hits(views[0], told, request.neighbours) if views else [[] for _ in told]
            merged = [*map(Hits, read)]
        for hits, own in zip(merged, found, strict=True):
            hits.statistics = SearchStatistics(
                mode=mode,
                embeddings_scored=sum(one.candidates.scored for one in own),
                nodes_visited=sum(one.candidates.visited for one in own),
                timings=dict(clock.seconds),
            )
        return merged


def _told(query: Query, found: Sequence[Found], k: int, leaf: LeafRanker) -> Told:
    """The k best chunks from all namespaces.

    How relevant they are, the namespace of the best one tells for all, so that their order is one.
    """
    chosen = best((one for own in found for one in own.chosen), k) if len(found) != 1 else found[0].chosen
    firsts = {own.chosen[0].namespace: own.setting for own in found if own.chosen}
    setting = firsts[chosen[0].namespace] if chosen else None
    return Told(query, chosen, leaf.relevances([one.found.plain for one in chosen], setting))
