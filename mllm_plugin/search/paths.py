"""The route from the top level down to a chunk, with the score of each node on it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mllm_plugin.search.candidates import NodeRef, View
from mllm_plugin.search.query import Query
from mllm_plugin.types import PathStep


def trace_paths(view: View, query: Query, homes: Iterable[int]) -> dict[int, tuple[PathStep, ...]]:
    """Steps from the top level down to each level-2 node; none for a root, which has no embedding."""
    known: dict[int, tuple[PathStep, ...]] = {}
    for node_id in homes:
        _trace(view, query, node_id, known)
    return known


def _trace(
    view: View, query: Query, node_id: int, known: dict[int, tuple[PathStep, ...]]
) -> tuple[PathStep, ...]:
    if node_id not in known:
        level, parent_id = view.tx.execute(
            "SELECT level, parent_id FROM nodes WHERE node_id = ?", (node_id,)
        ).get
        if parent_id is None:
            known[node_id] = ()
        else:
            above = _trace(view, query, parent_id, known)
            known[node_id] = (
                *above,
                PathStep(level, node_id, _score(view, query, parent_id, node_id, level)),
            )
    return known[node_id]


def _score(view: View, query: Query, parent_id: int, node_id: int, level: int) -> float:
    version = view.tx.execute("SELECT version FROM nodes WHERE node_id = ?", (parent_id,)).get
    block = view.block(NodeRef(parent_id, version))
    row = int(np.searchsorted(block.ids, node_id))
    scores = view.hierarchy.ranker(level).score(query.vectors[None], block.vectors[row : row + 1])
    return float(scores[0, 0])
