"""Ranked chunks as hits: where they lie, what they say, and the route from the top level down to them.

Shapes: r vectors per embedding, d dimensions.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mllm_plugin.search.query import Query, View
from mllm_plugin.search.rank import Ranked
from mllm_plugin.shapes import Float32
from mllm_plugin.store.decoded import NodeRef
from mllm_plugin.store.snapshot import NodeRow, Place
from mllm_plugin.store.values import parsed_metadata
from mllm_plugin.types import Hit, Namespace, PathStep, StoredChunk

_SPARE = 1  # chunks beyond k whose places are read with the first: it tells whether there are ties


class Chosen(NamedTuple):
    """A chunk that is to be a hit, before its text is read."""

    found: Ranked
    place: Place
    namespace: Namespace

    @property
    def order(self) -> tuple[float, Namespace, str, int]:
        """Best first; ties are settled by namespace, document id and offset, not by insertion."""
        return -self.found.score, self.namespace, self.place.document_id, self.place.start


def choose(
    view: View,
    rankings: Sequence[Sequence[Ranked]],
    k: int,
    *,
    unique_documents: bool = False,
    namespace_of: Callable[[int], Namespace] | None = None,
) -> list[list[Chosen]]:
    """The k best chunks of each query.

    Args:
        view: Of their namespace, or where `namespace_of` tells that of each, of any in the same snapshot.
        rankings: The chunks of each query, best first.
        k: How many.
        unique_documents: Take one chunk of a document.
        namespace_of: The namespace of a chunk.
    """
    own, ahead = view.row.namespace, k + _SPARE
    told = namespace_of or (lambda _: own)
    firsts = view.snapshot.places(found.chunk_id for ranked in rankings for found in ranked[:ahead])
    return [_first(_located(view, ranked, firsts, ahead, told), k, unique_documents) for ranked in rankings]


def _located(
    view: View,
    ranked: Sequence[Ranked],
    firsts: Mapping[int, Place],
    ahead: int,
    namespace_of: Callable[[int], Namespace],
) -> Iterator[Chosen]:
    """Chunks with their places; those beyond the first are read as far as they are asked for."""
    for start in range(0, len(ranked), ahead):
        part, places = ranked[start : start + ahead], firsts
        if start:
            places = view.snapshot.places(found.chunk_id for found in part)
        for found in part:
            yield Chosen(found, places[found.chunk_id], namespace_of(found.chunk_id))


def _first(located: Iterator[Chosen], k: int, unique_documents: bool) -> list[Chosen]:
    kept: list[Chosen] = []
    documents: set[int] = set()
    for chosen in located:
        if len(kept) >= k and chosen.found.score < kept[k - 1].found.score:
            break
        if unique_documents and chosen.place.document_rowid in documents:
            continue
        documents.add(chosen.place.document_rowid)
        kept.append(chosen)
    return best(kept, k)


def best(chosen: Iterable[Chosen], k: int) -> list[Chosen]:
    """The k best of some chunks."""
    return sorted(chosen, key=lambda one: one.order)[:k]


class Told(NamedTuple):
    """The chunks chosen for one query, best first, and how relevant each is."""

    query: Query
    chosen: Sequence[Chosen]
    relevance: Sequence[float]


def read_hits(view: View, asked: Sequence[Told], neighbours: int = 0) -> list[list[Hit]]:
    """The chunks of each query with their texts, metadata and paths, and so many chunks around each.

    Args:
        view: Of any namespace of their snapshot.
        asked: What was found for each query.
        neighbours: Chunks around each.
    """
    paths = trace_paths(view, [(own.query, {one.place.node_id for one in own.chosen}) for own in asked])
    return [_read(view, *pair, neighbours) for pair in zip(asked, paths, strict=True)]


def _read(view: View, told: Told, paths: Mapping[int, tuple[PathStep, ...]], neighbours: int) -> list[Hit]:
    rowids = {place.document_rowid for _, place, _ in told.chosen}
    documents = view.snapshot.texts(rowids)
    spans = view.snapshot.spans(rowids) if neighbours else {}
    hits = []
    for (found, place, namespace), relevance in zip(told.chosen, told.relevance, strict=True):
        text, metadata, times = documents[place.document_rowid]
        first, last = _around(spans.get(place.document_rowid, ()), place, neighbours)
        hits.append(
            Hit(
                document_id=place.document_id,
                chunk_id=found.chunk_id,
                text=text[place.start : place.end],
                start=place.start,
                end=place.end,
                score=found.score,
                relevance=relevance,
                metadata=parsed_metadata(metadata),
                path=(*paths[place.node_id], PathStep(1, found.chunk_id, found.score)),
                namespace=namespace,
                before=text[first : place.start],
                after=text[place.end : last],
                **times.fields(),
            )
        )
    return hits


def _around(spans: Sequence[tuple[int, int]], place: Place, neighbours: int) -> tuple[int, int]:
    """From where to where a chunk and its neighbours reach."""
    if not neighbours:
        return place.start, place.end
    own = bisect_left(spans, (place.start, place.end))
    return spans[max(0, own - neighbours)][0], spans[min(len(spans) - 1, own + neighbours)][1]


# -- paths


def trace_paths(
    view: View, asked: Sequence[tuple[Query, Iterable[int]]]
) -> list[dict[int, tuple[PathStep, ...]]]:
    """Steps from the top level down to level-2 nodes; none for a root, which has no embedding.

    Args:
        view: Of any namespace of the nodes' snapshot.
        asked: Queries, and nodes of each.

    Returns:
        By node, for each query.
    """
    nodes = view.snapshot.ancestors({home for _, homes in asked for home in homes})
    vectors = _vectors(view, nodes)
    traced = []
    for query, homes in asked:
        routes = {home: _route(nodes, home) for home in homes}
        steps = _steps(view, query, {node for route in routes.values() for node in route}, vectors)
        traced.append({home: tuple(steps[node] for node in route) for home, route in routes.items()})
    return traced


def _route(nodes: Mapping[int, NodeRow], home: int) -> list[NodeRow]:
    """The nodes from the top level down to one."""
    route, node = [], nodes[home]
    while node.parent_id is not None:
        route.append(node)
        node = nodes[node.parent_id]
    return route[::-1]


def _vectors(view: View, nodes: Mapping[int, NodeRow]) -> dict[int, Float32[np.ndarray, "r d"]]:
    """Embeddings by node."""
    below: defaultdict[int, list[int]] = defaultdict(list)
    for node in nodes.values():
        if node.parent_id is not None:
            below[node.parent_id].append(node.node_id)
    found: dict[int, Float32[np.ndarray, "r d"]] = {}
    for parent_id, ids in below.items():
        children = view.children(NodeRef(parent_id, nodes[parent_id].version))
        found.update(zip(ids, children.vectors[np.searchsorted(children.ids, ids)], strict=True))
    return found


def _steps(
    view: View,
    query: Query,
    nodes: Iterable[NodeRow],
    vectors: Mapping[int, Float32[np.ndarray, "r d"]],
) -> dict[NodeRow, PathStep]:
    """Each node with the score that its ranker gives it by itself."""
    levels: defaultdict[int, list[NodeRow]] = defaultdict(list)
    for node in nodes:
        levels[node.level].append(node)
    steps: dict[NodeRow, PathStep] = {}
    for level, found in levels.items():
        embeddings = np.stack([vectors[node.node_id] for node in found])
        scores = view.hierarchy.score_each(level, query.vectors, embeddings).tolist()
        steps |= {
            node: PathStep(level, node.node_id, score) for node, score in zip(found, scores, strict=True)
        }
    return steps


def stored_chunks(view: View, chunk_ids: Sequence[int]) -> list[StoredChunk]:
    """Chunks with their texts, in the order of their ids given."""
    places = view.snapshot.places(chunk_ids)
    documents = view.snapshot.texts({place.document_rowid for place in places.values()})
    found = ((chunk_id, places[chunk_id]) for chunk_id in chunk_ids)
    return [
        StoredChunk(
            chunk_id=chunk_id,
            document_id=place.document_id,
            text=documents[place.document_rowid][0][place.start : place.end],
            start=place.start,
            end=place.end,
            namespace=view.row.namespace,
        )
        for chunk_id, place in found
    ]
