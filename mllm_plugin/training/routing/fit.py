"""One call from samples to a hierarchy: train, calibrate, compare with the identity start."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mllm_plugin.config import TreeConfig
from mllm_plugin.hierarchy import AttentionLevelEncoder, Hierarchy, LeafRanker, MappedRanker
from mllm_plugin.shapes import Float32
from mllm_plugin.training.curves import History, Panel
from mllm_plugin.training.losses import Loss, listwise_loss
from mllm_plugin.training.routing.calibration import calibrate, calibrated_walk
from mllm_plugin.training.routing.config import TrainingConfig
from mllm_plugin.training.routing.evaluate import Trial, members_of, node_scores
from mllm_plugin.training.routing.grouping import node_means
from mllm_plugin.training.routing.loop import train_hierarchy
from mllm_plugin.training.routing.modules import HierarchyModule
from mllm_plugin.training.routing.samples import Samples

WIDTHS = (2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)


@dataclass(frozen=True)
class Comparison:
    """Trained and identity walks over the same held-out queries and the same grouping.

    Attributes:
        identity, trained: Share of the chunks scored and recall, by beam width.
        width: Beam width at which they are compared.
        misses_identity: Targets that the identity start misses when it scores as much as the trained walk.
        misses_trained: Targets that the trained walk misses.
        misses_rival: Targets that another hierarchy, the one in place, misses when it scores as much.
    """

    identity: dict[int, tuple[float, float]]
    trained: dict[int, tuple[float, float]]
    width: int
    misses_identity: float
    misses_trained: float
    misses_rival: float | None = None

    @property
    def better(self) -> bool:
        """Whether training gained anything, over the hierarchy in place too."""
        rivals = [misses for misses in (self.misses_identity, self.misses_rival) if misses is not None]
        return self.misses_trained < min(rivals)

    @property
    def left(self) -> float:
        """Misses of the trained walk as a share of the identity start's."""
        return self.misses_trained / max(self.misses_identity, 1e-9)

    def summary(self) -> str:
        """What was gained, in words."""
        scored = self.trained[self.width][0]
        rival = ""
        if self.misses_rival is not None:
            rival = f"{100 * self.misses_rival:.2f} % with the hierarchy in place, "
        return (
            f"held-out questions, {100 * scored:.1f} % of the chunks scored: misses "
            f"{100 * self.misses_identity:.2f} % untrained, {rival}{100 * self.misses_trained:.2f} % trained"
        )


@dataclass(frozen=True)
class Fitted:
    """The outcome of a training run.

    Attributes:
        hierarchy: Trained modules; the leaf ranker is the one given.
        history: Curves.
        comparison: With the identity start.
        seconds: It took.
    """

    hierarchy: Hierarchy
    history: History
    comparison: Comparison
    seconds: float


def fit(
    samples: Samples,
    tree: TreeConfig,
    config: TrainingConfig = TrainingConfig(),
    *,
    leaf: LeafRanker | None = None,
    rival: Hierarchy | None = None,
    device: str | None = None,
    checkpoint: Path | None = None,
    loss: Loss = listwise_loss,
    progress: bool = True,
) -> Fitted:
    """Trains a hierarchy and measures it, beside the identity start and, if there is one, a rival.

    For the other arguments see `train_hierarchy`.
    """
    started = time.perf_counter()
    module, history, trial = train_hierarchy(
        samples, tree, config, device=device, checkpoint=checkpoint, loss=loss, progress=progress
    )
    where = next(module.parameters()).device
    numbers = calibrate(module, trial, config, where)
    compared = compare(module, numbers, trial, config.beam_width, where, rival)
    hierarchy = assemble(module, numbers, leaf, folds="encoders" in config.parts)
    return Fitted(hierarchy, history, compared, time.perf_counter() - started)


