"""Trains level encoders and rankers, pair by pair of levels, on groups that are drawn again and again.

Stage k trains encoders k and k + 1 with rankers k and k + 1 together: (1, 2), where Encoder 1 stays as it is,
then (2, 3) and so on; gradients of the upper level reach the encoder below it. At each level a query's
positives are the nodes above its best chunks, its negatives the other nodes that a beam visits on the way.
Sources: the beam's own nodes as negatives, Zhuo et al., OTM, 2020; joint training of tree and encoder, Li et
al., JTR, arXiv:2304.11943.

Shapes: b queries, k targets, g nodes of a level, d dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mllm_plugin.config import TreeConfig
from mllm_plugin.errors import InvalidInputError
from mllm_plugin.models.files import choose_device
from mllm_plugin.shapes import Bool, Float, Int64
from mllm_plugin.training import distributed
from mllm_plugin.training.checkpoints import Checkpoint
from mllm_plugin.training.curves import History
from mllm_plugin.training.losses import Loss, listwise_loss
from mllm_plugin.training.routing.config import TrainingConfig
from mllm_plugin.training.routing.evaluate import Trial, make_trial, node_scores, places_in
from mllm_plugin.training.routing.grouping import Grouping, draw_grouping
from mllm_plugin.training.routing.modules import HierarchyModule
from mllm_plugin.training.routing.samples import Samples
from mllm_plugin.tree.editor import LOWEST_LEVEL

_MEASURED_WIDTHS = (16, 32, 64)
_WARM_UP = 0.1


def train_hierarchy(
    samples: Samples,
    tree: TreeConfig,
    config: TrainingConfig = TrainingConfig(),
    *,
    device: str | None = None,
    checkpoint: Path | None = None,
    loss: Loss = listwise_loss,
    progress: bool = True,
) -> tuple[HierarchyModule, History, Trial]:
    """Trains all stages; with a checkpoint folder an interrupted run goes on where it was.

    Args:
        samples: Chunks, queries, targets.
        tree: Group sizes of the memory.
        config: Settings.
        device: "cpu", "cuda"; CUDA when there is one.
        checkpoint: Folder for the state after each measurement.
        loss: Of node scores [b, g] (-inf where the beam does not visit) and their share of the targets
            [b, g].
        progress: Show a progress bar.

    Returns:
        The best weights on held-out queries, the curves, and the trial that they were measured in.

    Raises:
        InvalidInputError: There are no held-out queries, or no others.
    """
    if samples.held_out.all() or not samples.held_out.any():
        raise InvalidInputError("training needs queries, and others held out to measure on")
    run = Loop(samples, tree, config, choose_device(device), checkpoint, loss)
    for stage in range(LOWEST_LEVEL - 1, config.top_level):
        run.stage(stage, progress)
    return run.module, run.history, run.trial


def mixed_precision(device: torch.device) -> torch.autocast:
    """bfloat16 for the products on CUDA, full precision elsewhere."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


