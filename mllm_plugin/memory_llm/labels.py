"""Labels of nodes as text: what a memory is about, before what it says."""

from __future__ import annotations

from collections.abc import Sequence

from mllm_plugin.types import MemoryEmbedding, Recall

WORDS = 6  # of each node


def choose_labels(recall: Recall, most: int) -> tuple[MemoryEmbedding, ...]:
    """The best node of every level, then the second best of every level, and so on; coarse to fine.

    Args:
        recall: With words on its nodes.
        most: Nodes at most.
    """
    nodes = [
        (rank, -level, node)
        for level, found in recall.levels.items()
        if level > 1
        for rank, node in enumerate(found)
        if node.words
    ]
    chosen = sorted(nodes, key=lambda one: one[:2])[:most]
    return tuple(node for _, _, node in sorted(chosen, key=lambda one: (one[1], one[0])))


def topics_text(nodes: Sequence[MemoryEmbedding]) -> str:
    """Labels as one line."""
    return "Topics: " + "; ".join(", ".join(node.words) for node in nodes)
