"""Which chunks a filter lets through: sorted ids and counts per node, so that a walk can prune subtrees.

Shapes: n chunks, k nodes, or n ids that are looked up among k.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mllm_plugin.lru import LRU
from mllm_plugin.shapes import Int64
from mllm_plugin.store.filters import Clause, compile_filter
from mllm_plugin.store.namespaces import NamespaceRow
from mllm_plugin.store.snapshot import NodeRow, Snapshot
from mllm_plugin.store.times import ALWAYS, When
from mllm_plugin.store.values import exact

_MOST_CACHED = 64
_Key = tuple[int, int, Clause, tuple[str, ...], int | None, When]


@dataclass(frozen=True, eq=False)
class Allowed:
    """Live chunks that match a filter.

    Attributes:
        chunk_ids: Ascending.
        node_ids, node_counts: Every node above one of them, ascending, with how many lie below it.
    """

    chunk_ids: Int64[np.ndarray, " n"]
    node_ids: Int64[np.ndarray, " k"]
    node_counts: Int64[np.ndarray, " k"]

    def chunks(self, ids: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """1 for each of `ids` that is allowed, else 0."""
        return _lookup(ids, self.chunk_ids, np.ones(len(self.chunk_ids), dtype=np.int64))

    def below(self, ids: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """How many allowed chunks lie below each of these nodes."""
        return _lookup(ids, self.node_ids, self.node_counts)


class AllowedCache:
    """Evaluates filters; keeps the last results for as long as their namespace does not change.

    A result is kept under what was asked of the file, the compiled filter with its values, and under nothing
    that an object of the caller says of itself.
    """

    def __init__(self) -> None:
        self._found: LRU[_Key, Allowed] = LRU(_MOST_CACHED)

    def get(
        self,
        snapshot: Snapshot,
        row: NamespaceRow,
        condition: Mapping[str, Any] | None,
        exclude_labels: Sequence[str],
        when: When = ALWAYS,
    ) -> Allowed:
        """The chunks of a namespace that a filter lets through; live ones, or as `when` says."""
        clause = compile_filter(condition, row.namespace_id)
        labels = tuple(sorted(map(exact, exclude_labels)))
        key = (row.namespace_id, row.version, clause, labels, snapshot.overdue, when)
        allowed = self._found.get(key)
        if allowed is None:
            allowed = _evaluate(snapshot, row, clause, labels, when)
            self._found.put(key, allowed, 1)
        return allowed


def _evaluate(
    snapshot: Snapshot, row: NamespaceRow, clause: Clause, exclude_labels: Sequence[str], when: When
) -> Allowed:
    """Finds the chunks of a namespace that a filter lets through."""
    pairs = snapshot.matching(row, clause, exclude_labels, when)
    counts = _climb(snapshot.nodes(row), pairs[:, 1])
    node_ids = np.array(sorted(counts), dtype=np.int64)
    node_counts = np.array([counts[node] for node in node_ids.tolist()], dtype=np.int64)
    return Allowed(np.sort(pairs[:, 0]), node_ids, node_counts)


def _climb(nodes: Sequence[NodeRow], homes: Int64[np.ndarray, " n"]) -> dict[int, int]:
    """Chunks below every node on the way from their homes to the root; `nodes` from the lowest level up."""
    ids, found = np.unique(homes, return_counts=True)
    counts = dict(zip(ids.tolist(), found.tolist(), strict=True))
    for node in nodes:
        if node.node_id in counts and node.parent_id is not None:
            counts[node.parent_id] = counts.get(node.parent_id, 0) + counts[node.node_id]
    return counts


def _lookup(
    ids: Int64[np.ndarray, " n"], known: Int64[np.ndarray, " k"], values: Int64[np.ndarray, " k"]
) -> Int64[np.ndarray, " n"]:
    if not len(known):
        return np.zeros(len(ids), dtype=np.int64)
    place = np.searchsorted(known, ids).clip(max=len(known) - 1)
    return np.where(known[place] == ids, values[place], 0)
