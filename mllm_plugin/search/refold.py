"""Nodes under a filter: folded anew from what matches, so that they carry nothing of what does not.

Shapes: n nodes, c children, r vectors per embedding, d dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mllm_plugin.search.query import View
from mllm_plugin.search.walk import Frontier
from mllm_plugin.shapes import Bool, Float16, Float32, Int64
from mllm_plugin.store.decoded import NodeRef
from mllm_plugin.tree.editor import LOWEST_LEVEL


@dataclass(frozen=True)
class Nodes:
    """Nodes of one level, without what does not match.

    Attributes:
        ids: Node ids.
        vectors: Embeddings.
        parents: Place of each one's parent in the frontier above.
    """

    ids: Int64[np.ndarray, " n"]
    vectors: Float32[np.ndarray, "n r d"]
    parents: Int64[np.ndarray, " n"]


class Refolder:
    """Refolds the nodes of a view for its filter; remembers what does not depend on the query."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._lowest: dict[int, Float16[np.ndarray, "r d"]] = {}

    def nodes(self, frontiers: Sequence[Frontier]) -> list[Nodes]:
        """The nodes that one query visited, level 2 first.

        A node whose live chunks all match is taken as stored. Any other is the fold of its matching children
        that were visited too, each refolded before; one without such a child is left out.

        Args:
            frontiers: As `descend` yields them for the query, without the root.
        """
        found: list[Nodes] = []
        for level, frontier in enumerate(reversed(frontiers), LOWEST_LEVEL):
            found.append(self._level(level, frontier, found[-1] if found else None))
        return found

    def _level(self, level: int, frontier: Frontier, below: Nodes | None) -> Nodes:
        ids = np.array([ref.node_id for ref in frontier.refs], dtype=np.int64)
        if self._view.allowed is None:
            return Nodes(ids, frontier.vectors, frontier.parents)
        vectors, kept = frontier.vectors.copy(), np.ones(len(ids), dtype=np.bool_)
        for place in np.flatnonzero(self._view.below(frontier.live, ids) < frontier.live).tolist():
            ref = frontier.refs[place]
            folded = self._chunks(ref) if below is None else self._children(level, ref, place, below)
            kept[place] = folded is not None
            if folded is not None:
                vectors[place] = folded
        return Nodes(ids[kept], vectors[kept], frontier.parents[kept])

    def _chunks(self, ref: NodeRef) -> Float16[np.ndarray, "r d"]:
        """A lowest node, of its matching chunks."""
        if ref.node_id not in self._lowest:
            stored = self._view.children(ref)
            matching = self._view.admitted(stored.live > 0, stored.ids)
            self._lowest[ref.node_id] = self._fold(LOWEST_LEVEL, stored.vectors, matching)
        return self._lowest[ref.node_id]

    def _children(
        self, level: int, ref: NodeRef, place: int, below: Nodes
    ) -> Float16[np.ndarray, "r d"] | None:
        """A higher node, of its visited children; None when there is none."""
        mine = np.flatnonzero(below.parents == place)
        if not len(mine):
            return None
        stored = self._view.children(ref)
        rows = np.searchsorted(stored.ids, below.ids[mine])
        vectors, visited = stored.vectors.copy(), np.zeros(len(stored.ids), dtype=np.bool_)
        vectors[rows], visited[rows] = below.vectors[mine], True
        return self._fold(level, vectors, visited)

    def _fold(
        self, level: int, vectors: Float32[np.ndarray, "c r d"], live: Bool[np.ndarray, " c"]
    ) -> Float16[np.ndarray, "_ d"]:
        """The rows that are not live do not enter; zeros stand in for them, so that nothing can leak."""
        children = np.zeros(vectors.shape, dtype=np.float16)
        children[live] = vectors[live]
        return self._view.hierarchy.fold(level, children, live)
