"""The leaf ranker: one score per chunk from pooled cosine, best window and lexical evidence.

Its score depends on the query, the chunk and the namespace's statistics alone, so every search mode agrees
and scores compare across queries.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.config import LeafConfig

Scores = NDArray[np.floating]


class LeafRanker:
    """Weighted sum of the evidence; weights and calibration measured in docs/benchmarks.md."""

    def __init__(self, config: LeafConfig = LeafConfig()) -> None:
        self.config = config

    def partial(self, cosine: Scores, lexical: Scores) -> Scores:
        """What is known before windows are read [n]: it orders the candidates."""
        return (self.config.cosine + self.config.window) * cosine + self.config.lexical * lexical

    def bound(self, cosine: Scores, lexical: Scores) -> Scores:
        """The highest score [n] that any window could give."""
        return self.config.cosine * cosine + self.config.window + self.config.lexical * lexical

    def score(self, cosine: Scores, window: Scores, lexical: Scores) -> Scores:
        """Scores chunks [n]; higher is better. `window` is the cosine where a chunk has no windows."""
        return self.config.cosine * cosine + self.config.window * window + self.config.lexical * lexical

    def relevance(self, score: float) -> float:
        """The score calibrated to [0, 1]."""
        margin = self.config.relevance_slope * score + self.config.relevance_offset
        return float(1.0 / (1.0 + np.exp(-margin)))
