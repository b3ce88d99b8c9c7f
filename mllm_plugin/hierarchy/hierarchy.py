"""The set of level encoders and rankers that a memory walks with."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.config import LeafConfig
from mllm_plugin.hierarchy.identity import CosineRanker, MeanLevelEncoder
from mllm_plugin.hierarchy.leaf import LeafRanker
from mllm_plugin.protocols import LevelEncoder, Ranker

IDENTITY = "identity"


class Hierarchy:
    """Level encoders and rankers by level; levels above the highest trained one reuse its modules.

    Args:
        level_encoders: Encoder k by the level k of the node it makes (2 = over chunks).
        rankers: Ranker k by the level k of the embeddings it scores.
        leaf_ranker: Scores chunks.
        fingerprint: Names the weights; "identity" when there are none.
    """

    def __init__(
        self,
        *,
        level_encoders: Mapping[int, LevelEncoder] | None = None,
        rankers: Mapping[int, Ranker] | None = None,
        leaf_ranker: LeafRanker | None = None,
        fingerprint: str = IDENTITY,
    ) -> None:
        self._level_encoders = dict(level_encoders or {})
        self._rankers = dict(rankers or {})
        self.leaf_ranker = leaf_ranker or LeafRanker(LeafConfig())
        self.fingerprint = fingerprint
        self._identity_encoder, self._identity_ranker = MeanLevelEncoder(), CosineRanker()

    def fold(self, level: int, children: NDArray[np.float16], live: NDArray[np.bool_]) -> NDArray[np.float16]:
        """Folds an embedding chunk [c, r, d] into the embedding [r, d] of a node of `level`."""
        return _at_or_below(self._level_encoders, level, self._identity_encoder).fold(children, live)

    def ranker(self, level: int) -> Ranker:
        """The ranker of embeddings of `level` (1 = chunks)."""
        return _at_or_below(self._rankers, level, self._identity_ranker)


def _at_or_below(modules, level, default):  # noqa: ANN001, ANN202
    """The module of `level`, else the highest one below it, else the identity."""
    trained = [key for key in modules if key <= level]
    return modules[max(trained)] if trained else default
