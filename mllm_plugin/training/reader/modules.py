"""A language model with what makes it write its memory and read it: one pass over chunks, one over rows.

Shapes as in `steps`; m places of the memory, h width of the model, v words of its vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from mllm_plugin.llm.reading import ReadingVectors, window_counts
from mllm_plugin.shapes import Bool, Float, Int64
from mllm_plugin.training.reader.losses import answer_loss
from mllm_plugin.training.reader.rows import GROUP, Sizes
from mllm_plugin.training.reader.stack import Changes, Stack, Weights
from mllm_plugin.training.reader.steps import TensorStep


class Reader(torch.nn.Module):
    """A model with what makes it write and read its memory.

    Args:
        stack: Its frozen weights.
        idf: Of its tokens.
        sizes: Shapes of a step.
        rank: Of the low-rank changes.
        scale: By which they are multiplied.
    """

    def __init__(
        self, stack: Stack, idf: Float[Tensor, " v"], sizes: Sizes, *, rank: int = 32, scale: float = 2.0
    ) -> None:
        super().__init__()
        self.stack, self.sizes = stack, sizes
        self.reading = ReadingVectors(stack.embeddings, idf)
        self.writer, self.reader = Changes(stack, rank, scale), Changes(stack, rank, scale)

    def load(self, tensors: Weights) -> None:
        """Takes the numbers of a `MemoryReader` over; the idf stays.

        Raises:
            InvalidInputError: They are another model's, or of another rank.
        """
        parts: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = value
        space = {name: value for name, value in parts["space"].items() if name != "idf"}
        self.reading.load_state_dict(space)
        self.writer.load(self.stack, parts["writer"])
        self.reader.load(self.stack, parts["reader"])

    def memory(
        self,
        ids: Int64[Tensor, "c t"],
        live: Bool[Tensor, "c t"],
        size: Int64[Tensor, " c"],
        weights: Weights,
    ) -> Float[Tensor, "m h"]:
        """Memory tokens of chunks: all windows, then the chunks, then the groups."""
        mask = live[:, None, None, :].expand(-1, 1, ids.shape[1], -1)
        states = self.stack.normed(self.stack(self.stack.embed(ids), weights, mask))
        most = self.sizes.windows
        vectors = self.reading.windows(ids, live, states, size, most)
        counts = window_counts(live.sum(dim=-1), size)
        there = (torch.arange(most, device=ids.device) < counts.unsqueeze(-1)).unsqueeze(-1).float()
        chunks = (vectors * there).sum(dim=1) / counts.clamp(min=1).unsqueeze(-1)
        groups = chunks.unflatten(0, (-1, GROUP)).mean(dim=1)
        kind = (torch.tensor(self.reading.ratios, device=ids.device) < size.unsqueeze(-1)).sum(dim=-1)
        kinds = torch.cat(
            [
                kind.repeat_interleave(most),
                torch.full((len(chunks),), self.reading.chunk_kind, device=ids.device),
                torch.full((len(groups),), self.reading.chunk_kind + 1, device=ids.device),
            ]
        )
        flat = torch.cat([vectors.flatten(0, 1), chunks, groups])
        return self.reading.tokens(flat, kinds).to(self.stack.dtype)

    def states(
        self,
        memory: Float[Tensor, "m h"],
        rows: Iterable[tuple[Tensor, Tensor]],
        weights: Weights,
    ) -> Float[Tensor, "_ h"]:
        """States of all rows laid end to end, before the last norm."""
        found = []
        for ids, places in (row for row in rows if len(row[0])):
            soft = (places >= 0).unsqueeze(-1)
            embeds = torch.where(soft, memory[places.clamp(min=0)], self.stack.embed(ids))
            found.append(self.stack(embeds, weights).flatten(0, 1))
        return torch.cat(found)

    def loss(self, step: TensorStep) -> tuple[Float[Tensor, ""], Float[Tensor, " p"], Float[Tensor, ""]]:
        """What to minimise, the loss of each predicted token, the divergence from the teachers."""
        memory = self.memory(step.ids, step.live, step.size, self.writer.added(self.stack))
        states = self.states(memory, step.rows, self.reader.added(self.stack))
        chosen = self.stack.normed(states[step.rows_at])
        return answer_loss(chosen, self.stack.logits, step)
