"""Held-out recall of a walk against the embeddings it scores, by the rules of `search.beam`.

Shapes: n chunks, m queries, b of them, k targets, d dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mllm_plugin.config import TreeConfig
from mllm_plugin.search.walk import BEST_LEAST, beam_at, likely, looked_into, promising
from mllm_plugin.shapes import Float32, Float64, Int64
from mllm_plugin.training.routing.config import TrainingConfig
from mllm_plugin.training.routing.grouping import Grouping, draw_grouping
from mllm_plugin.training.routing.modules import HierarchyModule
from mllm_plugin.training.routing.samples import Samples
from mllm_plugin.tree.editor import LOWEST_LEVEL

_MOST_MEASURED = 500
_TRIAL_CHUNKS = 65_536


@dataclass(frozen=True)
class Walks:
    """How walks over all queries did.

    Attributes:
        recall: Share of a query's targets among the chunks reached [m].
        scored: Embeddings scored, as a share of the chunks [m].
    """

    recall: Float64[np.ndarray, " m"]
    scored: Float64[np.ndarray, " m"]

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
    leaves: Float32[np.ndarray, "n d"]
    queries: Float32[np.ndarray, "m d"]
    targets: Int64[np.ndarray, "m k"]

    def walk(
        self,
        scores: Sequence[Float32[np.ndarray, "_ _"]],
        *,
        width: int,
        slacks: Sequence[float | None],
        paths: Sequence[float] | None = None,
    ) -> Walks:
        """Walks for every query.

        Args:
            scores: Node scores [m, g] of every level, from level 2 up.
            width: Lowest nodes kept at most; fewer above them (`beam_at`).
            slacks: Slack of every level, from level 2 up; None keeps the beam as it is.
            paths: Weight of the parent's score, per level.
        """
        members = [members_of(parent) for parent in self.grouping.parents]
        paths = paths or [0.0] * len(scores)
        recall, scored = np.zeros(len(self.queries)), np.zeros(len(self.queries))
        for place in range(len(self.queries)):
            rows, cost = self._reach(place, [score[place] for score in scores], members, width, slacks, paths)
            wanted = self.targets[place][self.targets[place] >= 0]
            recall[place] = np.isin(wanted, rows).mean() if len(wanted) else 1.0
            scored[place] = cost / len(self.leaves)
        return Walks(recall, scored)

    def _reach(
        self,
        place: int,
        scores: Sequence[NDArray[np.float32]],
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
            order = np.argsort(-total, kind="stable")
            nodes, total = nodes[order], total[order]
            kept = min(
                beam_at(level + LOWEST_LEVEL, width), likely(total, level + LOWEST_LEVEL, slacks[level])
            )
            nodes, total = nodes[:kept], total[:kept]
            if level > 0:
                below = [members[level][node] for node in nodes]
                path = np.repeat(total, [len(part) for part in below])
                nodes = np.concatenate(below)
        if (slack := slacks[0]) is not None and len(nodes) > (first := looked_into(width)):
            rows = np.concatenate([members[0][node] for node in nodes[:first].tolist()])
            found = self.leaves[rows] @ self.queries[place]
            nodes = nodes[: promising(total, found, first, BEST_LEAST, slack)]
        rows = np.concatenate([members[0][node] for node in nodes.tolist()])
        return rows, cost + len(rows)


def best_below(trial: Trial, places: Int64[np.ndarray, " b"]) -> list[Float32[np.ndarray, "b _"]]:
    """Best cosine below every node for some of the queries, per level from 2 up."""
    below = trial.queries[places] @ trial.leaves.T
    found = []
    for parent in trial.grouping.parents:
        order = np.argsort(parent, kind="stable")
        starts = np.searchsorted(parent[order], np.arange(int(parent.max()) + 1))
        below = np.maximum.reduceat(below[:, order], starts, axis=1)
        found.append(below)
    return found


def members_of(parent: Int64[np.ndarray, " n"]) -> list[Int64[np.ndarray, " _"]]:
    """The rows below each node, from the node above each row."""
    order = np.argsort(parent, kind="stable")
    return np.split(order, np.searchsorted(parent[order], np.arange(1, int(parent.max()) + 1)))


def make_trial(
    samples: Samples, tree: TreeConfig, config: TrainingConfig, most: int = _MOST_MEASURED
) -> Trial:
    """A grouping of its own over (at most 65,536 of) the chunks, with the held-out queries."""
    rng = np.random.default_rng((config.seed, 2**20))
    grouping = draw_grouping(samples.leaves, tree, most=_TRIAL_CHUNKS, rng=rng)
    rows = np.flatnonzero(samples.held_out)
    rows = rng.permutation(rows)[:most]
    return Trial(
        grouping,
        samples.leaves[grouping.rows],
        samples.queries[rows],
        places_in(grouping.rows, samples.targets[rows]),
    )


@torch.no_grad()
def node_scores(
    module: HierarchyModule, trial: Trial, device: torch.device
) -> tuple[list[Float32[np.ndarray, "m _"]], list[float]]:
    """Scores of a trial's nodes per level from 2 up, and each level's path weight."""
    parents = [torch.from_numpy(parent).to(device) for parent in trial.grouping.parents]
    nodes = module.fold(torch.from_numpy(trial.leaves).to(device), parents)
    queries = torch.from_numpy(trial.queries).to(device)
    levels = list(enumerate(nodes, LOWEST_LEVEL))
    scores = [module.ranker(level)(queries, found).float().cpu().numpy() for level, found in levels]
    return scores, [float(module.ranker(level).path) for level, _ in levels]


def places_in(rows: Int64[np.ndarray, " n"], targets: Int64[np.ndarray, "m k"]) -> Int64[np.ndarray, "m k"]:
    """Places of targets in the sorted `rows`; -1 where they are not in them."""
    place = np.searchsorted(rows, targets).clip(max=len(rows) - 1)
    return np.where((targets >= 0) & (rows[place] == targets), place, -1)
