"""The last step of a search: a `Reranker` puts the best chunks into an order of its own.

It sees the merged hits of all namespaces, which are the same in every search mode, and more of them than are
wanted, so that what it finds good can rise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mllm_plugin.errors import InvalidInputError
from mllm_plugin.protocols import Reranker
from mllm_plugin.search.query import Query
from mllm_plugin.shapes import Float64
from mllm_plugin.types import Hit, Hits


def hits_needed(reranker: Reranker | None, k: int) -> int:
    """How many hits to search for where `k` are wanted."""
    return k if reranker is None else max(k, reranker.finalists)


def reranked(
    reranker: Reranker | None, queries: Sequence[Query], found: Sequence[Hits], k: int
) -> list[Hits]:
    """The `k` best hits of each query, best first; queries without words keep their order.

    Raises:
        InvalidInputError: The reranker gives something else than a finite number for each text.
    """
    if reranker is None:
        return list(found)
    return [
        hits.replaced((_reranked(reranker, query.text, hits) if query.text and hits else hits)[:k])
        for query, hits in zip(queries, found, strict=True)
    ]


def _reranked(reranker: Reranker, query: str, hits: Sequence[Hit]) -> list[Hit]:
    before = np.array([hit.score for hit in hits])
    scores = _numbers(reranker, reranker.rerank(query, [hit.text for hit in hits], before), len(hits))
    order = np.argsort(-scores, kind="stable").tolist()
    new = [(hits[row], float(scores[row])) for row in order]
    return [replace(hit, score=score, relevance=float(reranker.relevance(score))) for hit, score in new]


def _numbers(reranker: Reranker, given: Sequence[float], count: int) -> Float64[np.ndarray, " {count}"]:
    try:
        scores = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"the reranker {reranker!r} returned no numbers: {error}") from error
    if scores.shape != (count,) or not np.isfinite(scores).all():
        raise InvalidInputError(
            f"the reranker {reranker!r} returned scores of shape {scores.shape} for {count} texts; expected "
            f"a finite number for each"
        )
    return scores
