"""Which chunks a filter lets through: sorted ids and counts per node, so that a walk can prune subtrees."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apsw
import numpy as np
from numpy.typing import NDArray

from mllm_plugin.store.metadata import compile_filter
from mllm_plugin.store.namespaces import NamespaceRow

_MOST_CACHED = 64


@dataclass(frozen=True)
class Allowed:
    """Live chunks that match a filter.

    Attributes:
        chunk_ids: Ascending [n].
        node_ids, node_counts: Every node above one of them, ascending, with how many lie below it.
    """

    chunk_ids: NDArray[np.int64]
    node_ids: NDArray[np.int64]
    node_counts: NDArray[np.int64]

    def chunks(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """1 for each of `ids` that is allowed, else 0."""
        return _lookup(ids, self.chunk_ids, np.ones(len(self.chunk_ids), dtype=np.int64))

    def below(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many allowed chunks lie below each of these nodes."""
        return _lookup(ids, self.node_ids, self.node_counts)


class AllowedCache:
    """Evaluates filters; keeps the last results for as long as their namespace does not change."""

    def __init__(self) -> None:
        self._found: OrderedDict[tuple[int, int, str], Allowed] = OrderedDict()
        self._lock = threading.Lock()

    def get(
        self,
        tx: apsw.Connection,
        row: NamespaceRow,
        condition: Mapping[str, Any] | None,
        exclude_labels: Sequence[str],
    ) -> Allowed | None:
        """The chunks that a filter lets through; None when there is nothing to filter."""
        if not condition and not exclude_labels:
            return None
        key = (row.namespace_id, row.version, repr((condition, sorted(exclude_labels))))
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
                return self._found[key]
        allowed = evaluate(tx, row.namespace_id, condition, exclude_labels)
        with self._lock:
            self._found[key] = allowed
            if len(self._found) > _MOST_CACHED:
                self._found.popitem(last=False)
        return allowed


def evaluate(
    tx: apsw.Connection, namespace_id: int, condition: Mapping[str, Any] | None, exclude_labels: Sequence[str]
) -> Allowed:
    """Finds the live chunks of a namespace that a filter lets through."""
    clause = compile_filter(condition, namespace_id)
    rows = tx.execute(
        "SELECT c.chunk_id, c.node_id FROM documents d JOIN chunks c USING (document_rowid) "
        f"WHERE d.namespace_id = ? AND d.masked = 0 AND ({clause.sql}) AND d.document_rowid NOT IN "
        "(SELECT document_rowid FROM labels WHERE label IN (SELECT value FROM json_each(?)))",
        (namespace_id, *clause.parameters, json.dumps(exclude_labels)),
    )
    pairs = np.array(list(rows), dtype=np.int64).reshape(-1, 2)
    counts = _climb(tx, namespace_id, pairs[:, 1])
    nodes = np.array(sorted(counts), dtype=np.int64)
    return Allowed(
        np.sort(pairs[:, 0]), nodes, np.array([counts[node] for node in nodes.tolist()], dtype=np.int64)
    )


def _climb(tx: apsw.Connection, namespace_id: int, homes: NDArray[np.int64]) -> dict[int, int]:
    """Chunks below every node on the way from their homes to the root."""
    parents = dict(tx.execute("SELECT node_id, parent_id FROM nodes WHERE namespace_id = ?", (namespace_id,)))
    counts: dict[int, int] = {}
    ids, found = np.unique(homes, return_counts=True)
    for node_id, count in zip(ids.tolist(), found.tolist(), strict=True):
        while node_id is not None:
            counts[node_id] = counts.get(node_id, 0) + count
            node_id = parents[node_id]
    return counts


def _lookup(ids: NDArray[np.int64], known: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.int64]:
    if not len(known):
        return np.zeros(len(ids), dtype=np.int64)
    place = np.searchsorted(known, ids).clip(max=len(known) - 1)
    return np.where(known[place] == ids, values[place], 0)
