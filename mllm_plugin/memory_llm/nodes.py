"""Nodes that are read, as labels or as vectors: what a memory is about, before what it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mllm_plugin.types import MemoryEmbedding, Recall

WORDS = 6  # of each label
FACES = 8  # chunks that a vector is the mean of


def choose_nodes(recall: Recall, most: int) -> tuple[MemoryEmbedding, ...]:
    """The best node of every level, then the second best of every level, and so on; coarse to fine.

    Args:
        recall: What there is.
        most: Nodes at most.
    """
    nodes = [
        (rank, -level, node)
        for level, found in recall.levels.items()
        if level > 1
        for rank, node in enumerate(found)
    ]
    chosen = sorted(nodes, key=lambda one: one[:2])[:most]
    return tuple(node for _, _, node in sorted(chosen, key=lambda one: (one[1], one[0])))


def choose_labels(recall: Recall, most: int) -> tuple[MemoryEmbedding, ...]:
    """Of nodes that have words, those of `choose_nodes`."""
    levels = {level: tuple(node for node in found if node.words) for level, found in recall.levels.items()}
    return choose_nodes(replace(recall, levels=levels), most)


def topics_text(nodes: Sequence[MemoryEmbedding]) -> str:
    """Labels as one line."""
    return "Topics: " + "; ".join(", ".join(node.words) for node in nodes)
