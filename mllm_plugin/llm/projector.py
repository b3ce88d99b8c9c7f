"""From a memory's embeddings to soft tokens of a language model.

Shapes: n embeddings, d their dimensions, r soft tokens for each, h the width of the model's input.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_PROBES = 256


class MemoryProjector(nn.Module):
    """Two layers that know the level of what they project.

    Args:
        dim: Dimensions of an embedding.
        hidden: Width of the model's input.
        width: Units between the layers.
        tokens_per_embedding: Soft tokens that an embedding becomes.
        levels: Levels told apart, 0 (windows) up; higher ones count as the highest.
    """

    def __init__(
        self, dim: int, hidden: int, *, width: int, tokens_per_embedding: int = 1, levels: int = 4
    ) -> None:
        super().__init__()
        self.hidden, self.tokens_per_embedding, self.levels = hidden, tokens_per_embedding, levels
        self.norm = nn.LayerNorm(dim)
        self.inner = nn.Linear(dim, width)
        self.level = nn.Embedding(levels, width)
        self.outer = nn.Linear(width, hidden * tokens_per_embedding)
        nn.init.normal_(self.level.weight, std=0.02)

    def forward(self, vectors: Tensor, levels: Tensor) -> Tensor:
        """Projects embeddings [n, d] of levels [n] to soft tokens [n * r, h], r in a row each."""
        inner = self.inner(self.norm(vectors)) + self.level(levels.clamp(0, self.levels - 1))
        return self.outer(nn.functional.gelu(inner)).reshape(-1, self.hidden)

    @torch.no_grad()
    def start_like(self, embeddings: Tensor, *, seed: int = 0) -> None:
        """Gives soft tokens the mean and the spread of a model's input embeddings [v, h] to start with."""
        mean = embeddings.float().mean(dim=0)
        spread = (embeddings.float() - mean).norm(dim=-1).mean()
        probes = torch.randn(_PROBES, self.inner.in_features, generator=torch.Generator().manual_seed(seed))
        levels = torch.arange(_PROBES) % self.levels
        nn.init.zeros_(self.outer.bias)
        self.outer.weight.mul_(spread.cpu() / self(probes, levels).norm(dim=-1).mean())
        self.outer.bias.copy_(mean.repeat(self.tokens_per_embedding))
