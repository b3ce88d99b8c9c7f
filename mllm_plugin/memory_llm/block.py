"""The memory block: which embeddings the model reads, and in what order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.llm import memory_order
from mllm_plugin.memory_llm.config import MemoryLLMConfig
from mllm_plugin.memory_llm.passages import Passage
from mllm_plugin.types import MemoryEmbedding, Recall

WINDOW, CHUNK = 0, 1


@dataclass(frozen=True)
class MemoryBlock:
    """Embeddings by relevance.

    Attributes:
        pieces: Nodes from the top level down, then chunks, then windows; the best of each first.
        ranks: Of the chunks by id; 0 is best.
        dropped: How many did not fit, by kind: "nodes", "chunks", "windows".
    """

    pieces: tuple[MemoryEmbedding, ...]
    ranks: Mapping[int, int]
    dropped: Mapping[str, int]

    @property
    def rows(self) -> int:
        """Vectors of all pieces together."""
        return sum(len(one.vectors) for one in self.pieces)

    @cached_property
    def in_order(self) -> tuple[MemoryEmbedding, ...]:
        """The pieces as the model reads them: coarse to fine, windows of a chunk as in the document."""
        ranks = [
            self.ranks[one.node_id] if one.level == WINDOW else place for place, one in enumerate(self.pieces)
        ]
        order = memory_order([one.level for one in self.pieces], ranks, [one.start for one in self.pieces])
        return tuple(self.pieces[place] for place in order.tolist())

    def tensors(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Vectors [n, dim] as the model reads them, and their levels [n]."""
        vectors = np.concatenate([one.vectors for one in self.in_order])
        return vectors, np.repeat(
            [one.level for one in self.in_order], [len(one.vectors) for one in self.in_order]
        )

    def first(self, count: int) -> MemoryBlock:
        """The most relevant pieces, the others counted as dropped."""
        lost = dict(self.dropped)
        for one in self.pieces[count:]:
            lost[_kind(one)] = lost.get(_kind(one), 0) + 1
        return MemoryBlock(self.pieces[:count], self.ranks, lost)

    def without_last(self, positions: int, per_embedding: int, *, windows_only: bool) -> MemoryBlock:
        """Drops from the least relevant end until so many positions are free, or nothing is left to drop."""
        kept = len(self.pieces)
        while positions > 0 and kept and (not windows_only or self.pieces[kept - 1].level == WINDOW):
            kept -= 1
            positions -= len(self.pieces[kept].vectors) * per_embedding
        return self.first(kept)


def choose_block(
    recall: Recall, config: MemoryLLMConfig, per_embedding: int, passages: Sequence[Passage] = ()
) -> MemoryBlock:
    """Chooses what goes into the memory block.

    Args:
        recall: What the memory has for the question.
        config: How many of each level, and the budget.
        per_embedding: Positions that one vector takes.
        passages: What is spelled out.
    """
    ranks = {hit.chunk_id: rank for rank, hit in enumerate(recall.hits)}
    found = MemoryBlock(tuple(_candidates(recall, config, passages)), ranks, {})
    room = config.memory_budget
    for count, one in enumerate(found.pieces):
        room -= len(one.vectors) * per_embedding
        if room < 0:
            return found.first(count)
    return found


def _candidates(
    recall: Recall, config: MemoryLLMConfig, passages: Sequence[Passage]
) -> Iterator[MemoryEmbedding]:
    for level in sorted((level for level in recall.levels if level > CHUNK), reverse=True):
        yield from recall.levels[level][: config.nodes]
    most = {CHUNK: config.chunks, WINDOW: config.windows}
    for level in (CHUNK, WINDOW):
        spelled = () if config.repeat else passages
        others = [one for one in recall.levels.get(level, ()) if not any(p.covers(one) for p in spelled)]
        yield from others[: most[level]]


def _kind(one: MemoryEmbedding) -> str:
    return {WINDOW: "windows", CHUNK: "chunks"}.get(one.level, "nodes")
