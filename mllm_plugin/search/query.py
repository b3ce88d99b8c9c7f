"""A query as rankers take it: one vector per query chunk, and the words.

Shapes: m vectors per query, n texts, w windows, d dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mllm_plugin.encoders.base import as_vectors, meaningless, token_limit
from mllm_plugin.errors import InvalidInputError
from mllm_plugin.protocols import TextEncoder
from mllm_plugin.shapes import Float32
from mllm_plugin.text.chunking import split_text
from mllm_plugin.text.letters import text_flaw

_MOST_WINDOWS = 8  # of a query: each is compared with every window of the finalists


@dataclass(frozen=True)
class Query:
    """What is looked for.

    Attributes:
        text: The words for lexical evidence; empty for a plain vector.
        vectors: Unit embeddings, one per chunk of a long query.
        windows: Unit embeddings of the query's token windows; None where the encoder gives none.
    """

    text: str
    vectors: Float32[np.ndarray, "m d"]
    windows: Float32[np.ndarray, "w d"] | None = None


def make_queries(
    queries: Sequence[Any], embeddings: Sequence[Any] | None, encoder: TextEncoder, chunk_tokens: int
) -> list[Query]:
    """Turns texts and vectors into queries; encodes all texts in one call.

    Raises:
        InvalidTypeError: A query is neither text nor a vector.
        InvalidInputError: A text is blank or not Unicode, or a vector is not finite.
        DimensionMismatchError: A vector has another width than the memory.
    """
    if embeddings is not None and len(embeddings) != len(queries):
        raise InvalidInputError(f"expected one embedding per query, got {len(embeddings)} for {len(queries)}")
    given = embeddings if embeddings is not None else [None] * len(queries)
    texts = [_text(query) for query in queries]
    vectors: list[Float32[np.ndarray, "m d"] | None] = [
        as_vectors(query if embedding is None else embedding, encoder.dim)
        if embedding is not None or not isinstance(query, str)
        else None
        for query, embedding in zip(queries, given, strict=True)
    ]
    limit = token_limit(encoder, chunk_tokens)
    pieces = {
        row: [
            texts[row][span.start : span.end] for span in split_text(texts[row], limit, encoder.token_offsets)
        ]
        for row, vector in enumerate(vectors)
        if vector is None
    }
    flat = [piece for parts in pieces.values() for piece in parts]
    encoded, found = _encode(flat, encoder)
    windows: list[Float32[np.ndarray, "w d"] | None] = [None] * len(texts)
    place = 0
    for row, parts in pieces.items():
        vectors[row] = _meant(encoded[place : place + len(parts)].astype(np.float32))
        windows[row] = _some(found[place : place + len(parts)]) if found is not None else None
        place += len(parts)
    return [Query(*one) for one in zip(texts, vectors, windows, strict=True)]  # type: ignore[arg-type]


def _encode(
    texts: list[str], encoder: TextEncoder
) -> tuple[Float32[np.ndarray, "n d"], list[Float32[np.ndarray, "_ d"]] | None]:
    """Pooled embeddings of query texts, and windows of each where the encoder gives them.

    Texts without a meaning get zero and no windows: they are looked for by their words.
    """
    rows = [row for row, nothing in enumerate(meaningless(encoder, texts)) if not nothing]
    encoded = np.zeros((len(texts), encoder.dim), dtype=np.float32)
    if not rows:
        return encoded, None
    asked = [texts[row] for row in rows]
    pooled, windows = encoder.encode_query_windows(asked)
    vectors = as_vectors(pooled, encoder.dim)
    if len(vectors) != len(asked):
        raise InvalidInputError(f"the encoder returned {len(vectors)} vectors for {len(asked)} queries")
    encoded[rows] = vectors
    if windows is None:
        return encoded, None
    found = dict(zip(rows, windows, strict=True))
    none = np.zeros((0, encoder.dim), dtype=np.float32)
    return encoded, [found.get(row, none) for row in range(len(texts))]


def _meant(vectors: Float32[np.ndarray, "_ d"]) -> Float32[np.ndarray, "m d"]:
    """Vectors of a query's parts less those without a meaning; one where none has any."""
    return vectors[vectors.any(axis=1)] if vectors.any() else vectors[:1]


def _some(parts: Sequence[Float32[np.ndarray, "_ d"]]) -> Float32[np.ndarray, "w d"] | None:
    """Windows of all parts of a query, evenly thinned to `_MOST_WINDOWS`; None when there are none."""
    windows = np.concatenate(parts)
    if len(windows) > _MOST_WINDOWS:
        windows = windows[np.linspace(0, len(windows) - 1, _MOST_WINDOWS).round().astype(int)]
    return windows.astype(np.float32) if len(windows) else None


def _text(query: Any) -> str:
    if not isinstance(query, str):
        return ""
    if not query.strip():
        raise InvalidInputError("the query is empty; pass text or a vector")
    if reason := text_flaw(query):
        raise InvalidInputError(f"the query {reason}")
    return query
