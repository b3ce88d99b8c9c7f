"""What a language model reads: the hits of a query, and beside them the best embeddings of every level.

Nodes come from a walk of the levels above the chunks, in every search mode. The ancestors of the hits would
not do: a level has better nodes than these, and a few hits in one place have only a few. The walk is as wide
as the beam in modes beam and flat, where it costs a few thousand products whatever the size of the memory and
finds the nodes that a comparison with all of the level would; in mode exact it does compare with all.

No node tells of what the caller may not see: it is live, of the namespaces asked for, and under a filter
folded anew from what matches, see `Refolder`. Scores are then those of the refolded nodes.

Shapes: n embeddings, r vectors per embedding, d dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mllm_plugin.search.engine import MOST_QUERIES, Clock, Request, Searcher
from mllm_plugin.search.hits import stored_chunks
from mllm_plugin.search.labels import Below
from mllm_plugin.search.query import Query, View
from mllm_plugin.search.rank import cosines
from mllm_plugin.search.refold import Nodes, Refolder
from mllm_plugin.search.rerank import hits_needed, reranked
from mllm_plugin.search.walk import Beam, descend
from mllm_plugin.store.decoded import NodeRef
from mllm_plugin.tree.editor import LOWEST_LEVEL
from mllm_plugin.types import Hit, MemoryEmbedding, Namespace, Recall, SearchStatistics

Spans = Callable[[Sequence[str], Sequence[int]], list[Sequence[tuple[int, int]]]]
Levels = dict[int, list[MemoryEmbedding]]

_WINDOW, _CHUNK = 0, 1


def recall(
    searcher: Searcher,
    views: Sequence[View],
    queries: Sequence[Query],
    request: Request,
    clock: Clock,
    *,
    nodes: int,
    words: int = 0,
    faces: int = 0,
    spans: Spans,
) -> list[Recall]:
    """Searches, and gathers for each query the best embeddings of every level from the same snapshot.

    Args:
        searcher: Of the memory.
        views: Namespaces of one snapshot, as the searcher gives them.
        queries: What is looked for.
        request: How.
        clock: Of the call.
        nodes: Most nodes of each level from 2 up.
        words: Of each node's label.
        faces: Chunks shown of each node.
        spans: Gives the character spans of the windows of chunks: of their texts, and how many each has.
    """
    wider = replace(request, k=hits_needed(request.reranker, request.k))
    found = searcher.search(views, queries, wider, clock)
    with clock.stage("recall"):
        hits = reranked(request.reranker, queries, found, request.k)
        upper = [
            own
            for start in range(0, len(queries), MOST_QUERIES)
            for own in _merged(views, queries[start : start + MOST_QUERIES], request, nodes)
        ]
        if words or faces:
            upper = [_told(searcher, views, own, words, faces) for own in upper]
        known = {view.row.namespace: view for view in views}
        levels = [
            _levels(known, query, own, above.levels, spans)
            for query, own, above in zip(queries, hits, upper, strict=True)
        ]
    return [
        Recall(query.text, tuple(own), found, above.added_to(own.statistics, clock))
        for query, own, found, above in zip(queries, hits, levels, upper, strict=True)
    ]


@dataclass(frozen=True)
class Upper:
    """The best nodes of every level for one query, and what the walk to them cost; see `Frontier`."""

    levels: Levels
    scored: int = 0
    visited: int = 0

    def added_to(self, statistics: SearchStatistics, clock: Clock) -> SearchStatistics:
        """The statistics of the search for hits with those of this walk."""
        return replace(
            statistics,
            embeddings_scored=statistics.embeddings_scored + self.scored,
            nodes_visited=statistics.nodes_visited + self.visited,
            timings=dict(clock.seconds),
        )


def _levels(
    views: Mapping[Namespace, View], query: Query, hits: Sequence[Hit], upper: Levels, spans: Spans
) -> dict[int, tuple[MemoryEmbedding, ...]]:
    windows = sorted(_windows(views, query, hits, spans), key=lambda window: -window.score)
    levels = {_WINDOW: windows, _CHUNK: list(_chunks(views, hits)), **upper}
    return {level: tuple(levels[level]) for level in sorted(levels)}


# -- windows and chunks of the hits


def _windows(
    views: Mapping[Namespace, View], query: Query, hits: Sequence[Hit], spans: Spans
) -> Iterator[MemoryEmbedding]:
    """All windows of the hits, hit by hit.

    On 300 questions of squad the best 4 windows of 5 hits by their own cosine hold the answer for .71, with
    the hit's score added for .83: which chunk a window is from says more than the window itself.
    """
    if not hits:
        return
    snapshot = views[hits[0].namespace].snapshot  # of all of them
    windows = snapshot.windows(np.array([hit.chunk_id for hit in hits], dtype=np.int64))
    scores = cosines(query, windows.vectors)
    places = spans([hit.text for hit in hits], windows.sizes.tolist())
    for hit, first, own in zip(hits, windows.starts.tolist(), places, strict=True):
        for row, span in enumerate(own, first):
            yield MemoryEmbedding(
                level=_WINDOW,
                vectors=windows.vectors[row : row + 1],
                score=hit.score + float(scores[row]),
                node_id=hit.chunk_id,
                document_id=hit.document_id,
                start=hit.start + span[0],
                end=hit.start + span[1],
                namespace=hit.namespace,
            )


def _chunks(views: Mapping[Namespace, View], hits: Sequence[Hit]) -> Iterator[MemoryEmbedding]:
    """The embeddings of the hits' chunks."""
    if not hits:
        return
    snapshot = views[hits[0].namespace].snapshot
    places = snapshot.places(hit.chunk_id for hit in hits)
    versions = snapshot.versions({place.node_id for place in places.values()})
    for hit in hits:
        home = places[hit.chunk_id].node_id
        children = views[hit.namespace].children(NodeRef(home, versions[home]))
        yield MemoryEmbedding(
            level=_CHUNK,
            vectors=children.vector(hit.chunk_id).copy(),
            score=hit.score,
            node_id=hit.chunk_id,
            document_id=hit.document_id,
            start=hit.start,
            end=hit.end,
            namespace=hit.namespace,
        )


