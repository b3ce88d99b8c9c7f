"""Held-out recall of a walk against the embeddings it scores, simulated on arrays as `search.walk` walks.

Shapes: n chunks, g nodes of a level, m queries, k targets, d dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.search.walk import BEST_LEAST, FIRST_LEAST, FIRST_SHARE, beam_at
from mllm_plugin.training.grouping import Grouping
from mllm_plugin.tree.editor import LEAF_LEVEL

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Walks:
    """How walks over all queries did.

    Attributes:
        recall: Share of a query's targets among the chunks reached [m].
        scored: Embeddings scored, as a share of the chunks [m].
    """

    recall: NDArray[np.float64]
    scored: NDArray[np.float64]

    @property
    def point(self) -> tuple[float, float]:
        """Mean share scored and mean recall."""
        return float(self.scored.mean()), float(self.recall.mean())


@dataclass(frozen=True)
class Trial:
    """Everything that walks of one grouping need.

    Args:
        grouping: The tree.
        leaves: Chunk embeddings of the grouping's rows [n, d].
        queries: Query embeddings [m, d].
        targets: Places of each query's best chunks in the grouping [m, k]; -1 for none.
    """

    grouping: Grouping
    leaves: Matrix
    queries: Matrix
    targets: NDArray[np.int64]

    def walk(
        self,
        scores: Sequence[Matrix],
        *,
        width: int,
        slacks: Sequence[float | None],
        paths: Sequence[float] | None = None,
    ) -> Walks:
        """Walks for every query.

        Args:
            scores: Node scores [m, g] of every level, from level 2 up.
            width: Lowest nodes kept at most; fewer above them (`beam_at`).
            slacks: Margin of every level, from level 2 up; None keeps the beam as it is.
            paths: Weight of the parent's score, per level.
        """
        members = [members_of(parent) for parent in self.grouping.parents]
        paths = paths or [0.0] * len(scores)
        recall, scored = np.zeros(len(self.queries)), np.zeros(len(self.queries))
        for place in range(len(self.queries)):
            rows, cost = self._reach(place, [one[place] for one in scores], members, width, slacks, paths)
            wanted = self.targets[place][self.targets[place] >= 0]
            recall[place] = np.isin(wanted, rows).mean() if len(wanted) else 1.0
            scored[place] = cost / len(self.leaves)
        return Walks(recall, scored)

    def _reach(
        self,
        place: int,
        scores: Sequence[Matrix],
        members: Sequence[Sequence[NDArray[np.int64]]],
        width: int,
        slacks: Sequence[float | None],
        paths: Sequence[float],
    ) -> tuple[NDArray[np.int64], int]:
        """Chunks that one walk reaches, and how many embeddings it scores."""
        top = len(scores) - 1
        nodes, path, cost = np.arange(len(scores[top])), np.zeros(len(scores[top]), np.float32), 0
        total = path
        for level in range(top, -1, -1):
            cost += len(nodes)
            total = scores[level][nodes] + np.float32(paths[level]) * path
            order = np.argsort(-total, kind="stable")[: beam_at(level + LEAF_LEVEL, width)]
            if level > 0 and (slack := slacks[level]) is not None:
                order = order[total[order] >= total[order[0]] - slack]
            nodes, total = nodes[order], total[order]
            if level > 0:
                below = [members[level][node] for node in nodes]
                path = np.repeat(total, [len(part) for part in below])
                nodes = np.concatenate(below)
        nodes = self._promising(place, nodes, total, members[0], width, slacks[0])
        rows = np.concatenate([members[0][node] for node in nodes])
        return rows, cost + len(rows)

    def _promising(
        self,
        place: int,
        nodes: NDArray[np.int64],
        total: Matrix,
        members: Sequence[NDArray[np.int64]],
        width: int,
        slack: float | None,
    ) -> NDArray[np.int64]:
        first = max(FIRST_LEAST, width // FIRST_SHARE)
        if slack is None or len(nodes) <= first:
            return nodes
        seen = self.leaves[np.concatenate([members[node] for node in nodes[:first]])] @ self.queries[place]
        if len(seen) < BEST_LEAST:
            return nodes
        least = np.partition(seen, len(seen) - BEST_LEAST)[len(seen) - BEST_LEAST] - slack
        return nodes[: max(first, int((total >= least).sum()))]


def best_below(trial: Trial, places: NDArray[np.int64]) -> list[Matrix]:
    """Best cosine below every node [len(places), g] for some of the queries, per level from 2 up."""
    below = trial.queries[places] @ trial.leaves.T
    found = []
    for parent in trial.grouping.parents:
        order = np.argsort(parent, kind="stable")
        starts = np.searchsorted(parent[order], np.arange(int(parent.max()) + 1))
        below = np.maximum.reduceat(below[:, order], starts, axis=1)
        found.append(below)
    return found


def members_of(parent: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The rows below each node, from the node above each row."""
    order = np.argsort(parent, kind="stable")
    return np.split(order, np.searchsorted(parent[order], np.arange(1, int(parent.max()) + 1)))
