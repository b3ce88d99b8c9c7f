"""Embedding models of LangChain and LlamaIndex as a `TextEncoder`, told by their methods, never imported."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
from collections.abc import Mapping, Sequence
from enum import Enum
from os import PathLike
from pathlib import Path, PurePath
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.encoders.base import Spans, TextEncoder
from mllm_plugin.errors import InvalidInputError, InvalidTypeError
from mllm_plugin.seam import adopted, fits

_EMBEDDING_FIELDS = (
    "deployment",
    "dimensions",
    "embed_instruction",
    "encode_kwargs",
    "model",
    "model_id",
    "model_name",
    "normalize",
    "pooling",
    "query_encode_kwargs",
    "query_instruction",
    "text_instruction",
)


class LangChainModel(Protocol):
    """What is used of a LangChain `Embeddings`."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Returns embeddings [n, d]."""
        ...

    def embed_query(self, text: str) -> list[float]:
        """Returns a query's embedding [d]."""
        ...


class LlamaIndexModel(Protocol):
    """What is used of a LlamaIndex `BaseEmbedding`."""

    def get_text_embedding_batch(self, texts: list[str]) -> list[list[float]]:
        """Returns embeddings [n, d]."""
        ...

    def get_query_embedding(self, query: str) -> list[float]:
        """Returns a query's embedding [d]."""
        ...


EncoderLike = str | PathLike[str] | TextEncoder | LangChainModel | LlamaIndexModel


class FrameworkEncoder(TextEncoder):
    """Pooled embeddings of a LangChain `Embeddings` or a LlamaIndex `BaseEmbedding`.

    Args:
        model: The framework's embedding model.
        fingerprint: Names the model, and is then what tells it. Left out, class, plain settings and dimension
            make a name, and a memory tells the model by the vectors that it makes of a few texts.
        dim: Width of the embeddings; asked of the model with one short text when left out.
        windows: A second `TextEncoder`, usually local, whose windows are stored beside the model's
            embeddings; its dimension must be the same.

    Attributes:
        model: The framework's embedding model, as given.
        anonymous: Whether the fingerprint was left out.
    """

    def __init__(
        self,
        model: Any,
        *,
        fingerprint: str | None = None,
        dim: int | None = None,
        windows: Any = None,
    ) -> None:
        self.model = model
        self._embed_documents, self._embed_query = _methods(model)
        self.dim = dim or len(self._embed_query("dimension"))
        windows = None if windows is None else adopted(TextEncoder, windows)
        if windows is not None and windows.dim != self.dim:
            raise InvalidInputError(
                f"the window encoder has {windows.dim} dimensions, expected {self.dim}; choose another"
            )
        self._windows = windows
        self.anonymous = fingerprint is None
        self.fingerprint = fingerprint or _fingerprint(model, self.dim)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled with the model inside.

        Raises:
            InvalidTypeError: The model cannot be pickled.
        """
        try:
            pickle.dumps(self.model)  # only for the error: what comes out says nothing of an embedding model
        except Exception as error:  # whatever the framework's model holds raises
            raise InvalidTypeError(
                f"the embedding model {type(self.model).__name__} cannot be pickled ({error}); make it anew "
                f"in the other process and open the memory with it"
            ) from error
        state = {"dim": self.dim, "fingerprint": self.fingerprint, "windows": self._windows}
        return _restored, (type(self), self.model, state, self.anonymous)

    def __copy__(self) -> FrameworkEncoder:
        """Of the same model."""
        copied = object.__new__(type(self))
        vars(copied).update(vars(self))
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> FrameworkEncoder:
        """Of the same model too: it may hold connections and locks."""
        return copy.copy(self)

    def encode_documents(
        self, texts: Sequence[str]
    ) -> tuple[NDArray[np.float32], Sequence[NDArray[np.float32]] | None]:
        """Embeds texts: pooled [n, d]; windows only with a second encoder."""
        pooled = np.asarray(self._embed_documents(list(texts)), dtype=np.float32).reshape(-1, self.dim)
        return pooled, self._windows.encode_documents(texts)[1] if self._windows else None

    def window_spans(self, texts: Sequence[str]) -> Sequence[Spans]:
        """Character spans of each text's windows, as the second encoder tells them; none when it does not."""
        return (self._windows or super()).window_spans(texts)

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeds queries [n, d]."""
        return np.asarray([self._embed_query(text) for text in texts], dtype=np.float32).reshape(-1, self.dim)


def _restored(
    kind: type[FrameworkEncoder], model: Any, state: dict[str, Any], anonymous: bool
) -> FrameworkEncoder:
    encoder = kind(model, **state)
    encoder.anonymous = anonymous
    return encoder


class VectorsOnly(TextEncoder):
    """Stands in for an encoder where every vector is given by the caller.

    Args:
        dim: Width of the vectors.
        fingerprint: Names where they come from.
    """

    def __init__(self, dim: int, fingerprint: str | None = None) -> None:
        self.dim = dim
        self.fingerprint = fingerprint or f"vectors:{dim}"

    def encode_documents(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], None]:
        """Always raises: there is nothing to encode with."""
        raise InvalidInputError("this memory has no encoder: pass embeddings= to add")

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Always raises: there is nothing to encode with."""
        raise InvalidInputError("this memory has no encoder: search with a vector")


def as_encoder(encoder: EncoderLike, device: str | None = None) -> TextEncoder:
    """Returns a `TextEncoder` for a model name, a path, a framework's embedding model, or itself.

    Args:
        device: Where a model given by name or path runs; CUDA when there is one.

    Raises:
        InvalidTypeError: It is none of these.
    """
    if isinstance(encoder, str | PathLike):
        from mllm_plugin.encoders.huggingface import HuggingFaceEncoder

        return HuggingFaceEncoder(encoder if isinstance(encoder, str) else Path(encoder), device=device)
    return adopted(TextEncoder, encoder) if fits(TextEncoder, encoder) else FrameworkEncoder(encoder)


def _methods(model: Any) -> tuple[Any, Any]:
    for documents, query in (
        ("embed_documents", "embed_query"),
        ("get_text_embedding_batch", "get_query_embedding"),
    ):
        if callable(getattr(model, documents, None)) and callable(getattr(model, query, None)):
            return getattr(model, documents), getattr(model, query)
    raise InvalidTypeError(
        f"{type(model).__name__} is no encoder: expected a model name or path, a TextEncoder (dim, "
        f"fingerprint, encode_documents, encode_queries), a LangChain Embeddings, a LlamaIndex BaseEmbedding"
    )


def _fingerprint(model: Any, dim: int) -> str:
    """Class, dimension and the settings that change an embedding; batch sizes and secrets do not."""
    fields = getattr(model, "__dict__", {})
    plain = {name: str(fields[name]) for name in _EMBEDDING_FIELDS if _is_plain(fields.get(name))}
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]
    return f"{kind}:{dim}:{digest}"


def _is_plain(value: Any) -> bool:
    """Whether `str` gives the same in every process; that of an object may show its address."""
    if isinstance(value, Mapping):
        return all(_is_plain(setting) for pair in value.items() for setting in pair if setting is not None)
    if isinstance(value, list | tuple):
        return all(_is_plain(setting) for setting in value if setting is not None)
    return isinstance(value, str | int | float | Enum | PurePath)
