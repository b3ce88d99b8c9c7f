"""Nodes and their embedding chunks in the file."""

from __future__ import annotations

from collections.abc import Mapping

import apsw

from mllm_plugin.store.snapshot import Snapshot
from mllm_plugin.tree.node import EmbeddingChunk, Node


def load_children(tx: apsw.Connection, node_id: int, dim: int) -> EmbeddingChunk:
    """The embedding chunk of a node, within a write transaction."""
    return Snapshot(tx, dim).children(node_id)


def leaf_nodes(tx: apsw.Connection, namespace_id: int) -> dict[int, int]:
    """Version by node id of all level-2 nodes of a namespace, within a write transaction."""
    return Snapshot(tx).lowest_nodes(namespace_id)


class SqlNodeStore:
    """The `NodeStore` of one namespace within one write transaction."""

    def __init__(self, tx: apsw.Connection, namespace_id: int, dim: int, version: int) -> None:
        self._tx, self._namespace_id, self._version = tx, namespace_id, version
        self._stored = Snapshot(tx, dim)
        last = tx.execute("SELECT seq FROM sqlite_sequence WHERE name = 'nodes'").get
        self._last_id = last or 0

    def new_id(self) -> int:
        """An id that no node ever had."""
        self._last_id += 1
        return self._last_id

    def load(self, node_id: int) -> Node:
        """Reads a node with its embedding chunk."""
        row = self._stored.node(node_id)
        return Node(node_id, row.level, row.parent_id, self._stored.children(node_id))

    def save(self, node: Node) -> None:
        """Writes a node with its embedding chunk."""
        row = (node.node_id, self._namespace_id, node.level, node.parent_id, self._version)
        self._tx.execute(
            "INSERT INTO nodes VALUES (?, ?, ?, ?, ?) ON CONFLICT (node_id) DO UPDATE SET "
            "level = excluded.level, parent_id = excluded.parent_id, version = excluded.version",
            row,
        )
        children = node.children
        block = (
            node.node_id,
            children.ids.astype("<i8").tobytes(),
            children.vectors.astype("<f2").tobytes(),
            children.live.astype("<u4").tobytes(),
            children.total.astype("<u4").tobytes(),
            children.versions.astype("<i8").tobytes(),
            None if children.terms is None else children.terms.to_bytes(),
        )
        self._tx.execute("INSERT OR REPLACE INTO blocks VALUES (?, ?, ?, ?, ?, ?, ?, NULL)", block)

    def delete(self, node_id: int) -> None:
        """Deletes a node and its embedding chunk."""
        self._tx.execute("DELETE FROM nodes WHERE node_id = ?", (node_id,))

    def set_parent(self, node_id: int, parent_id: int | None) -> None:
        """Moves a node below another parent without touching its embedding chunk."""
        self._tx.execute("UPDATE nodes SET parent_id = ? WHERE node_id = ?", (parent_id, node_id))

    def place_chunks(self, homes: Mapping[int, int]) -> None:
        """Records the home of chunks: node id by chunk id."""
        self._tx.executemany(
            "UPDATE chunks SET node_id = ? WHERE chunk_id = ?",
            ((node, chunk) for chunk, node in homes.items()),
        )
