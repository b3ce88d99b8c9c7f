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
from dataclasses import replace

import apsw
import numpy as np

from mllm_plugin.search import finalists
from mllm_plugin.search.allowed import Allowed
from mllm_plugin.search.candidates import NodeRef, View
from mllm_plugin.search.engine import MOST_QUERIES, Request, Searcher
from mllm_plugin.search.query import Query
from mllm_plugin.search.refold import Nodes, Refolder
from mllm_plugin.search.rerank import hits_needed, reranked
from mllm_plugin.search.walk import Frontier, descend
from mllm_plugin.store.namespaces import NamespaceRow
from mllm_plugin.tree.editor import LEAF_LEVEL
from mllm_plugin.types import Hit, MemoryEmbedding, Namespace, Recall

Spans = Callable[[Sequence[str], Sequence[int]], list[Sequence[tuple[int, int]]]]
Levels = dict[int, list[MemoryEmbedding]]

_WINDOW, _CHUNK = 0, 1


def recall(
    searcher: Searcher,
    tx: apsw.Connection,
    rows: Sequence[NamespaceRow],
    queries: Sequence[Query],
    request: Request,
    *,
    nodes: int,
    spans: Spans,
) -> list[Recall]:
    """Searches, and gathers for each query the best embeddings of every level from the same snapshot.

    Args:
        nodes: Most nodes of each level from 2 up.
        spans: Gives the character spans of the windows of chunks: of their texts, and how many each has.
    """
    wider = replace(request, k=hits_needed(request.reranker, request.k))
    found = searcher.search(tx, rows, queries, wider)
    with searcher.stage("recall"):
        hits = reranked(request.reranker, queries, found, request.k)
        views = list(searcher.views(tx, rows, request))
        upper = [
            levels
            for start in range(0, len(queries), MOST_QUERIES)
            for levels in _merged(views, queries[start : start + MOST_QUERIES], request, nodes)
        ]
        known = {view.row.namespace: view for view, _ in views}
        return [
            Recall(query.text, tuple(own), _levels(tx, known, query, own, above, spans))
            for query, own, above in zip(queries, hits, upper, strict=True)
        ]


def _levels(
    tx: apsw.Connection,
    views: Mapping[Namespace, View],
    query: Query,
    hits: Sequence[Hit],
    upper: Levels,
    spans: Spans,
) -> dict[int, tuple[MemoryEmbedding, ...]]:
    windows = sorted(_windows(tx, query, hits, spans), key=lambda one: -one.score)
    chunks = [_chunk(views[hit.namespace], hit) for hit in hits]
    levels = {_WINDOW: windows, _CHUNK: chunks, **upper}
    return {level: tuple(levels[level]) for level in sorted(levels)}


# -- windows and chunks of the hits


def _windows(
    tx: apsw.Connection, query: Query, hits: Sequence[Hit], spans: Spans
) -> Iterator[MemoryEmbedding]:
    """All windows of the hits, hit by hit.

    On 300 questions of squad the best 4 windows of 5 hits by their own cosine hold the answer for .71, with
    the hit's score added for .83: which chunk a window is from says more than the window itself.
    """
    ids = np.array([hit.chunk_id for hit in hits], dtype=np.int64)
    windows = finalists.read_windows(tx, ids, query.vectors.shape[1])
    scores = finalists.cosines(query, windows.vectors)
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


def _chunk(view: View, hit: Hit) -> MemoryEmbedding:
    home = view.tx.execute(
        "SELECT n.node_id, n.version FROM chunks c JOIN nodes n USING (node_id) WHERE c.chunk_id = ?",
        (hit.chunk_id,),
    ).get
    block = view.block(NodeRef(*home))
    return MemoryEmbedding(
        level=_CHUNK,
        vectors=block.vectors[int(np.searchsorted(block.ids, hit.chunk_id))].copy(),
        score=hit.score,
        node_id=hit.chunk_id,
        document_id=hit.document_id,
        start=hit.start,
        end=hit.end,
        namespace=hit.namespace,
    )


# -- nodes


def _merged(
    views: Sequence[tuple[View, Allowed | None]], queries: Sequence[Query], request: Request, nodes: int
) -> list[Levels]:
    """The best nodes of every level of each query [b], those of all namespaces by score."""
    merged: list[Levels] = [{} for _ in queries]
    for view, allowed in views:
        for levels, more in zip(merged, _visited(view, queries, request, allowed, nodes), strict=True):
            for level, found in more.items():
                levels[level] = levels.get(level, []) + found
    return [
        {level: sorted(found, key=_order)[:nodes] for level, found in levels.items()} for levels in merged
    ]


def _visited(
    view: View, queries: Sequence[Query], request: Request, allowed: Allowed | None, nodes: int
) -> list[Levels]:
    """The best nodes of every level of one namespace for each query [b]."""
    top = view.root_level() - 1
    nothing = allowed is not None and not len(allowed.chunk_ids)
    if nothing or not nodes or top < LEAF_LEVEL:
        return [{level: [] for level in range(LEAF_LEVEL, top + 1)} for _ in queries]
    refolder = Refolder(view, allowed)
    steps = list(_steps(view, queries, request, allowed, nodes))
    return [
        {
            level: _best(view, level, query, found, nodes)
            for level, found in enumerate(refolder.nodes([step[place] for step in steps]), LEAF_LEVEL)
        }
        for place, query in enumerate(queries)
    ]


def _steps(
    view: View, queries: Sequence[Query], request: Request, allowed: Allowed | None, nodes: int
) -> Iterator[list[Frontier]]:
    """Frontiers of the levels below the root, top down."""
    everything = view.row.live_chunks
    exact = request.mode == "exact"
    steps = descend(
        view,
        queries,
        width=everything if exact else request.beam_width,
        need=everything if exact else request.k,
        least=nodes,
        allowed=allowed,
        scored=np.zeros(len(queries), dtype=np.int64),
    )
    next(steps)  # the root, which has no embedding
    return steps


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


def _order(one: MemoryEmbedding) -> tuple[float, Namespace, int]:
    return (-one.score, one.namespace, one.node_id)
