"""Reads the arrays of a namespace from the file, and what was written since they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.image.space import Level, Space, arrange
from mllm_plugin.lexical import TermCounts
from mllm_plugin.store.namespaces import NamespaceRow
from mllm_plugin.store.snapshot import Snapshot
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


def read_space(snapshot: Snapshot, row: NamespaceRow) -> Space | None:
    """The arrays of a namespace; None where it is empty, or a node has several vectors."""
    if row.root_id is None:
        return None
    nodes, levels, terms = [row.root_id], [], TermCounts.empty()
    for depth in range(snapshot.node(row.root_id).level - 1, LEAF_LEVEL - 2, -1):
        blocks = [snapshot.children(node) for node in nodes]
        if any(block.vectors.shape[1] != 1 for block in blocks):
            return None
        if levels:
            levels[-1] = replace(levels[-1], sizes=np.array([len(block) for block in blocks], np.int64))
        levels.append(_level(blocks))
        nodes = levels[-1].ids.tolist()
        if depth == LEAF_LEVEL - 1:
            terms = _terms(blocks)
    return arrange(levels, terms, row.version)


def read_delta(snapshot: Snapshot, row: NamespaceRow, space: Space) -> Delta:
    """What was written between the arrays' version and the snapshot's.

    Costs what the edits touched, and a look at the lowest nodes' versions.
    """
    lower, upper = space.lowest
    versions = snapshot.lowest_nodes(row.namespace_id)
    changed = {node for node, version in versions.items() if version > space.version}
    stale = ~np.isin(space.ids[lower:upper], list(versions.keys() - changed))
    live = space.live
    if stale.any() or lower == upper:
        live = live.copy()
        for node in (lower + np.flatnonzero(stale)).tolist():
            live[space.first[node] : space.first[node + 1]] = 0
        live[:] = space.counts(live[space.nodes :] > 0)
    if lower == upper:  # the root's own chunks: all of them are read again
        live = np.zeros_like(live) if changed or row.version != space.version else space.live
    blocks = [snapshot.children(node) for node in sorted(changed)]
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
