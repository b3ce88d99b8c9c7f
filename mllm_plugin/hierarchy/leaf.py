"""The leaf ranker: one score per chunk from pooled cosine, best windows and lexical evidence.

Its score depends on the query, the chunk and the namespace's statistics alone, so every search mode agrees
and scores compare across queries. It stays a weighted sum when it is trained.

What a search as a whole tells changes the relevance of its hits alone: a first hit that stands alone is worth
more than one of many alike, and the same score is worth more where few chunks could have it by chance. Both
are the same for every hit of a search, so relevance stays in order of the scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.config import LeafConfig
from mllm_plugin.errors import InvalidInputError
from mllm_plugin.folder import check_tensors

Scores = NDArray[np.floating]
Tensors = Mapping[str, NDArray[np.float32]]

NO_MEANING = -2.0  # in place of the cosine of a chunk whose embedding is zero
_SHAPES = {"weights": (3,), "relevance": (2,)}
_SETTING = "setting"
AMONG = 10  # best chunks that the first is compared with
_LEAD, _CHUNKS = (0.5, 0.35), (6.0, 2.0)  # about the middle and the spread over kinds of memories


@dataclass(frozen=True)
class Setting:
    """Of one search in one namespace: whether its hits answer the query.

    Attributes:
        lead: Score of the best chunk less the mean of the nine that follow.
        chunks: That were searched.
    """

    lead: float
    chunks: int

    @classmethod
    def of(cls, scores: NDArray[np.floating], chunks: int) -> Setting:
        """From the scores [n] of what a search found, n at least 1."""
        best = np.sort(scores)[::-1][:AMONG]
        return cls(float(best[0] - best[1:].sum() / len(best[1:])) if len(best) > 1 else _LEAD[0], chunks)

    def features(self) -> NDArray[np.float64]:
        """About normal numbers, in the order of the attributes [f]."""
        return self._features

    @cached_property
    def _features(self) -> NDArray[np.float64]:
        lead = (self.lead - _LEAD[0]) / _LEAD[1]
        chunks = (float(np.log(max(1, self.chunks))) - _CHUNKS[0]) / _CHUNKS[1]
        return np.array([min(3.0, max(-3.0, number)) for number in (lead, chunks)])


FEATURES = len(fields(Setting))


class LeafRanker:
    """Weighted sum of the evidence, calibrated to a relevance.

    Args:
        config: Weights and calibration of the untrained ranker.
        tensors: Trained ones that take their place: `weights` [3], none negative, of cosine, window and
            lexical evidence, `relevance` [2], slope and offset, and if they are there `setting` [2], weights
            of what a search as a whole tells.

    Raises:
        InvalidInputError: A tensor is missing or unknown, has another shape, or is no finite number; a
            weight is negative.
    """

    def __init__(self, config: LeafConfig = LeafConfig(), tensors: Tensors | None = None) -> None:
        self.config = config
        self._tensors = {name: np.array(value, dtype=np.float32) for name, value in (tensors or {}).items()}
        if self._tensors:
            _check(self._tensors)
        weights = self._tensors.get("weights", (config.cosine, config.window, config.lexical))
        relevance = self._tensors.get("relevance", (config.relevance_slope, config.relevance_offset))
        # python floats: a product with them is rounded alike in every row and batch, and float64 stays so
        self._cosine, self._window, self._lexical = map(float, weights)
        self._slope, self._offset = map(float, relevance)
        self._setting = self._tensors.get(_SETTING, np.zeros(FEATURES, np.float32)).astype(np.float64)

    @property
    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """What to save by name, to give to `LeafRanker` again; empty when untrained."""
        return dict(self._tensors)

    def partial(self, cosine: Scores, lexical: Scores) -> Scores:
        """What is known before windows are read [n]: it orders the candidates."""
        cosine = _known(cosine, lexical)
        return (self._cosine + self._window) * cosine + self._lexical * lexical

    def score(self, cosine: Scores, window: Scores, lexical: Scores) -> Scores:
        """Scores chunks [n]; higher is better. `window` is the cosine where a chunk has no windows.

        A chunk without a meaning comes last, unless a word of the query is in it: then words alone count.
        """
        cosine, window = _known(cosine, lexical), _known(window, lexical)
        return self._cosine * cosine + self._window * window + self._lexical * lexical

    def relevance(self, score: float, setting: Setting | None = None) -> float:
        """The score calibrated to [0, 1]; of hits of one search, in order of their scores.

        Args:
            score: As `score` gives it.
            setting: Of the search; None for one like most.
        """
        return self.relevances([score], setting)[0]

    def relevances(self, scores: Sequence[float], setting: Setting | None = None) -> list[float]:
        """`relevance` of several hits of one search."""
        margins = self._slope * np.asarray(scores, dtype=np.float64) + self._offset
        if setting is not None:
            margins += float(self._setting @ setting.features())
        return (1.0 / (1.0 + np.exp(-margins))).tolist()


def _known(cosine: Scores, lexical: Scores) -> Scores:
    without = cosine == NO_MEANING
    return np.where(without & (lexical > 0), 0.0, cosine) if without.any() else cosine


def _check(tensors: Tensors) -> None:
    optional = {_SETTING: (FEATURES,)} if _SETTING in tensors else {}
    check_tensors(tensors, {**_SHAPES, **optional}, "the leaf ranker")
    if (tensors["weights"] < 0).any():
        raise InvalidInputError(
            f"the leaf ranker: tensor 'weights' holds {tensors['weights'].tolist()}, expected none below 0"
        )
