"""How much of a level a walk goes into: pure rules, for the walk and for what simulates it.

Shapes: n nodes, c chunks.
"""

from __future__ import annotations

import numpy as np

from mllm_plugin.image.descent import UPPER_LEAST, UPPER_SHARE
from mllm_plugin.shapes import Float
from mllm_plugin.tree.editor import LOWEST_LEVEL

BEST_LEAST = 10  # the slack is measured from this result, or from the last one wanted
_FIRST_SHARE = 8  # one node in so many of the beam is looked into before the others are judged by it
_FIRST_LEAST = 4


def beam_at(level: int, width: int) -> int:
    """Nodes kept on a level when `width` are kept on the lowest."""
    return width if level <= LOWEST_LEVEL else max(UPPER_LEAST, width // UPPER_SHARE)


def likely(scores: Float[np.ndarray, " n"], level: int, slack: float | None) -> int:
    """How many nodes may still hold a result.

    Args:
        scores: Best first.
        level: Theirs; the lowest are judged by `promising`.
        slack: How far below the best they may lie; None keeps all.
    """
    if slack is None or level <= LOWEST_LEVEL or not len(scores):
        return len(scores)
    return int(np.searchsorted(-scores, slack - scores[0], side="right"))


def looked_into(width: int) -> int:
    """Lowest nodes that are looked into first; what is found there tells which others are worth it."""
    return max(_FIRST_LEAST, width // _FIRST_SHARE)


def promising(
    scores: Float[np.ndarray, " n"], found: Float[np.ndarray, " c"], first: int, want: int, slack: float
) -> int:
    """How many of the lowest nodes are gone into.

    Args:
        scores: Of the nodes, best first.
        found: Cosines of the chunks below the `first` of them.
        first: Nodes that were looked into.
        want: Which of the best results the slack is measured from; all nodes stay where there are fewer.
        slack: How far below that result a node may lie.
    """
    if len(found) < want:
        return len(scores)
    least = np.partition(found, len(found) - want)[len(found) - want] - slack
    return max(first, int((scores >= least).sum()))
