"""The untrained hierarchy: a node is the normalised mean of its live children, a ranker is the cosine.

With it a memory ranks as the pretrained encoder does, and training is kept only where it does better.
"""

from __future__ import annotations

import math

import numpy as np

from mllm_plugin.hierarchy.base import LevelEncoder, Ranker
from mllm_plugin.shapes import Bool, Float16, Float32


class MeanLevelEncoder(LevelEncoder):
    """Folds an embedding chunk into the normalised mean of its live children.

    The sum of fp16 values in float64 is exact and `math.fsum` rounds once, so the result is the same to the
    bit on every machine.
    """

    def fold(
        self, children: Float16[np.ndarray, "c r d"], live: Bool[np.ndarray, " c"]
    ) -> Float16[np.ndarray, "1 d"]:
        """Folds children [c, r, d] with live [c] to [1, d]; all zero when nothing is live."""
        total = children[live].astype(np.float64).sum(axis=(0, 1))
        norm = math.sqrt(math.fsum(total * total))
        return (total / norm if norm > 0 else total).astype(np.float16)[None]


class CosineRanker(Ranker):
    """Scores an embedding by its best cosine with any of the query's vectors.

    The slack within which a node may still hold a result is unknown without training, so none is dropped.
    """

    def score(
        self, queries: Float32[np.ndarray, "b m d"], embeddings: Float32[np.ndarray, "n r d"]
    ) -> Float32[np.ndarray, "b n"]:
        """Scores embeddings [n, r, d] for queries [b, m, d]: [b, n], higher is better."""
        b, m, d = queries.shape
        n, r, _ = embeddings.shape
        cosines = queries.reshape(b * m, d) @ embeddings.reshape(n * r, d).T
        return cosines if m == r == 1 else cosines.reshape(b, m, n, r).max(axis=(1, 3))
