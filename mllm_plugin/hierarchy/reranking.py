"""Cross-encoders of frameworks as a `Reranker`, told by their methods, never imported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.errors import InvalidTypeError
from mllm_plugin.hierarchy.base import Reranker
from mllm_plugin.seam import adopted, fits


class SentenceTransformersModel(Protocol):
    """What is used of a sentence-transformers `CrossEncoder`."""

    def predict(self, pairs: list[tuple[str, str]], /) -> Any:
        """Returns a number for each pair."""
        ...


class LangChainModel(Protocol):
    """What is used of a LangChain `BaseCrossEncoder`."""

    def score(self, pairs: list[tuple[str, str]], /) -> Any:
        """Returns a number for each pair."""
        ...


RerankerLike = (
    Reranker | SentenceTransformersModel | LangChainModel | Callable[[list[tuple[str, str]]], Sequence[float]]
)


class PairReranker(Reranker):
    """Reads the query together with each chunk, as cross-encoders do.

    Args:
        model: A `CrossEncoder` of sentence-transformers, a `BaseCrossEncoder` of LangChain, or a function
            that takes a list of (query, text) and returns a number for each.
        finalists: How many chunks of each query it sees.
        calibrated: Whether its scores are from 0 to 1 already, and are the relevance; left out, where the
            cross-encoder ends in a sigmoid, as most of sentence-transformers do.
    """

    def __init__(self, model: Any, *, finalists: int = 50, calibrated: bool | None = None) -> None:
        self.model, self.finalists = model, finalists
        self.calibrated = _ends_in_sigmoid(model) if calibrated is None else calibrated
        _call_of(model)  # what cannot be used is said now

    def rerank(self, query: str, texts: Sequence[str], scores: NDArray[np.float64]) -> Sequence[float]:
        """The model's score of each text [n] with the query."""
        return _call_of(self.model)([(query, text) for text in texts])

    def relevance(self, score: float) -> float:
        """The score where it is calibrated, else the logistic function of it."""
        return min(max(score, 0.0), 1.0) if self.calibrated else super().relevance(score)


def as_reranker(given: Any) -> Reranker:
    """A `Reranker` for a cross-encoder, a function of pairs, or itself.

    Raises:
        InvalidTypeError: It is none of these.
    """
    return adopted(Reranker, given) if fits(Reranker, given) else PairReranker(given)


def _ends_in_sigmoid(model: Any) -> bool:
    cross_encoder = getattr(model, "client", model)  # LangChain's holds one of sentence-transformers
    return type(getattr(cross_encoder, "activation_fn", None)).__name__ == "Sigmoid"


def _call_of(model: Any) -> Callable[[list[tuple[str, str]]], Any]:
    names = ("predict", "score", "__call__")  # sentence-transformers', LangChain's, a function's
    call = next((found for name in names if callable(found := getattr(model, name, None))), None)
    if call is None or isinstance(model, type):
        raise InvalidTypeError(
            f"{type(model).__name__} is no reranker: expected a Reranker (rerank), a CrossEncoder "
            f"of sentence-transformers (predict), a BaseCrossEncoder of LangChain (score), or a function of "
            f"pairs"
        )
    return call