class Loop:
    """One run: stage after stage, measured and kept."""

    def __init__(
        self,
        samples: Samples,
        tree: TreeConfig,
        config: TrainingConfig,
        device: torch.device,
        checkpoint: Path | None,
        loss: Loss,
    ) -> None:
        torch.manual_seed(config.seed)
        self.samples, self.tree, self.config, self.device, self.loss = samples, tree, config, device, loss
        self.folder = checkpoint
        self.module = HierarchyModule(samples.leaves.shape[1], config).to(device)
        self.history = History()
        self.trial = make_trial(samples, tree, config)
        self.train_rows = np.flatnonzero(~samples.held_out)
        self._drawn: tuple[tuple[int, int], tuple[Grouping, Tensor, list[Tensor]]] | None = None

    def stage(self, stage: int, progress: bool) -> None:
        """Trains one pair of levels; keeps the weights that did best on held-out queries."""
        levels = [level for level in (stage, stage + 1) if level >= LOWEST_LEVEL]
        optimizer, schedule = self._optimizer(levels)
        folder = None if self.folder is None else self.folder / f"stage-{stage}"
        checkpoint = Checkpoint(folder, self.module, optimizer, self.history.rows)
        state = checkpoint.load()
        if state.best is None:
            state.measured(self._measure(stage, 0, float("nan")), self.module)
        bar = tqdm(
            range(state.step, self.config.steps),
            desc=f"levels {stage}, {stage + 1}: {' and '.join(self.config.parts)}",
            disable=not progress or not distributed.is_first(),
        )
        for step in bar:
            if state.stale >= self.config.patience:
                break
            schedule(step)
            value = self.step(stage, levels, step, optimizer)
            if (step + 1) % self.config.evaluate_every == 0 or step + 1 == self.config.steps:
                misses = self._measure(stage, step + 1, value)
                state.measured(misses, self.module)
                state.step = step + 1
                bar.set_postfix(loss=f"{value:.3f}", misses=f"{misses:.4f}")
                if distributed.is_first():
                    checkpoint.save(state)
        self.module.load_state_dict(state.best or {})

    def _optimizer(self, levels: Sequence[int]) -> tuple[torch.optim.Optimizer, Callable[[int], None]]:
        encoders = [p for level in levels for p in self.module.encoder(level).parameters()]
        rankers = [p for level in levels for p in self.module.ranker(level).parameters()]
        rates = (self.config.learning_rate, self.config.learning_rate / 3)
        trained = {"encoders": (encoders, rates[0]), "rankers": (rankers, rates[1])}
        groups = [{"params": trained[part][0], "lr": trained[part][1]} for part in self.config.parts]
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0)

        def schedule(step: int) -> None:
            """Linear warm-up, then a cosine down to nothing."""
            share = (step + 1) / self.config.steps
            factor = share / _WARM_UP if share < _WARM_UP else 0.5 + 0.5 * np.cos(np.pi * share)
            for group, part in zip(optimizer.param_groups, self.config.parts, strict=True):
                group["lr"] = trained[part][1] * factor

        return optimizer, schedule

    def step(self, stage: int, levels: Sequence[int], step: int, optimizer: torch.optim.Optimizer) -> float:
        """Takes a step; the same for the same number."""
        grouping, leaves, parents = self._grouping(stage, step // self.config.redraw)
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for part in range(self.config.accumulate):
            rng = np.random.default_rng((self.config.seed, stage, step, part, distributed.rank()))
            rows = rng.choice(self.train_rows, min(self.config.batch, len(self.train_rows)), replace=False)
            with mixed_precision(self.device):
                nodes = self.module.fold(leaves, parents, levels)
                loss = self._loss(grouping, parents, nodes, rows, levels)
            (loss / self.config.accumulate).backward()
            total += float(loss.detach()) / self.config.accumulate
        distributed.average_gradients(self.module)
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        optimizer.step()
        return total

    def _grouping(self, stage: int, draw: int) -> tuple[Grouping, Tensor, list[Tensor]]:
        key = (stage, draw)
        if self._drawn is None or self._drawn[0] != key:
            rng = np.random.default_rng((self.config.seed, stage, draw, distributed.rank()))
            grouping = draw_grouping(self.samples.leaves, self.tree, most=self.config.chunks, rng=rng)
            leaves = torch.from_numpy(self.samples.leaves[grouping.rows]).to(self.device)
            parents = [torch.from_numpy(parent).to(self.device) for parent in grouping.parents]
            self._drawn = (key, (grouping, leaves, parents))
        return self._drawn[1]

    def _loss(
        self,
        grouping: Grouping,
        parents: Sequence[Int64[Tensor, " _"]],
        nodes: Sequence[Float[Tensor, "_ d"]],
        rows: Int64[np.ndarray, " b"],
        levels: Sequence[int],
    ) -> Float[Tensor, ""]:
        """Sum over the stage's levels; only nodes that the beam visits compete."""
        queries = torch.from_numpy(self.samples.queries[rows]).to(self.device)
        chunks = places_in(grouping.rows, self.samples.targets[rows])
        total = queries.new_zeros(())
        above: Tensor | None = None
        visited = torch.ones(len(rows), len(nodes[-1]), dtype=torch.bool, device=self.device)
        for level in range(len(nodes) + 1, LOWEST_LEVEL - 1, -1):
            ranker = self.module.ranker(level)
            scores = ranker(queries, nodes[level - LOWEST_LEVEL])
            if above is not None:
                parent = parents[level - LOWEST_LEVEL + 1]
                scores = scores + ranker.path * above.detach()[:, parent]
            wanted = _shares(grouping.ancestors(chunks, level), scores)
            if level in levels:
                sharp = scores.float() * ranker.log_scale.exp()
                shown = sharp.masked_fill(~(visited | (wanted > 0)), float("-inf"))
                total = total + self.loss(shown, wanted)
            above = scores
            if level > LOWEST_LEVEL:
                kept = _kept(scores.detach().masked_fill(~visited, float("-inf")), wanted, self.config.beam)
                visited = kept[:, parents[level - LOWEST_LEVEL]]
        return total

    def _measure(self, stage: int, step: int, loss: float) -> float:
        """Share of the held-out targets that is missed, over a few beam widths."""
        scores, paths = node_scores(self.module, self.trial, self.device)
        slacks = [None] * len(scores)
        points = {
            width: self.trial.walk(scores, width=width, slacks=slacks, paths=paths).point
            for width in _MEASURED_WIDTHS
        }
        row = {"stage": stage, "step": step, "loss": loss}
        for width, (scored, recall) in points.items():
            row |= {f"recall@{width}": recall, f"scored@{width}": scored}
        self.history.rows.append(row)
        return 1 - float(np.mean([recall for _, recall in points.values()]))


def _shares(nodes: Int64[np.ndarray, "b k"], scores: Float[Tensor, "b g"]) -> Float[Tensor, "b g"]:
    """Share of each query's targets below each node."""
    index = torch.from_numpy(nodes).to(scores.device)
    found = (index >= 0).float()
    weights = found / found.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.zeros(scores.shape, device=scores.device).scatter_add_(1, index.clamp(min=0), weights)


def _kept(scores: Float[Tensor, "b g"], wanted: Float[Tensor, "b g"], beam: int) -> Bool[Tensor, "b g"]:
    """The beam's best nodes and the wanted ones."""
    best = scores.topk(min(beam, scores.shape[1]), dim=1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, best, True) | (wanted > 0)
