"""What a search as a whole tells about whether its hits answer the query.

A first hit that stands alone is worth more than one of many alike, and the same score is worth more where few
chunks could have it by chance. Both are the same for every hit of a search, so relevance stays in order of
the scores.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

AMONG = 10  # best chunks that the first is compared with
_LEAD, _CHUNKS = (0.5, 0.35), (6.0, 2.0)  # about the middle and the spread over kinds of memories


@dataclass(frozen=True)
class Setting:
    """Of one search in one namespace.

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
