"""What a hierarchy is made of, and what may score its finalists anew.

Shapes: c children of a group, r vectors per embedding, b queries, m vectors per query, n embeddings or
chunks, d dimensions. Masks are True for live children. Higher scores are better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.seam import Seam

Vectors = NDArray[np.float32]


class _Saved(Seam):
    """What a hierarchy can save; `type(module)(tensors)` must give the module back.

    Attributes:
        kind: The name that it is saved under; empty for what cannot be saved.
        tensors: Its numbers by name.
    """

    kind: str = ""
    tensors: Mapping[str, NDArray[Any]] = {}


class LevelEncoder(_Saved):
    """Encoder k (k >= 2): folds each embedding chunk into one embedding. Inherit it and write `fold`."""

    _needed: ClassVar[tuple[str, ...]] = ("fold",)

    def fold(self, children: NDArray[np.float16], live: NDArray[np.bool_]) -> NDArray[np.float16]:
        """Folds one group: children [c, r, d] and live [c] to [r, d]; all zero when nothing is live."""
        raise NotImplementedError


class Ranker(_Saved):
    """Decoder-ranker of a routing level: one score per embedding. Inherit it and write `score`.

    Attributes:
        path_weight: The score of the parent is added on the walk, times this.
        slack: Lets the walk drop nodes: scores are then estimates of the best cosine below a node, and one
            that lies more than the slack below the best results seen so far is not visited. None keeps all.
    """

    _needed: ClassVar[tuple[str, ...]] = ("score",)

    path_weight: float = 0.0
    slack: float | None = None

    def score(self, queries: Vectors, embeddings: Vectors) -> Vectors:
        """Scores embeddings [n, r, d] for each query's vectors [b, m, d]: [b, n]."""
        raise NotImplementedError


class Reranker(Seam):
    """Scores the best chunks of a search anew, by their text. Inherit it and write `rerank`.

    It sees what the leaf ranker found best, the same chunks in every search mode; its scores then order the
    hits and are their `score`. Threads may call it at the same time.

    Attributes:
        finalists: How many chunks of each query it sees; all that are wanted where that is more.
    """

    _needed: ClassVar[tuple[str, ...]] = ("rerank",)

    finalists: int = 50

    def rerank(self, query: str, texts: Sequence[str], scores: NDArray[np.float64]) -> Sequence[float]:
        """Scores chunks for a query.

        Args:
            query: Its words.
            texts: Of the chunks [n], the leaf ranker's best first.
            scores: That the leaf ranker gave them [n].

        Returns:
            A finite number for each [n]; equal ones stay in the order given.
        """
        raise NotImplementedError

    def relevance(self, score: float) -> float:
        """One of its scores as a number from 0 to 1; by default the logistic function of it."""
        return 0.5 * (1.0 + math.tanh(0.5 * score))
