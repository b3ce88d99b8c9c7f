"""How retriever and vector store ask a memory."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from langchain_mllm.documents import plain
from mllm_plugin import Hit, MemoryIndex
from mllm_plugin.errors import InvalidTypeError
from mllm_plugin.memory.checks import SCOPE
from mllm_plugin.types import Namespace

_ELSEWHERE = {
    "collection_name": "namespace",
    "filters": "filter",
    "limit": "k",
    "n_results": "k",
    "persist_directory": "path",
    "similarity_top_k": "k",
    "top_k": "k",
    "where": "filter",
}
"""What others call an option."""

_SEARCH_TYPES = {
    "fetch_k": "mmr",
    "lambda_mult": "mmr",
    "score_threshold": "similarity_score_threshold",
}
"""Options of a store's retriever for one way of searching."""


class Scoped(BaseModel):
    """Where to look, and at what: what retriever and models that answer have in common."""

    namespace: Namespace | str = ()
    prefix: bool = False
    filter: dict[str, Any] | None = None
    exclude_labels: tuple[str, ...] = ()

    def _scope(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in SCOPE}


def search(memory: MemoryIndex, query: Any, **options: Any) -> list[Hit]:
    """Searches; a blank query finds whatever the filter lets through, all of it fully relevant."""
    return _answers(query, memory.search(**_request(memory, query, options)))


async def asearch(memory: MemoryIndex, query: Any, **options: Any) -> list[Hit]:
    """Async twin of `search`."""
    return _answers(query, await memory.asearch(**_request(memory, query, options)))


def search_vectors(memory: MemoryIndex, query: Any, **options: Any) -> tuple[list[Hit], NDArray[np.float32]]:
    """Searches, and gives the hits' stored embeddings [n, dim] too."""
    recall = memory.recall(**_request(memory, query, {**options, "nodes": 0}))
    vectors = [chunk.vectors[0] for chunk in recall.levels[1]]
    return _answers(query, list(recall.hits)), np.asarray(vectors, dtype=np.float32)


def is_blank(query: Any) -> bool:
    """Whether a query has no words; self-query retrievers and agents ask so by metadata alone."""
    return isinstance(query, str) and not query.strip()


def check_options(call: Callable[..., Any], options: Mapping[str, Any], *own: str) -> None:
    """Sees to it that a call takes these options.

    Args:
        call: Where they go to.
        options: Given by the user.
        own: Options that the caller takes itself.

    Raises:
        InvalidTypeError: One is unknown.
    """
    parameters = inspect.signature(call).parameters.values()
    known = [*own, *(parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY)]
    if unknown := [name for name in options if name not in known]:
        raise InvalidTypeError(unknown_option(unknown[0], known))


def unknown_option(name: str, known: list[str] | tuple[str, ...]) -> str:
    """Says that an option is unknown, and which is most likely meant."""
    if name in _SEARCH_TYPES:
        return f"{name!r} goes with search_type={_SEARCH_TYPES[name]!r}; leave it out, or search that way"
    meant = [_ELSEWHERE.get(name, ""), *difflib.get_close_matches(name, known, n=1)]
    hint = next((f"did you mean {one}? It takes" for one in meant if one in known), "expected one of")
    return f"unknown option {name!r}; {hint} {', '.join(known)}"


def _request(memory: MemoryIndex, query: Any, options: dict[str, Any]) -> dict[str, Any]:
    asked = {**options, "filter": plain(options.get("filter"))}
    if not is_blank(query):
        return {"query": query, **asked}
    vector = asked.pop("embedding", None)
    return {"query": np.zeros(memory.encoder.dim) if vector is None else vector, **asked}


def _answers(query: Any, hits: list[Hit]) -> list[Hit]:
    return [replace(hit, relevance=1.0) for hit in hits] if is_blank(query) else hits
