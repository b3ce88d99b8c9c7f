"""Edits one tree: place, remove, mask; then split, merge, grow, shrink and refold exactly what changed.

Every edit only marks nodes; `finish` restores the invariants from the lowest level up and refolds each dirty
path once. Invariants: a group has at most `cap` children, the root at most `target`, and the level below the
top has more than `target` embeddings, so the number of levels is O(log N). A node's embedding lies in its
parent's embedding chunk; the root has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.config import TreeConfig
from mllm_plugin.errors import DamagedStoreError
from mllm_plugin.tree.clustering import Parts, group
from mllm_plugin.tree.node import EmbeddingChunk, Node, NodeStore

LOWEST_LEVEL = 2  # the level of nodes whose children are chunks
_PLACEMENT_WIDTH = 4
_CARE = "`mllm verify` lists what is wrong, `mllm repair` keeps every document that can be read"
_MOST_PASSES = 16  # small groups may be left over; large ones never are

_NUMBERS = 1 << 22  # of the embeddings that are grouped at once
_LEAST_GROUPS = 64  # that these make
_BLOCK = 1024  # embeddings that wait together to be grouped

Fold = Callable[[int, NDArray[np.float16], NDArray[np.bool_]], NDArray[np.float16]]
Block = tuple[int, int]  # a node whose children are to be grouped anew, and how many it has


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

    def insert(self, chunks: EmbeddingChunk) -> None:
        """Places each chunk in the node most similar to it; regroups all when most chunks are new."""
        if not len(chunks):
            return
        if self.root_id is None or len(chunks) >= int(self._node(self.root_id).children.total.sum()):
            self.regroup(chunks)
            return
        homes = self._nearest_homes(chunks.directions)
        for node_id in np.unique(homes):
            self._attach(self._node(int(node_id)), chunks.take(np.flatnonzero(homes == node_id)))

    def insert_groups(self, chunks: EmbeddingChunk) -> None:
        """Groups the chunks among themselves and adds the groups as new nodes: quick; `regroup` later."""
        if self.root_id is None or self._node(self.root_id).level == LOWEST_LEVEL:
            self.insert(chunks)
            return
        new = list(self._grouped(chunks, LOWEST_LEVEL))
        summary = self._summaries(new)
        homes = self._nearest_homes(summary.directions, LOWEST_LEVEL + 1)
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

    def regroup(self, new_chunks: EmbeddingChunk | None = None) -> None:
        """Groups all chunks anew, with `new_chunks` among them; holds a part of them at a time."""
        blocks = [] if new_chunks is None else list(self._blocks(LOWEST_LEVEL, new_chunks))
        for node in self._walk():
            if node.level == LOWEST_LEVEL and len(node.children):
                blocks.append((node.node_id, len(node.children)))
            else:
                self._delete(node.node_id)
        self.root_id, level = None, LOWEST_LEVEL
        while sum(size for _, size in blocks) > self._config.target(level - 1):
            blocks, level = list(self._regrouped(blocks, level)), level + 1
        if blocks:
            children = self._taken([(block, np.arange(size)) for block, size in blocks])
            for block, _ in blocks:
                self._delete(block)
            self.root_id = self._new_node(level, children).node_id

    def _regrouped(self, blocks: list[Block], level: int) -> Iterator[Block]:
        """Groups what the blocks hold below new nodes of `level`; blocks of what is held of these.

        Blocks are deleted as soon as nothing more is taken of them: their pages take the new nodes.
        """
        names, sizes = zip(*blocks, strict=True)
        parts = Parts(sizes, lambda place: self._loaded(names[place]).children.directions)
        most = max(_LEAST_GROUPS * self._config.target(level - 1), _NUMBERS // self._width(names[0]))
        split = list(parts.of_at_most(most, self._config.seed))
        last = {block: number for number, places in enumerate(split) for block, _ in parts.rows(places)}
        for number, places in enumerate(split):
            rows = list(parts.rows(places))
            children = self._taken([(names[block], own) for block, own in rows])
            for block in (block for block, _ in rows if last[block] == number):
                self._delete(names[block])
            yield from self._blocks(level + 1, self._summaries(list(self._grouped(children, level))))
            if len(split) > 1:
                self._put_away()

    def refold(self) -> int:
        """Folds every node but the root anew, chunks' nodes one at a time; returns how many."""
        if self.root_id is None:
            return 0
        above = list(self._walk(LOWEST_LEVEL + 1)) if self._node(self.root_id).level > LOWEST_LEVEL else []
        folded = 0
        for node in above:
            if node.level == LOWEST_LEVEL + 1:
                below = (self._store.load(child) for child in node.children.ids.tolist())
                vectors = np.stack([self._folded(child) for child in below])
                node.children = replace(node.children, vectors=vectors)
                folded += len(vectors)
            self._nodes[node.node_id] = node
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

    def _loaded(self, node_id: int) -> Node:
        """A node, which is not kept in memory for it."""
        if node_id in self._nodes:
            return self._nodes[node_id]
        self._stored.add(node_id)
        return self._store.load(node_id)

    def _width(self, node_id: int) -> int:
        """Numbers in an embedding."""
        return self._loaded(node_id).children.vectors[0].size

    def _blocks(self, level: int, children: EmbeddingChunk) -> Iterator[Block]:
        """Holds children, until they are grouped, as those of some nodes of `level`."""
        for rows in np.split(np.arange(len(children)), np.arange(_BLOCK, len(children), _BLOCK)):
            node = Node(self._store.new_id(), level, None, children.take(rows))
            self._nodes[node.node_id] = node
            yield node.node_id, len(rows)

    def _taken(self, part: Sequence[tuple[int, NDArray[np.int64]]]) -> EmbeddingChunk:
        """Some rows of some nodes' children."""
        first, *others = (self._loaded(node_id).children.take(rows) for node_id, rows in part)
        return first.joined(*others)

    def _put_away(self) -> None:
        """Saves all nodes as they are and forgets them; what is above them is still to come."""
        for node in self._nodes.values():
            self._store.save(node)
        self._store.place_chunks(self._homes)
        self._stored |= self._nodes.keys()
        for known in (self._nodes, self._homes, self._dirty, self._resized):
            known.clear()

    def _new_node(self, level: int, children: EmbeddingChunk) -> Node:
        node = Node(self._store.new_id(), level, None, children)
        self._nodes[node.node_id] = node
        self._mark(node.node_id)
        self._adopt(node, children.ids)
        return node

    def _attach(self, node: Node, children: EmbeddingChunk) -> None:
        node.children = node.children.joined(children)
        self._mark(node.node_id)
        self._adopt(node, children.ids)

    def _mark(self, node_id: int) -> None:
        self._dirty.add(node_id)
        self._resized.add(node_id)

    def _adopt(self, node: Node, ids: NDArray[np.int64]) -> None:
        if node.level == LOWEST_LEVEL:
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

    def _walk(self, lowest: int = LOWEST_LEVEL) -> Iterator[Node]:
        """All nodes from level `lowest` on, parents first.

        Raises:
            DamagedStoreError: A node is reached twice.
        """
        pending = [] if self.root_id is None else [self._loaded(self.root_id)]
        seen = {node.node_id for node in pending}
        while pending:
            node = pending.pop()
            if node.level > lowest:
                ids = node.children.ids.tolist()
                if not seen.isdisjoint(ids):
                    raise DamagedStoreError(f"a node below node {node.node_id} has two parents; {_CARE}")
                seen.update(ids)
                pending.extend(self._below(node, [self._loaded(child_id) for child_id in ids]))
            yield node

    def _below(self, node: Node, found: list[Node]) -> list[Node]:
        """Children of a node that has nodes for children.

        Raises:
            DamagedStoreError: One is not of the level below; so no walk goes in circles.
        """
        if any(child.level != node.level - 1 for child in found):
            raise DamagedStoreError(
                f"a node below node {node.node_id} is not of level {node.level - 1}; {_CARE}"
            )
        return found

    # -- placement
    # -----------------------------------------------------------------------------------------------

    def _nearest_homes(self, directions: NDArray[np.float32], level: int = LOWEST_LEVEL) -> NDArray[np.int64]:
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
            frontier = self._below(frontier[0], [self._node(one) for one in best.tolist()])
        return frontier[0].node_id

    def _grouped(self, children: EmbeddingChunk, level: int) -> Iterator[Node]:
        """New nodes of `level` over groups of `children`."""
        labels = self._labels(children, level)
        order = np.argsort(labels, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
            yield self._new_node(level, children.take(rows[np.argsort(children.ids[rows], kind="stable")]))

    def _labels(self, children: EmbeddingChunk, level: int) -> NDArray[np.int64]:
        below, config = level - 1, self._config
        return group(
            children.directions, config.target(below), config.cap(below), config.floor(below), config.seed
        )

    def _summaries(self, nodes: list[Node]) -> EmbeddingChunk:
        """What the parents of `nodes` hold of them."""
        nodes = sorted(nodes, key=lambda node: node.node_id)
        counts = [(int(node.children.live.sum()), int(node.children.total.sum())) for node in nodes]
        return EmbeddingChunk(
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
        level = LOWEST_LEVEL
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
                if level > LOWEST_LEVEL:
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
            elif root.level > LOWEST_LEVEL and self._fits_one_group(root):
                below = self._below(root, [self._node(one) for one in root.children.ids.tolist()])
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
        for level in range(LOWEST_LEVEL, self._node(self.root_id).level):
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
