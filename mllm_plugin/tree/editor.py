"""Edits one tree: place, remove, mask; then split, merge, grow, shrink and refold exactly what changed.

Every edit only marks nodes; `finish` restores the invariants from the lowest level up and refolds each dirty
path once. Invariants: a group has at most `cap` children, the root at most `target`, and the level below the
top has more than `target` embeddings, so the number of levels is O(log N). A node's embedding lies in its
parent's embedding chunk; the root has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.config import TreeConfig
from mllm_plugin.errors import DamagedStoreError
from mllm_plugin.tree.clustering import group
from mllm_plugin.tree.node import Children, Node

LEAF_LEVEL = 2  # the level of nodes whose children are chunks
_PLACEMENT_WIDTH = 4
_CARE = "`mllm verify` lists what is wrong, `mllm repair` keeps every document that can be read"
_MOST_PASSES = 16  # small groups may be left over; large ones never are

Fold = Callable[[int, NDArray[np.float16], NDArray[np.bool_]], NDArray[np.float16]]


class NodeStore(Protocol):
    """Where nodes are kept."""

    def new_id(self) -> int:
        """An id that no node ever had."""
        ...

    def load(self, node_id: int) -> Node:
        """Reads a node with its embedding chunk."""
        ...

    def save(self, node: Node) -> None:
        """Writes a node with its embedding chunk."""
        ...

    def delete(self, node_id: int) -> None:
        """Deletes a node."""
        ...

    def set_parent(self, node_id: int, parent_id: int | None) -> None:
        """Moves a node below another parent."""
        ...

    def place_chunks(self, homes: Mapping[int, int]) -> None:
        """Records the home of chunks: node id by chunk id."""
        ...


class TreeEditor:
    """One batch of edits on one tree.

    Args:
        store: Loads and saves nodes.
        root_id: The root, or None for an empty tree.
        config: Group sizes.
        fold: `(level, children [c, r, d], live [c]) -> [r, d]`, the encoder of a node's level.
        version: Number of this write.
    """

    def __init__(
        self, store: NodeStore, root_id: int | None, config: TreeConfig, fold: Fold, version: int
    ) -> None:
        self._store, self._config, self._fold, self._version = store, config, fold, version
        self._nodes: dict[int, Node] = {}
        self._dirty: set[int] = set()  # to be folded and saved
        self._resized: set[int] = set()  # of these, the ones whose children changed: masking moves nothing
        self._stored: set[int] = set()
        self._homes: dict[int, int] = {}
        self.root_id = root_id

    # -- edits
    # ---------------------------------------------------------------------------------------------------

    def insert(self, chunks: Children) -> None:
        """Places each chunk in the node most similar to it; regroups all when most chunks are new."""
        if not len(chunks):
            return
        if self.root_id is None or len(chunks) >= int(self._node(self.root_id).children.total.sum()):
            self.regroup(chunks)
            return
        homes = self._nearest_homes(chunks.directions)
        for node_id in np.unique(homes):
            self._attach(self._node(int(node_id)), chunks.take(np.flatnonzero(homes == node_id)))

    def insert_groups(self, chunks: Children) -> None:
        """Groups the chunks among themselves and adds the groups as new nodes: quick; `regroup` later."""
        if self.root_id is None or self._node(self.root_id).level == LEAF_LEVEL:
            self.insert(chunks)
            return
        new = list(self._grouped(chunks, LEAF_LEVEL))
        summary = self._summaries(new)
        homes = self._nearest_homes(summary.directions, LEAF_LEVEL + 1)
        for node_id in np.unique(homes):
            self._attach(self._node(int(node_id)), summary.take(np.flatnonzero(homes == node_id)))

    def remove(self, homes: Mapping[int, list[int]]) -> None:
        """Takes chunks out: chunk ids by the node that holds them."""
        for node_id, chunk_ids in homes.items():
            node = self._node(node_id)
            node.children = node.children.without(chunk_ids)
            self._mark(node_id)

    def set_live(self, homes: Mapping[int, list[int]], live: bool) -> None:
        """Masks (`live=False`) or unmasks chunks: chunk ids by the node that holds them."""
        for node_id, chunk_ids in homes.items():
            node = self._node(node_id)
            rows = np.isin(node.children.ids, chunk_ids)
            node.children = replace(node.children, live=np.where(rows, int(live), node.children.live))
            self._dirty.add(node_id)

    def regroup(self, new_chunks: Children | None = None) -> None:
        """Groups all chunks anew, with `new_chunks` among them."""
        parts = [] if new_chunks is None else [new_chunks]
        for node in list(self._walk()):
            if node.level == LEAF_LEVEL:
                parts.append(node.children)
            self._delete(node.node_id)
        self.root_id = None
        chunks = parts[0].joined(*parts[1:]) if parts else None
        if chunks is None or not len(chunks):
            return
        level, children = LEAF_LEVEL, chunks
        while len(children) > self._config.target(level - 1):
            children = self._summaries(list(self._grouped(children, level)))
            level += 1
        self.root_id = self._new_node(level, children).node_id

    def refold(self) -> int:
        """Folds every node but the root anew, chunks' nodes one at a time; returns how many."""
        if self.root_id is None:
            return 0
        above = list(self._walk(LEAF_LEVEL + 1)) if self._node(self.root_id).level > LEAF_LEVEL else []
        folded = 0
        for node in above:
            if node.level == LEAF_LEVEL + 1:
                below = (self._store.load(child) for child in node.children.ids.tolist())
                vectors = np.stack([self._folded(child) for child in below])
                node.children = replace(node.children, vectors=vectors)
                folded += len(vectors)
            self._dirty.add(node.node_id)
        return folded + max(0, len(above) - 1)

    def finish(self) -> int | None:
        """Restores the invariants, refolds what changed, saves; returns the root's id."""
        if self._resized:
            for _ in range(_MOST_PASSES):
                if not self._resize():
                    break
            self._settle_root()
        self._refold()
        for node_id in sorted(self._dirty & self._nodes.keys()):
            self._store.save(self._nodes[node_id])
        self._store.place_chunks(self._homes)
        return self.root_id

    # -- nodes
    # ---------------------------------------------------------------------------------------------------

    def _node(self, node_id: int) -> Node:
        if node_id not in self._nodes:
            self._nodes[node_id] = self._store.load(node_id)
            self._stored.add(node_id)
        return self._nodes[node_id]

    def _new_node(self, level: int, children: Children) -> Node:
        node = Node(self._store.new_id(), level, None, children)
        self._nodes[node.node_id] = node
        self._mark(node.node_id)
        self._adopt(node, children.ids)
        return node

    def _attach(self, node: Node, children: Children) -> None:
        node.children = node.children.joined(children)
        self._mark(node.node_id)
        self._adopt(node, children.ids)

    def _mark(self, node_id: int) -> None:
        self._dirty.add(node_id)
        self._resized.add(node_id)

    def _adopt(self, node: Node, ids: NDArray[np.int64]) -> None:
        if node.level == LEAF_LEVEL:
            self._homes.update(dict.fromkeys(ids.tolist(), node.node_id))
            return
        for child_id in ids.tolist():
            if child_id in self._nodes:
                self._nodes[child_id].parent_id = node.node_id
            if child_id not in self._dirty:
                self._store.set_parent(child_id, node.node_id)

    def _delete(self, node_id: int) -> None:
        self._nodes.pop(node_id, None)
        self._dirty.discard(node_id)
        self._resized.discard(node_id)
        if node_id in self._stored:
            self._store.delete(node_id)

    def _walk(self, lowest: int = LEAF_LEVEL) -> Iterator[Node]:
        """All nodes from level `lowest` on, parents first.

        Raises:
            DamagedStoreError: A node is reached twice.
        """
        pending = [] if self.root_id is None else [self._node(self.root_id)]
        seen = {node.node_id for node in pending}
        while pending:
            node = pending.pop()
            if node.level > lowest:
                ids = node.children.ids.tolist()
                if not seen.isdisjoint(ids):
                    raise DamagedStoreError(f"a node below node {node.node_id} has two parents; {_CARE}")
                seen.update(ids)
                pending.extend(self._below(node, ids))
            yield node

    def _below(self, node: Node, ids: list[int]) -> list[Node]:
        """Children of a node that has nodes for children.

        Raises:
            DamagedStoreError: One is not of the level below; so no walk goes in circles.
        """
        found = [self._node(one) for one in ids]
        if any(one.level != node.level - 1 for one in found):
            raise DamagedStoreError(
                f"a node below node {node.node_id} is not of level {node.level - 1}; {_CARE}"
            )
        return found

    # -- placement
    # -----------------------------------------------------------------------------------------------

    def _nearest_homes(self, directions: NDArray[np.float32], level: int = LEAF_LEVEL) -> NDArray[np.int64]:
        """The node of `level` nearest to each vector [n], found by a narrow walk."""
        root = self._node(self.root_id)  # type: ignore[arg-type]
        return np.array([self._nearest_home(vector, root, level) for vector in directions], dtype=np.int64)

    def _nearest_home(self, vector: NDArray[np.float32], root: Node, level: int) -> int:
        frontier = [root]
        while frontier[0].level > level:
            ids = np.concatenate([node.children.ids for node in frontier])
            scores = np.concatenate([node.children.directions @ vector for node in frontier])
            width = _PLACEMENT_WIDTH if frontier[0].level > level + 1 else 1
            best = ids[np.argsort(-scores, kind="stable")[:width]]
            frontier = self._below(frontier[0], best.tolist())
        return frontier[0].node_id

    def _grouped(self, children: Children, level: int) -> Iterator[Node]:
        """New nodes of `level` over groups of `children`."""
        labels = self._labels(children, level)
        order = np.argsort(labels, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
            yield self._new_node(level, children.take(rows[np.argsort(children.ids[rows], kind="stable")]))

    def _labels(self, children: Children, level: int) -> NDArray[np.int64]:
        below, config = level - 1, self._config
        return group(
            children.directions, config.target(below), config.cap(below), config.floor(below), config.seed
        )

    def _summaries(self, nodes: list[Node]) -> Children:
        """What the parents of `nodes` hold of them."""
        nodes = sorted(nodes, key=lambda node: node.node_id)
        counts = [(int(node.children.live.sum()), int(node.children.total.sum())) for node in nodes]
        return Children(
            ids=np.array([node.node_id for node in nodes], dtype=np.int64),
            vectors=np.stack([self._folded(node) for node in nodes]),
            live=np.array([live for live, _ in counts], dtype=np.int64),
            total=np.array([total for _, total in counts], dtype=np.int64),
            versions=np.full(len(nodes), self._version, dtype=np.int64),
            terms=None,
        )

    def _folded(self, node: Node) -> NDArray[np.float16]:
        return self._fold(node.level, node.children.vectors, node.children.live > 0)

    # -- invariants
    # ----------------------------------------------------------------------------------------------

    def _at(self, level: int, ids: set[int]) -> list[Node]:
        """Nodes of `level` among `ids`, but for the root."""
        nodes = [self._nodes[node_id] for node_id in sorted(ids) if node_id in self._nodes]
        return [node for node in nodes if node.level == level and node.node_id != self.root_id]

    def _resize(self) -> bool:
        """One pass from the lowest level up; True when nodes got new siblings, so another pass may help."""
        moved = False
        level = LEAF_LEVEL
        while self.root_id is not None and level < self._node(self.root_id).level:
            moved |= self._dissolve_small(level)
            self._split_large(level)
            level += 1
        return moved

    def _dissolve_small(self, level: int) -> bool:
        """Moves the children of small groups to the most similar siblings; True when nodes moved."""
        moved = False
        for node in self._at(level, self._resized):
            parent = self._node(node.parent_id)  # type: ignore[arg-type]
            alone = len(parent.children) == 1
            if len(node.children) and (alone or len(node.children) >= self._config.floor(level - 1)):
                continue
            parent.children = parent.children.without([node.node_id])
            self._mark(parent.node_id)
            if len(node.children):
                best = (node.children.directions @ parent.children.directions.T).argmax(axis=1)
                for row in np.unique(best):
                    sibling = self._node(int(parent.children.ids[row]))
                    self._attach(sibling, node.children.take(np.flatnonzero(best == row)))
                if level > LEAF_LEVEL:
                    moved = True
                    for child in node.children.ids.tolist():
                        self._mark(self._node(child).node_id)
            self._delete(node.node_id)
        return moved

    def _split_large(self, level: int) -> None:
        for node in self._at(level, self._resized):
            if len(node.children) <= self._config.cap(level - 1):
                continue
            parent = self._node(node.parent_id)  # type: ignore[arg-type]
            parent.children = parent.children.without([node.node_id])
            self._attach(parent, self._summaries(list(self._grouped(node.children, level))))
            self._delete(node.node_id)

    def _settle_root(self) -> None:
        """Grows a level over a wide root, drops levels that one embedding chunk could replace."""
        while self.root_id is not None:
            root = self._node(self.root_id)
            if not len(root.children):
                self._delete(root.node_id)
                self.root_id = None
            elif len(root.children) > self._config.target(root.level - 1):
                summary = self._summaries(list(self._grouped(root.children, root.level)))
                self._delete(root.node_id)
                self.root_id = self._new_node(root.level + 1, summary).node_id
            elif root.level > LEAF_LEVEL and self._fits_one_group(root):
                below = self._below(root, root.children.ids.tolist())
                children = below[0].children.joined(*(node.children for node in below[1:]))
                for node in (root, *below):
                    self._delete(node.node_id)
                self.root_id = self._new_node(root.level - 1, children).node_id
            else:
                return

    def _fits_one_group(self, root: Node) -> bool:
        """Whether the root's grandchildren are few enough to be its children; loads them only if needed."""
        limit = most_chunks = self._config.target(root.level - 2)
        for below in range(1, root.level - 2):
            most_chunks *= self._config.cap(below)
        if int(root.children.total.sum()) > most_chunks:
            return False
        return sum(len(self._node(node_id).children) for node_id in root.children.ids.tolist()) <= limit

    def _refold(self) -> None:
        """Carries changed embeddings and counts up, each dirty path once."""
        if self.root_id is None:
            return
        for level in range(LEAF_LEVEL, self._node(self.root_id).level):
            for node in self._at(level, self._dirty):
                parent = self._node(node.parent_id)  # type: ignore[arg-type]
                parent.children = parent.children.changed(
                    int(np.searchsorted(parent.children.ids, node.node_id)),
                    vector=self._folded(node),
                    live=int(node.children.live.sum()),
                    total=int(node.children.total.sum()),
                    version=self._version,
                )
                self._dirty.add(parent.node_id)
