"""What a memory knows, told from the upper levels of its tree; and items that say nearly the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mllm_plugin.agent.given import given_item
from mllm_plugin.agent.items import AgentTopic, Consolidated, Memory
from mllm_plugin.agent.naming import memory_of, names_of
from mllm_plugin.agent.writing import remember
from mllm_plugin.store.snapshot import Snapshot
from mllm_plugin.tree.editor import LOWEST_LEVEL
from mllm_plugin.types import Namespace

if TYPE_CHECKING:
    from mllm_plugin.agent.shared import Shared
    from mllm_plugin.types import Topic as Part

Merge = Callable[[Sequence[Memory]], str]


def overview(
    shared: Shared, namespace: Namespace, topic: str | None, nodes: int, faces: int
) -> list[AgentTopic]:
    """The parts of a scope and of those below it: the nearest to a topic, or the largest."""
    parts = shared.memory.overview(topic, nodes=nodes, faces=faces, namespace=namespace, prefix=True)
    with shared.memory.snapshot() as snapshot:
        told = [_told(snapshot, part) for part in parts]
    return [one for one in told if one is not None]


def _told(snapshot: Snapshot, part: Part) -> AgentTopic | None:
    row = snapshot.namespace(part.namespace)
    places = snapshot.places(_chunks_below(snapshot, part.node_id, part.level))
    rowids = list(dict.fromkeys(place.document_rowid for place in places.values()))
    found = (
        {}
        if row is None
        else {document.id: memory_of(document) for document in snapshot.documents(row, rowids)}
    )
    if not found:  # it was removed meanwhile
        return None
    times = [one.at for one in found.values()]
    names = dict.fromkeys(face.document_id for face in part.faces)
    return AgentTopic(
        label=part.words,
        size=len(found),
        first=min(times),
        last=max(times),
        faces=tuple(found[name] for name in names if name in found),
        level=part.level,
        scope=names_of(part.namespace),
        ids=tuple(one.id for one in found.values()),
    )


def _chunks_below(snapshot: Snapshot, node_id: int, level: int) -> list[int]:
    """Live chunks below a node."""
    nodes = [node_id]
    for _ in range(LOWEST_LEVEL, level):
        nodes = [child for node in nodes for child in _live(snapshot, node)]
    return [chunk for node in nodes for chunk in _live(snapshot, node)]


def _live(snapshot: Snapshot, node_id: int) -> list[int]:
    children = snapshot.children(node_id)
    return children.ids[children.live > 0].tolist()


def consolidate(
    shared: Shared, namespace: Namespace, merge: Merge | None, similar: float
) -> list[Consolidated]:
    """Groups of items of one scope that say nearly the same; written as one each where `merge` is given."""
    groups = [
        [memory_of(document) for document in documents if not document.masks]
        for documents in _nodes(shared, namespace)
    ]
    found = [group for items in groups for group in _alike(shared, items, similar)]
    if merge is None:
        return found
    return [_merged(shared, namespace, group, merge) for group in found]


def _nodes(shared: Shared, namespace: Namespace) -> list[list]:
    """The documents of each node of level 2."""
    with shared.memory.snapshot() as snapshot:
        row = snapshot.namespace(namespace)
        if row is None:
            return []
        found = []
        for node in snapshot.lowest_nodes(row.namespace_id):
            places = snapshot.places(_live(snapshot, node))
            rowids = list(dict.fromkeys(place.document_rowid for place in places.values()))
            found.append(list(snapshot.documents(row, rowids)))
        return found


def _alike(shared: Shared, items: Sequence[Memory], similar: float) -> list[Consolidated]:
    """Groups around the item that most others are near to, then around what is left."""
    if len(items) < 2:
        return []
    vectors = shared.likeness.vectors([item.text for item in items])
    near = vectors @ vectors.T
    groups, left = [], set(range(len(items)))
    while left:
        places = sorted(left)
        middle = max(places, key=lambda place: (near[place, places] >= similar).sum())
        members = sorted((p for p in places if near[middle, p] >= similar), key=lambda p: -near[middle, p])
        left -= {middle, *members}
        if len(members) > 1:
            lowest = float(np.clip(near[middle, members].min(), -1, 1))
            chosen = [items[place] for place in members]
            groups.append(Consolidated(tuple(i.id for i in chosen), tuple(i.text for i in chosen), lowest))
    return groups


def _merged(shared: Shared, namespace: Namespace, group: Consolidated, merge: Merge) -> Consolidated:
    documents = shared.memory.get(group.ids, namespace=namespace)
    text = merge([memory_of(document) for document in documents])
    kind = memory_of(documents[0]).kind
    new = given_item({"text": text, "kind": kind, "supersedes": group.ids, "derived_from": group.ids}, {})
    (written,) = remember(shared, namespace, [new], "keep", history=True)
    return Consolidated(group.ids, group.texts, group.similarity, written.id)
