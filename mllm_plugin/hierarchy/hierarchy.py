"""The set of level encoders and rankers that a memory walks with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.config import LeafConfig
from mllm_plugin.hierarchy.base import LevelEncoder, Ranker
from mllm_plugin.hierarchy.leaf import LeafRanker
from mllm_plugin.hierarchy.modules import (
    CosineRanker,
    MappedRanker,
    MeanLevelEncoder,
    check_level_encoder,
    check_ranker,
)
from mllm_plugin.hierarchy.weights import Weights, modules_of, read_weights, weights_of
from mllm_plugin.seam import adopted

IDENTITY = "identity"
_BY_PRODUCTS = {CosineRanker, MappedRanker}
_LEARNED_TOLERANCE = 2e-3  # of a vector's component: a few steps of fp16, for another machine's arithmetic


class Hierarchy:
    """Level encoders and rankers by level; levels above the highest trained one reuse its modules.

    Args:
        level_encoders: Encoder k, a `LevelEncoder`, by the level k of the node it makes (2 = over chunks).
        rankers: Ranker k, a `Ranker`, by the level k of the embeddings it scores.
        leaf_ranker: Scores chunks.
        fingerprint: Names the weights; "identity" when there are none.
        weights: Where the modules came from, if they can be stored.
    """

    def __init__(
        self,
        *,
        level_encoders: Mapping[int, Any] | None = None,
        rankers: Mapping[int, Any] | None = None,
        leaf_ranker: LeafRanker | None = None,
        fingerprint: str = IDENTITY,
        weights: Weights | None = None,
    ) -> None:
        self.level_encoders = dict(level_encoders or {})
        self.rankers = dict(rankers or {})
        self.leaf_ranker = leaf_ranker or LeafRanker(LeafConfig())
        self.fingerprint = fingerprint
        self.weights = weights
        self._folds = {level: adopted(LevelEncoder, given) for level, given in self.level_encoders.items()}
        self._ranks = {level: adopted(Ranker, given) for level, given in self.rankers.items()}
        self._identity_encoder, self._identity_ranker = MeanLevelEncoder(), CosineRanker()

    @classmethod
    def from_weights(
        cls, weights: Weights, *, leaf: LeafConfig = LeafConfig(), kinds: Mapping[str, Any] | None = None
    ) -> Hierarchy:
        """Builds the modules of stored weights.

        Args:
            weights: As read from a folder or a memory.
            leaf: Settings of the leaf ranker that its weights leave open.
            kinds: Classes of your own by the `kind` that they were saved under; each takes its tensors.

        Raises:
            InvalidInputError: A kind is unknown, or a module cannot be made of its tensors.
        """
        level_encoders, rankers, leaf_tensors = modules_of(weights, kinds or {})
        return cls(
            level_encoders=level_encoders,
            rankers=rankers,
            leaf_ranker=LeafRanker(leaf, leaf_tensors),
            fingerprint=weights.fingerprint,
            weights=weights,
        )

    @classmethod
    def load(cls, folder: str | Path, *, kinds: Mapping[str, Any] | None = None) -> Hierarchy:
        """Reads a folder that `save` wrote: `hierarchy.safetensors` and `hierarchy.json`.

        Raises:
            NotFoundError: The folder holds no weights.
            InvalidInputError: It holds damaged ones, or modules of an unknown kind.
        """
        return cls.from_weights(read_weights(folder), kinds=kinds)

    def save(
        self,
        folder: str | Path,
        *,
        encoder: str,
        about: Mapping[str, Any] | None = None,
        documents: Sequence[str] = (),
    ) -> str:
        """Writes all modules as safetensors and JSON; each needs `kind` and `tensors`.

        Args:
            folder: Made when it is not there.
            encoder: Fingerprint of the Encoder 1 that the modules were made for.
            about: What else to say: data, command, figures.
            documents: Marks of the user's documents that the training saw, see `document_mark`.

        Returns:
            The fingerprint of the weights.

        Raises:
            InvalidInputError: A module cannot be saved, or holds numbers that are not finite.
            StoreError: The folder cannot be written; what was in it before is kept.
        """
        weights = weights_of(
            self._folds,
            self._ranks,
            self.leaf_ranker.tensors,
            encoder=encoder,
            about=about or {},
            documents=documents,
        )
        weights.write(folder)
        return weights.fingerprint

    def fold(self, level: int, children: NDArray[np.float16], live: NDArray[np.bool_]) -> NDArray[np.float16]:
        """Folds an embedding chunk [c, r, d] into the embedding [r, d] of a node of `level`."""
        return _at_or_below(self._folds, level, self._identity_encoder).fold(children, live)

    def ranker(self, level: int) -> Ranker:
        """The ranker of embeddings of `level` (1 = chunks)."""
        return _at_or_below(self._ranks, level, self._identity_ranker)

    @property
    def by_products(self) -> bool:
        """Whether products with what `asked` gives order the embeddings of every level as its ranker does.

        Not with rankers of another kind, such as the caller's own. Of chunks the scores are the products.
        """
        kinds = {type(ranker) for ranker in self._ranks.values()}
        return kinds <= _BY_PRODUCTS and type(self.ranker(1)) is CosineRanker

    def asked(self, level: int, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """What embeddings of a level are compared with in place of queries [b, m, d]; see `by_products`."""
        ranker = self.ranker(level)
        return ranker.asked(queries) if isinstance(ranker, MappedRanker) else queries

    def score_each(
        self, level: int, query: NDArray[np.float32], embeddings: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """What the ranker of a level gives each embedding by itself [n], whatever else is asked for.

        Args:
            level: Of the embeddings.
            query: Vectors [m, d].
            embeddings: As stored [n, r, d].
        """
        ranker = self.ranker(level)
        if type(ranker) in _BY_PRODUCTS:  # n products of one size each: the bits of one score at a time
            found = (self.asked(level, query[None])[0] @ embeddings.transpose(0, 2, 1)).max(axis=(1, 2))
            return found + ranker.offset if isinstance(ranker, MappedRanker) else found
        return np.array([ranker.score(query[None], one[None])[0, 0] for one in embeddings], np.float32)

    def check(self, dim: int) -> None:
        """Tries every module on embeddings of a memory's width.

        Raises:
            DimensionMismatchError: A module is for another width.
            InvalidInputError: A module fails on them, or what it gives are no numbers.
        """
        for level, encoder in self.level_encoders.items():
            check_level_encoder(encoder, level, dim)
        for level, ranker in self.rankers.items():
            check_ranker(ranker, level, dim)

    @property
    def tolerance(self) -> float:
        """Most by which a component of a node may differ from its fold made elsewhere; identity is exact."""
        return _LEARNED_TOLERANCE if self.level_encoders else 0.0


def _at_or_below(modules, level, default):  # noqa: ANN001, ANN202
    """The module of `level`, else the highest one below it, else the identity."""
    trained = [key for key in modules if key <= level]
    return modules[max(trained)] if trained else default
