"""Turns trained scores into estimates of the best cosine below a node, and finds the slacks of the walk.

Shapes: m queries, b of them, g nodes of a level.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from mllm_plugin.shapes import Float32
from mllm_plugin.training.routing.config import TrainingConfig
from mllm_plugin.training.routing.evaluate import Trial, Walks, best_below, node_scores
from mllm_plugin.training.routing.modules import HierarchyModule
from mllm_plugin.tree.editor import LOWEST_LEVEL

_FITTED_QUERIES = 200
_FITTED_NODES = 64  # per query: the slack matters among the best
_SLACKS = (0.02, 0.04, 0.06, 0.08, 0.1, 0.125, 0.15, 0.175, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5)


def calibrate(
    module: HierarchyModule, trial: Trial, config: TrainingConfig, device: torch.device
) -> dict[int, dict[str, float]]:
    """Measures `scale`, `offset`, `path` and `slack` of every trained level.

    Args:
        module: Trained encoders and rankers.
        trial: Held-out queries over a grouping.
        config: Says which width the slacks are for, and what they may cost.
        device: Where the module is.
    """
    scores, paths = node_scores(module, trial, device)
    fits = _fits(scores, paths, trial)
    numbers: dict[int, dict[str, float]] = {}
    for level in range(LOWEST_LEVEL, config.top_level + 1):
        scale, offset = fits[min(level, len(fits) + 1)]
        above = fits.get(level + 1)
        path = paths[min(level, len(paths) + 1) - LOWEST_LEVEL]
        path = path * scale / above[0] if above else path
        numbers[level] = {
            "scale": scale,
            "offset": offset - (path * above[1] if above else 0.0),
            "path": path,
            "slack": float("inf"),
        }
    for level in reversed(numbers):
        numbers[level]["slack"] = _slack(scores, numbers, trial, level, config)
    return numbers


def calibrated_walk(
    scores: Sequence[Float32[np.ndarray, "m _"]],
    numbers: dict[int, dict[str, float]],
    trial: Trial,
    width: int,
) -> Walks:
    """A walk with calibrated scores and slacks, as a memory does it."""
    levels = [numbers[min(level, max(numbers))] for level in range(LOWEST_LEVEL, LOWEST_LEVEL + len(scores))]
    shown = [one * row["scale"] + row["offset"] for one, row in zip(scores, levels, strict=True)]
    slacks = [row["slack"] if np.isfinite(row["slack"]) else None for row in levels]
    return trial.walk(shown, width=width, slacks=slacks, paths=[row["path"] for row in levels])


def _fits(
    scores: Sequence[Float32[np.ndarray, "m _"]], paths: Sequence[float], trial: Trial
) -> dict[int, tuple[float, float]]:
    """Slope and intercept of the best cosine below on the score, path included, by level."""
    places = np.arange(min(_FITTED_QUERIES, len(trial.queries)))
    best = best_below(trial, places)
    fits: dict[int, tuple[float, float]] = {}
    above: NDArray[np.float32] | None = None
    for place in range(len(scores) - 1, -1, -1):
        total = scores[place][places]
        if above is not None:
            total = total + np.float32(paths[place]) * above[:, trial.grouping.parents[place + 1]]
        fits[place + LOWEST_LEVEL] = _line(total, best[place])
        above = total
    return fits


def _line(scores: Float32[np.ndarray, "b g"], best: Float32[np.ndarray, "b g"]) -> tuple[float, float]:
    count = min(_FITTED_NODES, scores.shape[1])
    rows = np.argsort(-scores, axis=1)[:, :count]
    x, y = np.take_along_axis(scores, rows, 1).ravel(), np.take_along_axis(best, rows, 1).ravel()
    spread = float(((x - x.mean()) ** 2).mean())
    slope = float(((x - x.mean()) * (y - y.mean())).mean() / spread) if spread > 1e-12 else 1.0
    slope = max(slope, 0.05)
    return slope, float(y.mean() - slope * x.mean())


def _slack(
    scores: Sequence[Float32[np.ndarray, "m _"]],
    numbers: dict[int, dict[str, float]],
    trial: Trial,
    level: int,
    config: TrainingConfig,
) -> float:
    """The smallest slack of a level that costs no more recall than allowed; infinity when none does."""
    aim = calibrated_walk(scores, numbers, trial, config.beam_width).recall.mean() - config.recall_loss
    for slack in _SLACKS:
        tried = {**numbers, level: {**numbers[level], "slack": slack}}
        if calibrated_walk(scores, tried, trial, config.beam_width).recall.mean() >= aim:
            return slack
    return float("inf")
