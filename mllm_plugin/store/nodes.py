"""Nodes and their embedding chunks in the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import apsw
import numpy as np

from mllm_plugin.lexical import TermCounts
from mllm_plugin.store.failures import decoding
from mllm_plugin.tree.editor import LEAF_LEVEL
from mllm_plugin.tree.node import Children, Node

_BLOCK = "SELECT ids, vectors, live, total, versions, terms FROM blocks WHERE node_id = ?"


def load_children(tx: apsw.Connection, node_id: int, dim: int) -> Children:
    """Reads the embedding chunk of a node.

    Raises:
        DamagedStoreError: It is not there, or its columns do not fit each other.
    """
    with decoding(f"the embedding chunk of node {node_id}"):
        return children_of(tx.execute(_BLOCK, (node_id,)).get, dim)


def children_of(block: Sequence[Any], dim: int) -> Children:
    """Decodes the columns of an embedding chunk: ids, vectors, live, total, versions, terms."""
    ids, vectors, live, total, versions, terms = block
    count = len(ids) // 8
    return Children(
        ids=np.frombuffer(ids, dtype="<i8"),
        vectors=np.frombuffer(vectors, dtype="<f2").reshape(count, -1, dim),
        live=np.frombuffer(live, dtype="<u4", count=count).astype(np.int64),
        total=np.frombuffer(total, dtype="<u4", count=count).astype(np.int64),
        versions=np.frombuffer(versions, dtype="<i8", count=count),
        terms=None if terms is None else TermCounts.from_bytes(terms, count),
    )


class SqlNodeStore:
    """The `NodeStore` of one namespace within one write transaction."""

    def __init__(self, tx: apsw.Connection, namespace_id: int, dim: int, version: int) -> None:
        self._tx, self._namespace_id, self._dim, self._version = tx, namespace_id, dim, version
        last = tx.execute("SELECT seq FROM sqlite_sequence WHERE name = 'nodes'").get
        self._last_id = last or 0

    def new_id(self) -> int:
        """An id that no node ever had."""
        self._last_id += 1
        return self._last_id

    def load(self, node_id: int) -> Node:
        """Reads a node with its embedding chunk."""
        with decoding(f"node {node_id}"):
            level, parent_id = self._tx.execute(
                "SELECT level, parent_id FROM nodes WHERE node_id = ?", (node_id,)
            ).get
        return Node(node_id, level, parent_id, load_children(self._tx, node_id, self._dim))

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


def leaf_nodes(tx: apsw.Connection, namespace_id: int) -> dict[int, int]:
    """Version by node id of all level-2 nodes of a namespace."""
    rows = tx.execute(
        "SELECT node_id, version FROM nodes WHERE namespace_id = ? AND level = ?", (namespace_id, LEAF_LEVEL)
    )
    return dict(rows)  # type: ignore[arg-type]
