"""A call with an option that does not exist is told which one was meant."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from mllm_plugin.errors import InvalidTypeError

_P = ParamSpec("_P")
_R = TypeVar("_R")
_Class = TypeVar("_Class", bound=type)

_ELSEWHERE = {  # what others call it, by our name
    "k": ("top_k", "n_results", "limit", "similarity_top_k", "num_results", "n", "fetch_k"),
    "filter": ("where", "filters", "condition", "metadata_filter"),
    "namespace": ("collection", "collection_name", "user_id", "user", "tenant"),
    "encoder": ("embedding", "embeddings", "embedding_function", "embed_model", "model"),
    "embedding": ("vector", "query_embedding", "query_vector"),
    "embeddings": ("vectors", "query_embeddings"),
    "query": ("query_text", "question", "text"),
    "path": ("persist_directory", "persist_dir", "directory", "folder"),
    "documents": ("docs", "nodes", "texts"),
    "text": ("page_content", "content", "document"),
    "id": ("id_", "doc_id", "node_id", "document_id"),
    "ids": ("document_ids", "doc_ids"),
    "metadata": ("meta", "metadatas", "payload"),
    "labels": ("tags",),
    "split": ("chunk", "split_documents"),
}
_MEANT = {(word, ours): ours for ours, words in _ELSEWHERE.items() for word in words}


def explained(call: Callable[_P, _R]) -> Callable[_P, _R]:
    """Raises `InvalidTypeError` in place of Python's `TypeError` where arguments do not fit the call."""
    if inspect.iscoroutinefunction(call):

        @wraps(call)
        async def awaited(*args: Any, **options: Any) -> Any:
            try:
                return await call(*args, **options)
            except TypeError:
                _check(call, args, options)
                raise

        return awaited  # type: ignore[return-value]

    @wraps(call)
    def checked(*args: _P.args, **options: _P.kwargs) -> _R:
        try:
            return call(*args, **options)
        except TypeError:
            _check(call, args, options)
            raise

    return checked


def explain_calls(cls: _Class) -> _Class:
    """Wraps the constructor and the public methods that a class defines; returns the class."""
    for name, found in list(vars(cls).items()):
        if name.startswith("_") and name != "__init__":
            continue
        if isinstance(found, classmethod):
            setattr(cls, name, classmethod(explained(found.__func__)))
        elif inspect.isfunction(found):
            setattr(cls, name, explained(found))
    return cls


def _check(call: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> None:
    signature = inspect.signature(call)
    try:
        signature.bind(*args, **options)
    except TypeError as error:
        name = call.__qualname__.removesuffix(".__init__").split(".")[-1]
        raise InvalidTypeError(f"{name}(): {_explanation(signature, options) or error}") from None


def _explanation(signature: inspect.Signature, options: dict[str, Any]) -> str:
    """Names the first unknown option; empty when it is something else that does not fit."""
    known = [name for name in signature.parameters if name not in ("self", "cls")]
    unknown = next((name for name in options if name not in known), None)
    if unknown is None:
        return ""
    meant = [ours for ours in known if (unknown, ours) in _MEANT] or get_close_matches(unknown, known, 1)
    return f"unknown option {unknown!r}; " + (
        f"did you mean {meant[0]}?" if meant else f"known are {', '.join(known)}"
    )
