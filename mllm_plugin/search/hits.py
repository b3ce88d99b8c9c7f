"""Ranked chunks as hits: where they lie, what they say, and the route from the top level down to them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence

from mllm_plugin.search.query import Query
from mllm_plugin.search.rank import Ranked
from mllm_plugin.search.view import View
from mllm_plugin.store.embedding_chunks import NodeRef
from mllm_plugin.store.snapshot import NodeRow, Place
from mllm_plugin.store.values import parsed_metadata
from mllm_plugin.types import Hit, Namespace, PathStep, StoredChunk

_SPARE = 3  # chunks beyond k whose places are read with the first, for ties

Found = tuple[Ranked, Place]


def read_hits(
    view: View,
    query: Query,
    ranked: Sequence[Ranked],
    *,
    k: int,
    unique_documents: bool,
    neighbours: int = 0,
    namespace_of: Callable[[int], Namespace] | None = None,
) -> list[Hit]:
    """The k best chunks with their texts, metadata and paths, and so many chunks around each.

    In place of the relevance, which a whole search tells, they have the plain score that it is made of.

    Args:
        view: Of their namespace, or where `namespace_of` tells that of each, of any in the same snapshot.
        query: What was looked for.
        ranked: The chunks, best first.
        k: How many.
        unique_documents: Take one chunk of a document.
        neighbours: Chunks around each.
        namespace_of: The namespace of a chunk.
    """
    told = namespace_of or (lambda _: view.row.namespace)
    chosen = _first(_places(view, ranked, k + _SPARE), k, unique_documents, told)
    paths = trace_paths(view, query, {place.node_id for _, place in chosen})
    rowids = {place.document_rowid for _, place in chosen}
    documents = view.snapshot.texts(rowids)
    spans = view.snapshot.spans(rowids) if neighbours else {}
    hits = []
    for found, place in chosen:
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
                relevance=found.plain,
                metadata=parsed_metadata(metadata),
                path=(*paths[place.node_id], PathStep(1, found.chunk_id, found.score)),
                namespace=told(found.chunk_id),
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


def _places(view: View, ranked: Sequence[Ranked], together: int) -> Iterator[Found]:
    """Chunks with their places, which are read as far as they are asked for."""
    for start in range(0, len(ranked), together):
        part = ranked[start : start + together]
        places = view.snapshot.places(found.chunk_id for found in part)
        yield from ((found, places[found.chunk_id]) for found in part)


def _first(
    places: Iterator[Found], k: int, unique_documents: bool, namespace_of: Callable[[int], Namespace]
) -> list[Found]:
    """The best k; ties are settled by namespace, document id and offset, not by insertion."""
    kept: list[Found] = []
    documents: set[int] = set()
    for found, place in places:
        if len(kept) >= k and found.score < kept[k - 1][0].score:
            break
        if unique_documents and place.document_rowid in documents:
            continue
        documents.add(place.document_rowid)
        kept.append((found, place))

    def order(pair: Found) -> tuple[float, Namespace, str, int]:
        found, place = pair
        return -found.score, namespace_of(found.chunk_id), place.document_id, place.start

    return sorted(kept, key=order)[:k]


# -- paths


def trace_paths(view: View, query: Query, homes: Iterable[int]) -> dict[int, tuple[PathStep, ...]]:
    """Steps from the top level down to each level-2 node; none for a root, which has no embedding."""
    homes = list(homes)
    nodes = view.snapshot.ancestors(homes)
    known: dict[int, PathStep] = {}
    return {node_id: tuple(_trace(view, query, node_id, nodes, known)) for node_id in homes}


def _trace(
    view: View, query: Query, node_id: int, nodes: dict[int, NodeRow], known: dict[int, PathStep]
) -> list[PathStep]:
    steps: list[PathStep] = []
    node = nodes[node_id]
    while node.parent_id is not None:
        parent = nodes[node.parent_id]
        if node.node_id not in known:
            known[node.node_id] = PathStep(node.level, node.node_id, _score(view, query, parent, node))
        steps.append(known[node.node_id])
        node = parent
    return steps[::-1]


def _score(view: View, query: Query, parent: NodeRow, node: NodeRow) -> float:
    vector = view.children(NodeRef(parent.node_id, parent.version)).vector(node.node_id)
    return float(view.hierarchy.ranker(node.level).score(query.vectors[None], vector[None])[0, 0])


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
