"""The memory block: which vectors the model reads, and in what order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.llm import memory_order
from mllm_plugin.memory_llm.config import MemoryLLMConfig
from mllm_plugin.memory_llm.nodes import choose_nodes
from mllm_plugin.memory_llm.passages import Passage
from mllm_plugin.types import MemoryEmbedding, Recall

WINDOW, CHUNK = 0, 1


@dataclass(frozen=True)
class MemoryBlock:
    """Vectors by relevance.

    Attributes:
        pieces: Nodes, then chunks, then windows, a vector each; the best of each first.
        ranks: Of the chunks by id; 0 is best.
        dropped: How many did not fit, by kind: "nodes", "chunks", "windows".
    """

    pieces: tuple[MemoryEmbedding, ...]
    ranks: Mapping[int, int]
    dropped: Mapping[str, int]

    @cached_property
    def in_order(self) -> tuple[MemoryEmbedding, ...]:
        """The pieces as the model reads them: coarse to fine, windows of a chunk as in the document."""
        ranks = [
            self.ranks[piece.node_id] if piece.level == WINDOW else place
            for place, piece in enumerate(self.pieces)
        ]
        order = memory_order(
            [piece.level for piece in self.pieces], ranks, [piece.start for piece in self.pieces]
        )
        return tuple(self.pieces[place] for place in order.tolist())

    def tensors(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Vectors [n, h] as the model reads them, and their levels [n]."""
        vectors = np.concatenate([piece.vectors for piece in self.in_order])
        return vectors, np.array([piece.level for piece in self.in_order])

    def first(self, count: int) -> MemoryBlock:
        """The most relevant pieces, the others counted as dropped."""
        lost = dict(self.dropped)
        for piece in self.pieces[count:]:
            kind = {WINDOW: "windows", CHUNK: "chunks"}.get(piece.level, "nodes")
            lost[kind] = lost.get(kind, 0) + 1
        return MemoryBlock(self.pieces[:count], self.ranks, lost)

    def without_last(self, positions: int, *, windows_only: bool) -> MemoryBlock:
        """Drops so many pieces from the least relevant end, or as many as there are."""
        most = sum(not windows_only or piece.level == WINDOW for piece in self.pieces)
        return self.first(len(self.pieces) - min(positions, most))


def choose_block(recall: Recall, config: MemoryLLMConfig, passages: Sequence[Passage] = ()) -> MemoryBlock:
    """Chooses what goes into the memory block.

    Args:
        recall: What the memory has for the question, as the reader wrote it.
        config: How many of each level, and the budget.
        passages: What is spelled out.
    """
    ranks = {hit.chunk_id: rank for rank, hit in enumerate(recall.hits)}
    return MemoryBlock(tuple(_candidates(recall, config, passages)), ranks, {}).first(config.memory_budget)


def _candidates(
    recall: Recall, config: MemoryLLMConfig, passages: Sequence[Passage]
) -> Iterator[MemoryEmbedding]:
    yield from choose_nodes(recall, config.nodes)
    most = {CHUNK: config.chunks, WINDOW: config.windows}
    for level in (CHUNK, WINDOW):
        spelled = () if config.repeat else passages
        others = [
            piece for piece in recall.levels.get(level, ()) if not any(p.covers(piece) for p in spelled)
        ]
        yield from others[: most[level]]
