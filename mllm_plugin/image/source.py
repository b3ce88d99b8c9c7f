"""Reads the arrays of a namespace from the file, and what was written since they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import apsw
import numpy as np
from numpy.typing import NDArray

from mllm_plugin.image.space import Level, Space, arrange
from mllm_plugin.lexical import TermCounts
from mllm_plugin.store.namespaces import NamespaceRow
from mllm_plugin.store.nodes import leaf_nodes, load_children
from mllm_plugin.tree.editor import LEAF_LEVEL
from mllm_plugin.tree.node import Children


@dataclass(frozen=True)
class Delta:
    """What a snapshot holds that the arrays do not.

    Attributes:
        live: In place of the arrays' [R]: nothing of a node that changed or went.
        added: The chunks of the nodes that changed or are new; scored one and all.
    """

    live: NDArray[np.uint32]
    added: Space | None


def read_space(tx: apsw.Connection, row: NamespaceRow, dim: int) -> Space | None:
    """The arrays of a namespace; None where it is empty, or a node has several vectors."""
    if row.root_id is None:
        return None
    level = tx.execute("SELECT level FROM nodes WHERE node_id = ?", (row.root_id,)).get
    nodes, levels, terms = [row.root_id], [], TermCounts.empty()
    for depth in range(level - 1, LEAF_LEVEL - 2, -1):
        blocks = [load_children(tx, node, dim) for node in nodes]
        if any(block.vectors.shape[1] != 1 for block in blocks):
            return None
        if levels:
            levels[-1] = replace(levels[-1], sizes=np.array([len(block) for block in blocks], np.int64))
        levels.append(_level(blocks))
        nodes = levels[-1].ids.tolist()
        if depth == LEAF_LEVEL - 1:
            terms = _terms(blocks)
    return arrange(levels, terms, row.version)


def read_delta(tx: apsw.Connection, row: NamespaceRow, space: Space, dim: int) -> Delta:
    """What was written between the arrays' version and the snapshot's.

    Costs what the edits touched, and a count of the nodes.
    """
    lower, upper = space.lowest
    changed = dict(
        tx.execute(
            "SELECT node_id, version FROM nodes WHERE namespace_id = ? AND level = ? AND version > ?",
            (row.namespace_id, LEAF_LEVEL, space.version),
        )
    )
    known = space.ids[lower:upper]
    stale = np.isin(known, np.fromiter(changed, np.int64, len(changed)))
    total = tx.execute(
        "SELECT count(*) FROM nodes WHERE namespace_id = ? AND level = ?", (row.namespace_id, LEAF_LEVEL)
    ).get
    if total - len(changed) != int((~stale).sum()):
        stale = ~np.isin(known, list(leaf_nodes(tx, row.namespace_id).keys() - changed.keys()))
    live = space.live
    if stale.any() or lower == upper:
        live = live.copy()
        for node in (lower + np.flatnonzero(stale)).tolist():
            live[space.first[node] : space.first[node + 1]] = 0
        live[:] = space.counts(live[space.nodes :] > 0)
    if lower == upper:  # the root's own chunks: all of them are read again
        live = np.zeros_like(live) if changed or row.version != space.version else space.live
    blocks = [load_children(tx, node, dim) for node in sorted(changed)]
    if not blocks:
        return Delta(live, None)
    return Delta(live, arrange([_level(blocks)], _terms(blocks), row.version))


def _level(blocks: Sequence[Children]) -> Level:
    joined = [
        np.concatenate(parts) for parts in zip(*((b.ids, b.live, b.versions) for b in blocks), strict=True)
    ]
    vectors = np.concatenate([block.vectors[:, 0] for block in blocks])
    return Level(*joined, vectors=vectors, sizes=np.zeros(0, np.int64))


def _terms(blocks: Sequence[Children]) -> TermCounts:
    return TermCounts.concat([block.terms for block in blocks if block.terms is not None])
