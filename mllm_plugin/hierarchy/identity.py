"""The untrained hierarchy: a node is the normalised mean of its live children, a ranker is the cosine.

With it a memory ranks as the pretrained encoder does, and training is kept only where it does better.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.hierarchy.base import LevelEncoder, Ranker


class MeanLevelEncoder(LevelEncoder):
    """Folds an embedding chunk into the normalised mean of its live children.

    The sum of fp16 values in float64 is exact and `math.fsum` rounds once, so the result is the same to the
    bit on every machine.
    """

    def fold(self, children: NDArray[np.float16], live: NDArray[np.bool_]) -> NDArray[np.float16]:
        """Folds children [c, r, d] with live [c] to [1, d]; all zero when nothing is live."""
        total = children[live].astype(np.float64).sum(axis=(0, 1))
        norm = math.sqrt(math.fsum(total * total))
        return (total / norm if norm > 0 else total).astype(np.float16)[None]


class CosineRanker(Ranker):
    """Scores an embedding by its best cosine with any of the query's vectors.

    The margin within which a node may still hold a result is unknown without training, so none is dropped.
    """

    def score(self, queries: NDArray[np.float32], embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores embeddings [n, r, d] for queries [b, m, d]: [b, n], higher is better."""
        b, m, d = queries.shape
        n, r, _ = embeddings.shape
        cosines = queries.reshape(b * m, d) @ embeddings.reshape(n * r, d).T
        return cosines if m == r == 1 else cosines.reshape(b, m, n, r).max(axis=(1, 3))