# -- nodes


def best_nodes(views: Sequence[View], query: Query, request: Request, nodes: int) -> list[MemoryEmbedding]:
    """The best lowest nodes for a query, best first."""
    [found] = _merged(views, [query], request, nodes)
    return found.levels.get(LOWEST_LEVEL, [])


def _told(searcher: Searcher, views: Sequence[View], upper: Upper, words: int, faces: int) -> Upper:
    """The same nodes with their labels and their most central chunks."""
    known = {view.row.namespace: view for view in views}
    ids = {node.node_id for found in upper.levels.values() for node in found}
    versions = views[0].snapshot.versions(ids) if views else {}

    def told(node: MemoryEmbedding) -> MemoryEmbedding:
        view, ref = known[node.namespace], NodeRef(node.node_id, versions[node.node_id])
        below = Below.of(view, ref) if faces else None
        return replace(
            node,
            words=searcher.labeller.label(view, ref, words, below) if words else (),
            faces=tuple(stored_chunks(view, below.central(faces))) if below else (),
        )

    return replace(upper, levels={level: list(map(told, found)) for level, found in upper.levels.items()})


def _merged(views: Sequence[View], queries: Sequence[Query], request: Request, nodes: int) -> list[Upper]:
    """The best nodes of every level of each query [b], those of all namespaces by score."""
    by_view = [_visited(view, queries, request, nodes) for view in views]
    merged = []
    for place in range(len(queries)):
        found = [own[place] for own in by_view]
        levels = {
            level: sorted((node for own in found for node in own.levels.get(level, ())), key=_order)[:nodes]
            for level in {level for own in found for level in own.levels}
        }
        merged.append(Upper(levels, sum(own.scored for own in found), sum(own.visited for own in found)))
    return merged


def _visited(view: View, queries: Sequence[Query], request: Request, nodes: int) -> list[Upper]:
    """The best nodes of every level of one namespace for each query [b]."""
    top = view.root_level() - 1
    if not view.answers or not nodes or top < LOWEST_LEVEL:
        return [Upper({level: [] for level in range(LOWEST_LEVEL, top + 1)}) for _ in queries]
    refolder = Refolder(view)
    _, *steps = descend(view, queries, _beam(view, request, nodes))  # the root has no embedding
    found = []
    for place, query in enumerate(queries):
        frontiers = [step[place] for step in steps]
        levels = {
            level: _best(view, level, query, own, nodes)
            for level, own in enumerate(refolder.nodes(frontiers), LOWEST_LEVEL)
        }
        found.append(Upper(levels, frontiers[-1].scored, frontiers[-1].visited))
    return found


def _beam(view: View, request: Request, nodes: int) -> Beam:
    """As wide as that of the search for chunks; everything in mode exact."""
    if request.mode == "exact":
        return Beam(view.row.live_chunks, view.row.live_chunks, least=nodes)
    return Beam(request.beam_width, request.k, least=nodes)


def _best(view: View, level: int, query: Query, found: Nodes, nodes: int) -> list[MemoryEmbedding]:
    if not len(found.ids):
        return []
    scores = view.hierarchy.ranker(level).score(query.vectors[None], found.vectors)[0]
    return [
        MemoryEmbedding(
            level=level,
            vectors=found.vectors[row].copy(),
            score=float(scores[row]),
            node_id=int(found.ids[row]),
            document_id="",
            start=0,
            end=0,
            namespace=view.row.namespace,
        )
        for row in np.lexsort((found.ids, -scores))[:nodes].tolist()
    ]


def _order(node: MemoryEmbedding) -> tuple[float, Namespace, int]:
    return (-node.score, node.namespace, node.node_id)
