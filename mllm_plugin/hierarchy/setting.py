"""What a search as a whole tells about whether its hits answer the query.

The same score is worth much among short notes and little in a large memory, and a first hit that stands alone
is worth more than one of many alike. All of it is the same for every hit of a search, so relevance stays in
order of the scores.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

SCALES = {"cosine": (0.55, 0.15), "window": (0.55, 0.12), "lexical": (0.35, 0.2), "lead": (0.5, 0.35)}
LOG_SCALES = {"chunks": (6.0, 2.0), "length": (4.0, 1.0), "terms": (2.2, 0.4)}
AMONG = 10  # best chunks that the first is compared with


@dataclass(frozen=True)
class Setting:
    """Of one search in one namespace.

    Attributes:
        cosine, window, lexical: Evidence of the best chunk.
        lead: Its score less the mean of the nine that follow.
        chunks: That were searched.
        length: Terms of a chunk of the namespace on average.
        terms: Different words of the query.
    """

    cosine: float
    window: float
    lexical: float
    lead: float
    chunks: float
    length: float
    terms: float

    @classmethod
    def of(
        cls,
        evidence: NDArray[np.floating],
        scores: NDArray[np.floating],
        *,
        chunks: int,
        length: float,
        terms: int,
    ) -> Setting:
        """From the evidence [n, 3] and the scores [n] of what a search found, n at least 1."""
        best = np.sort(scores)[::-1][:AMONG]
        lead = float(best[0] - best[1:].mean()) if len(best) > 1 else SCALES["lead"][0]
        cosine, window, lexical = map(float, evidence[np.argmax(scores)])
        return cls(cosine, window, lexical, lead, chunks, length, terms)

    def features(self) -> NDArray[np.float64]:
        """About normal numbers, in the order of the attributes [f]."""
        plain = [(getattr(self, name) - middle) / spread for name, (middle, spread) in SCALES.items()]
        logs = [
            (np.log(max(1.0, getattr(self, name))) - middle) / spread
            for name, (middle, spread) in LOG_SCALES.items()
        ]
        return np.clip([*plain, *logs], -3.0, 3.0)


FEATURES = len(fields(Setting))