def assemble(
    module: HierarchyModule,
    numbers: Mapping[int, Mapping[str, float]],
    leaf: LeafRanker | None = None,
    *,
    folds: bool = True,
) -> Hierarchy:
    """The modules as a memory runs them; without `folds` nodes stay means."""
    levels = numbers if folds else ()
    encoders = {level: AttentionLevelEncoder(module.encoder(level).tensors()) for level in levels}
    rankers = {level: MappedRanker(module.ranker(level).tensors(row)) for level, row in numbers.items()}
    return Hierarchy(level_encoders=encoders, rankers=rankers, leaf_ranker=leaf, fingerprint="untitled")


def compare(
    module: HierarchyModule,
    numbers: dict[int, dict[str, float]],
    trial: Trial,
    width: int,
    device: torch.device,
    rival: Hierarchy | None = None,
) -> Comparison:
    """Walks with both at many beam widths."""
    scores = node_scores(module, trial, device)[0]
    plain = identity_scores(trial)
    slacks = [None] * len(plain)
    identity = {beam: trial.walk(plain, width=beam, slacks=slacks).point for beam in WIDTHS}
    trained = {beam: calibrated_walk(scores, numbers, trial, beam).point for beam in {*WIDTHS, width}}
    scored, recall = trained[width]
    missed = None if rival is None else 1 - recall_at(hierarchy_walks(rival, trial), scored)
    return Comparison(identity, trained, width, 1 - recall_at(identity, scored), 1 - recall, missed)


def hierarchy_walks(hierarchy: Hierarchy, trial: Trial) -> dict[int, tuple[float, float]]:
    """Share scored and recall of a hierarchy as a memory runs it, by beam width."""
    children, scores, rankers = trial.leaves.astype(np.float16)[:, None], [], []
    for level, parent in zip(trial.grouping.levels, trial.grouping.parents, strict=True):
        folded = [
            hierarchy.fold(level, children[rows], np.ones(len(rows), bool)) for rows in members_of(parent)
        ]
        children = np.stack(folded)
        rankers.append(hierarchy.ranker(level))
        scores.append(rankers[-1].score(trial.queries[:, None], children.astype(np.float32)))
    slacks = [ranker.slack for ranker in rankers]
    paths = [ranker.path_weight for ranker in rankers]
    return {width: trial.walk(scores, width=width, slacks=slacks, paths=paths).point for width in WIDTHS}


def identity_scores(trial: Trial) -> list[Float32[np.ndarray, "m _"]]:
    """Cosines of the m queries with the normalised means of every level."""
    found, embeddings = [], trial.leaves
    for parent in trial.grouping.parents:
        embeddings = node_means(embeddings, parent)
        found.append(trial.queries @ embeddings.T)
    return found


def recall_at(points: Mapping[int, tuple[float, float]], scored: float) -> float:
    """Recall of a curve where it scores a share, on the line between its points."""
    curve = sorted(points.values())
    return float(np.interp(scored, [point[0] for point in curve], [point[1] for point in curve]))


def curves(fitted: Fitted) -> dict[str, Any]:
    """Everything measured, ready for JSON."""
    return {
        "history": fitted.history.rows,
        "identity": {str(width): point for width, point in fitted.comparison.identity.items()},
        "trained": {str(width): point for width, point in sorted(fitted.comparison.trained.items())},
        "summary": fitted.comparison.summary(),
        "seconds": round(fitted.seconds, 1),
    }


def panels(fitted: Fitted) -> list[Panel]:
    """Loss and held-out recall by measurement, and recall by embeddings scored."""
    rows = fitted.history.rows
    recall = {
        f"beam {width}, no slack": [(place, row[f"recall@{width}"]) for place, row in enumerate(rows)]
        for width in (16, 32, 64)
    }
    scored = {
        name: [(100 * share, value) for share, value in sorted(curve.values())]
        for name, curve in (
            ("identity", fitted.comparison.identity),
            ("trained", fitted.comparison.trained),
        )
    }
    losses = [(place, row["loss"]) for place, row in enumerate(rows)]
    return [
        Panel("loss", "measurement", {"training": losses}),
        Panel("held-out recall", "measurement", recall),
        Panel("held-out recall", "% of chunks scored", scored, most=15),
    ]
