"""Torch twins of the modules in `mllm_plugin.hierarchy.modules`; trained here, run there.

Groups are ragged: children [n, d] with the group [n] that each belongs to, so that thousands of groups of any
size are folded at once. Shapes: n children, g groups, h seeds, f hidden units, b queries, d dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from mllm_plugin.hierarchy.modules import SPREAD_SCALE
from mllm_plugin.shapes import Float, Int64
from mllm_plugin.training.routing.config import TrainingConfig
from mllm_plugin.tree.editor import LOWEST_LEVEL

_START_SCALE = 20.0  # of the softmax over nodes; trained


class LevelEncoderModule(nn.Module):
    """See `AttentionLevelEncoder`; starts as the normalised mean.

    Args:
        dim: Width of the embeddings.
        layers: Blocks of attention and feed-forward.
        seeds: Learned queries per block.
        hidden: Units of the feed-forward layer.
    """

    def __init__(self, dim: int, *, layers: int = 1, seeds: int = 4, hidden: int = 64) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Block(dim, seeds, hidden) for _ in range(layers))

    def forward(
        self, children: Float[Tensor, "n d"], group: Int64[Tensor, " n"], groups: int
    ) -> Float[Tensor, "{groups} d"]:
        """Folds children into nodes of unit length; `group` in 0 … groups - 1."""
        node = functional.normalize(_sum(children, group, groups), dim=-1)
        distance = 1.0 - (children * node[group]).sum(dim=-1)
        for block in self.layers:
            node = block(children, distance, node, group)
        return node

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """The weights for `AttentionLevelEncoder`."""
        return {
            f"{place}.{name}": value.detach().float().cpu().numpy()
            for place, block in enumerate(self.layers)
            for name, value in block.named_parameters()
        }


class _Block(nn.Module):
    def __init__(self, dim: int, seeds: int, hidden: int) -> None:
        super().__init__()
        self.seeds = nn.Parameter(torch.randn(seeds, dim))
        self.spread = nn.Parameter(torch.linspace(-0.5, 0.5, seeds))
        self.query = nn.Parameter(torch.zeros(seeds, dim))
        self.gates = nn.Parameter(torch.zeros(seeds, dim))
        self.down = nn.Parameter(torch.randn(hidden, dim) / dim**0.5)
        self.up = nn.Parameter(torch.zeros(dim, hidden))

    def forward(
        self,
        children: Float[Tensor, "n d"],
        distance: Float[Tensor, " n"],
        node: Float[Tensor, "g d"],
        group: Int64[Tensor, " n"],
    ) -> Float[Tensor, "g d"]:
        logits = children @ self.seeds.T + SPREAD_SCALE * distance[:, None] * self.spread
        logits = logits + (children * node[group]) @ self.query.T
        weights = _softmax(logits, group, len(node))
        node = node + _sum(weights @ self.gates * children, group, len(node))  # gates before the sum: one sum
        node = functional.normalize(node, dim=-1)
        return functional.normalize(node + torch.tanh(node @ self.down.T) @ self.up.T, dim=-1)


def _sum(
    values: Float[Tensor, "n d"], group: Int64[Tensor, " n"], groups: int
) -> Float[Tensor, "{groups} d"]:
    return values.new_zeros(groups, values.shape[-1]).index_add_(0, group, values)


def _softmax(logits: Float[Tensor, "n h"], group: Int64[Tensor, " n"], groups: int) -> Float[Tensor, "n h"]:
    """Softmax of logits within each group."""
    index = group[:, None].expand_as(logits)
    peak = logits.new_full((groups, logits.shape[1]), float("-inf")).scatter_reduce(
        0, index, logits.detach(), "amax"
    )
    weights = (logits - peak[group]).exp()
    return weights / _sum(weights, group, groups)[group]


class RankerModule(nn.Module):
    """See `MappedRanker`; starts as the cosine. Its softmax scale is for training only."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.map = nn.Parameter(torch.zeros(dim, dim))
        self.path = nn.Parameter(torch.zeros(1))
        self.log_scale = nn.Parameter(torch.tensor(_START_SCALE).log())

    def forward(self, queries: Float[Tensor, "b d"], nodes: Float[Tensor, "g d"]) -> Float[Tensor, "b g"]:
        """Scores nodes for queries, higher is better."""
        return (queries + queries @ self.map) @ nodes.T

    def tensors(self, calibration: Mapping[str, float]) -> dict[str, NDArray[np.float32]]:
        """The weights for `MappedRanker`.

        Args:
            calibration: `scale`, `offset`, `path` and `slack`, measured on held-out queries.
        """
        numbers = {name: np.array([value], dtype=np.float32) for name, value in calibration.items()}
        return {"map": self.map.detach().float().cpu().numpy(), **numbers}


class HierarchyModule(nn.Module):
    """Trainable encoders and rankers of levels 2 to `top_level`."""

    def __init__(self, dim: int, config: TrainingConfig) -> None:
        super().__init__()
        levels = range(LOWEST_LEVEL, config.top_level + 1)
        self.encoders = nn.ModuleDict(
            {
                str(level): LevelEncoderModule(
                    dim, layers=config.layers(level), seeds=config.seeds, hidden=config.hidden
                )
                for level in levels
            }
        )
        self.rankers = nn.ModuleDict({str(level): RankerModule(dim) for level in levels})
        self.top_level = config.top_level

    def encoder(self, level: int) -> LevelEncoderModule:
        """The encoder of a level; above the top level, the top level's."""
        return self.encoders[str(min(level, self.top_level))]  # type: ignore[return-value]

    def ranker(self, level: int) -> RankerModule:
        """The ranker of a level; above the top level, the top level's."""
        return self.rankers[str(min(level, self.top_level))]  # type: ignore[return-value]

    def fold(
        self,
        leaves: Float[Tensor, "n d"],
        parents: Sequence[Int64[Tensor, " _"]],
        trained: Sequence[int] = (),
    ) -> list[Float[Tensor, "_ d"]]:
        """Nodes of every level from 2 up; gradients flow through the encoders of `trained` levels."""
        nodes, children = [], leaves
        for level, parent in enumerate(parents, LOWEST_LEVEL):
            with torch.set_grad_enabled(level in trained or children.requires_grad):
                children = self.encoder(level)(children, parent, int(parent.max()) + 1)
            nodes.append(children)
        return nodes
