"""What of a recall is relevant enough to be read."""

from __future__ import annotations

from dataclasses import replace

from mllm_plugin.types import Recall


def worth_reading(recall: Recall, least: float) -> Recall:
    """A recall without the hits of a lower relevance, and without their windows and chunks."""
    kept = tuple(hit for hit in recall.hits if hit.relevance >= least)
    if len(kept) == len(recall.hits):
        return recall
    ids = {hit.chunk_id for hit in kept}
    levels = {
        level: found if level > 1 else tuple(piece for piece in found if piece.node_id in ids)
        for level, found in recall.levels.items()
    }
    return replace(recall, hits=kept, levels=levels)


def chance_of_nothing(recall: Recall) -> float:
    """How likely none of the hits holds what is asked for: one less the best relevance."""
    return 1.0 - max((hit.relevance for hit in recall.hits), default=0.0)
