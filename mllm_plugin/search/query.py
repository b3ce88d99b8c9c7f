"""What every way of searching is given: queries, and what it may see of one namespace.

A query is as rankers take it: one vector per query chunk, and the words. A view is one moment of a namespace,
what the filter lets through of it, and how much newness counts.

Shapes: m vectors per query, n texts or embeddings, w windows, d dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np

from mllm_plugin.config import LexicalConfig
from mllm_plugin.encoders.base import as_vectors, meaningless, token_limit
from mllm_plugin.errors import InvalidInputError, InvalidTypeError
from mllm_plugin.hierarchy import Hierarchy
from mllm_plugin.protocols import TextEncoder
from mllm_plugin.search.allowed import Allowed
from mllm_plugin.shapes import Bool, Float32, Float64, Int64
from mllm_plugin.store.decoded import CachedChunk, EmbeddingChunkCache, NodeRef
from mllm_plugin.store.namespaces import NamespaceRow
from mllm_plugin.store.snapshot import Frequency, Snapshot
from mllm_plugin.text.chunking import split_text
from mllm_plugin.text.letters import text_flaw
from mllm_plugin.text.lexical import QueryTerms, asked_terms

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


@dataclass(frozen=True)
class View:
    """One namespace in one snapshot, with what is needed to search it.

    Attributes:
        allowed: None without a filter.
        through_masks: Whether `allowed` may name masked chunks.
        recency: What newness counts; None for nothing.
    """

    snapshot: Snapshot
    row: NamespaceRow
    embedding_chunks: EmbeddingChunkCache
    hierarchy: Hierarchy
    lexical: LexicalConfig
    allowed: Allowed | None = None
    through_masks: bool = False
    recency: Recency | None = None

    @property
    def answers(self) -> int:
        """How many chunks a search may return."""
        return self.row.live_chunks if self.allowed is None else len(self.allowed.chunk_ids)

    def root(self) -> NodeRef:
        """The node where every walk begins."""
        return NodeRef(self.row.root_id, self.row.root_version)  # type: ignore[arg-type]

    def root_level(self) -> int:
        """Level of the root node."""
        return self.snapshot.node(self.root().node_id).level

    def children(self, ref: NodeRef) -> CachedChunk:
        """A node's embedding chunk."""
        return self.embedding_chunks.get(self.snapshot, *ref)

    def admitted(self, live: Bool[np.ndarray, " n"], ids: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Which chunks may be returned: they are live, and the filter lets them through."""
        return live if self.allowed is None else live & (self.allowed.chunks(ids) > 0)

    def below(self, live: Int64[np.ndarray, " n"], ids: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """How many chunks that may be returned lie below nodes with so many live ones."""
        return live if self.allowed is None else self.allowed.below(ids)

    def added(self, ids: Int64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """What recency adds to the scores of chunks."""
        return np.zeros(len(ids)) if self.recency is None else self.recency.added(self.snapshot, ids)

    def words(
        self, queries: Sequence[Query], look_up: Callable[[set[int]], dict[int, Frequency]] | None = None
    ) -> list[tuple[QueryTerms, dict[int, Frequency]]]:
        """Each query's terms weighed here, and how many chunks have each of them and of their forms.

        Args:
            queries: Whose.
            look_up: Tells how many chunks have each term, where that is known without the file.
        """
        rule, size = self.snapshot.word_rule, (self.row.live_chunks, self.row.live_terms)
        asked = [asked_terms(query.text, rule) for query in queries]
        hashes = [{term for one in own for term in (one.term, *one.forms)} for own in asked]
        asked_for = set().union(*hashes)
        known = look_up(asked_for) if look_up else self.snapshot.frequencies(self.row, asked_for)
        live = {term: found.live for term, found in known.items()}
        return [
            (QueryTerms.weighed(own, live, *size), {term: known[term] for term in mine & known.keys()})
            for own, mine in zip(asked, hashes, strict=True)
        ]

    def weigh(self, queries: Sequence[Query]) -> list[tuple[QueryTerms, list[tuple[int, int]]]]:
        """Each query's terms weighed here, and the chunks (id, node id) that rare ones lead to."""
        return [(terms, self.snapshot.routed_chunks(self.row, known)) for terms, known in self.words(queries)]


@dataclass(frozen=True)
class Recency:
    """How much newness counts.

    A chunk's score gets `weight * 0.5 ** (age / half_life)` added. Its age is the time since its document's
    `valid_from`, or since its `created_at` where it has none; what has neither, or lies ahead, counts as
    infinitely old or as new.

    Args:
        half_life: A timedelta, or seconds.
        weight: What something of this moment gets; a cosine counts for up to 1 beside it.

    Raises:
        InvalidTypeError: One is no number.
        InvalidInputError: The half-life is not above 0, or the weight below 0.
    """

    half_life: timedelta | float
    weight: float = 0.1

    def __post_init__(self) -> None:
        seconds = self.seconds
        for name, value in (("half_life", seconds), ("weight", self.weight)):
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise InvalidTypeError(f"recency: {name} must be a number, got {value!r}")
        if not 0 < seconds < float("inf") or not 0 <= self.weight < float("inf"):
            raise InvalidInputError(
                f"recency: half_life must be above 0 and weight not below 0, got {self!r}"
            )

    @property
    def seconds(self) -> float:
        """The half-life."""
        return self.half_life.total_seconds() if isinstance(self.half_life, timedelta) else self.half_life

    def added(self, snapshot: Snapshot, chunk_ids: Int64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """What is added to the score of each chunk."""
        begins = snapshot.begins(chunk_ids.tolist())
        ages = [
            (snapshot.now - begins[chunk_id]) / 1e6 if chunk_id in begins else np.inf
            for chunk_id in chunk_ids.tolist()
        ]
        return self.weight * np.exp2(-np.maximum(ages, 0.0) / self.seconds)


# -- as callers give them


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


def recency_of(given: Any) -> Recency | None:
    """Recency as a caller may give it: None, a half-life, or both numbers.

    Raises:
        InvalidTypeError: It is something else.
    """
    if given is None or isinstance(given, Recency):
        return given
    if isinstance(given, timedelta) or (isinstance(given, int | float) and not isinstance(given, bool)):
        return Recency(given)
    raise InvalidTypeError(f"recency is a half-life (timedelta or seconds) or a Recency, got {given!r}")
