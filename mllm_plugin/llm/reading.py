"""Text as vectors in a language model's own input space: what its memory tokens are made of.

A window of a few tokens becomes the sum of its tokens' input embeddings, centred, normalised and weighted by
the square of their idf, so that the rare words, which carry the facts, are not drowned; to it a trained map
adds what the same model, changed by the writer's LoRA, thinks of the window in its context. A chunk is the
mean of its windows, a node the mean of its chunks.

Shapes: c chunks, t tokens, s windows, h width of the model, v words of its vocabulary.

Source: sums of weighted word embeddings follow SIF (Arora et al. 2017); mean-pooled states as soft tokens,
several ratios at once and a writer that sees both ways follow Feldman and Artzi, arXiv 2510.20797.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mllm_plugin.shapes import Bool, Float, Int

RATIOS = (2, 4, 8, 16)


class ReadingVectors(nn.Module):
    """Tokens and states to reading vectors, and these to memory tokens.

    Args:
        embeddings: The model's input embeddings [v, h]; kept as they are.
        idf: Of each token [v], frozen with the reader.
        ratios: Window sizes that are told apart, in tokens.
    """

    words: Float[Tensor, "v h"]
    weights: Float[Tensor, " v"]
    centre: Float[Tensor, " h"]
    scale: Float[Tensor, ""]

    def __init__(
        self, embeddings: Float[Tensor, "v h"], idf: Float[Tensor, " v"], ratios: Sequence[int] = RATIOS
    ) -> None:
        super().__init__()
        self.ratios = tuple(ratios)
        table = embeddings.detach().float()
        centre = table.mean(dim=0)
        self.register_buffer("words", normalize(table - centre, dim=-1), persistent=False)
        self.register_buffer("centre", centre, persistent=False)
        self.register_buffer("scale", (table - centre).norm(dim=-1).mean(), persistent=False)
        self.register_buffer("weights", idf.float().square(), persistent=False)
        hidden = table.shape[1]
        self.map = nn.Linear(hidden, hidden, bias=False)
        self.kinds = nn.Embedding(len(self.ratios) + 2, hidden)  # one per ratio, then chunks, then nodes
        nn.init.zeros_(self.map.weight)
        nn.init.zeros_(self.kinds.weight)

    @property
    def chunk_kind(self) -> int:
        """The kind of chunks; nodes are the next."""
        return len(self.ratios)

    def windows(
        self,
        ids: Int[Tensor, "c t"],
        live: Bool[Tensor, "c t"],
        states: Float[Tensor, "c t h"] | None,
        size: Int[Tensor, " c"],
        most: int,
    ) -> Float[Tensor, "c {most} h"]:
        """Windows of chunks.

        Args:
            ids: Tokens [c, t].
            live: Where they are tokens and no padding [c, t].
            states: What the writer makes of them [c, t, h]; None for sums of words alone.
            size: Tokens per window of each chunk [c].
            most: Windows per chunk in the result, s.

        Returns:
            Vectors [c, s, h]; those past a chunk's end are its centre and mean nothing.
        """
        members = _members(live, size, most)
        weighted = self.words[ids] * self.weights[ids].unsqueeze(-1)
        vectors = self.centre + self.scale * normalize(members @ weighted, dim=-1)
        if states is None:
            return vectors
        pooled = (members @ states.float()) / members.sum(dim=-1, keepdim=True).clamp(min=1)
        return vectors + self.map(pooled)

    def tokens(self, vectors: Float[Tensor, "n h"], kinds: Int[Tensor, " n"]) -> Float[Tensor, "n h"]:
        """Memory tokens [n, h] of reading vectors [n, h] and their kinds [n]."""
        return vectors + self.kinds(kinds)


def window_counts(lengths: Int[Tensor, " c"], size: Int[Tensor, " c"]) -> Int[Tensor, " c"]:
    """Windows [c] of chunks with so many tokens [c] in windows of so many [c]."""
    return -(-lengths // size)


def _members(live: Bool[Tensor, "c t"], size: Int[Tensor, " c"], most: int) -> Float[Tensor, "c {most} t"]:
    """Which token is in which window [c, s, t], as numbers."""
    window = torch.arange(live.shape[1], device=live.device) // size.unsqueeze(-1)
    found = window.unsqueeze(1) == torch.arange(most, device=live.device)[None, :, None]
    return (found & live.unsqueeze(1)).float()
