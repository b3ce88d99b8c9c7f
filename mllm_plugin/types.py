"""What goes in and what is found: plain frozen dataclasses, no behaviour beyond `to_dict`."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.calls.options import explain_calls

Namespace = tuple[str, ...]
SearchMode = Literal["auto", "beam", "flat", "exact"]
OnInvalid = Literal["raise", "skip"]
Moment = datetime | date | str  # aware, a date is its midnight in UTC, text is ISO 8601
VectorLike = Sequence[float] | NDArray[Any]
VectorsLike = VectorLike | Sequence[VectorLike]
QueryLike = str | VectorsLike


class ToDict:
    """A dataclass that says itself in JSON's terms."""

    def to_dict(self) -> dict[str, Any]:
        """Returns a JSON-ready dictionary."""
        return {one.name: _plain(getattr(self, one.name)) for one in dataclasses.fields(self)}  # type: ignore[arg-type]


def _plain(value: Any) -> Any:
    """The value with dictionaries in place of reports and named tuples, and lists in place of arrays."""
    if isinstance(value, ToDict):
        return value.to_dict()
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()  # type: ignore[attr-defined]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    if isinstance(value, date):
        return value.isoformat()
    return value.tolist() if isinstance(value, np.ndarray) else value


@explain_calls
@dataclass(frozen=True, slots=True)
class Document(ToDict):
    """A text with an id and metadata.

    Args:
        text: Any non-empty Unicode text.
        id: Unique within a namespace; a random one is made when it is left out.
        metadata: JSON values by name; filters read it. Datetimes with a time zone, and dates, are kept as
            ISO 8601 text.
        labels: Names under which the document can be masked or hidden from a search.
        expires_at: From when on it is hidden, as if it were masked; `sweep` erases it then. A datetime with a
            time zone, a date (its midnight in UTC), or ISO 8601 text.
        valid_from, valid_to: From and to when what it says holds; `search(as_of=…)` reads them.
    """

    text: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    expires_at: Moment | None = None
    valid_from: Moment | None = None
    valid_to: Moment | None = None


class PathStep(NamedTuple):
    """One step of the route from the top level down to a chunk.

    Attributes:
        level: 1 for the chunk.
        node_id: Of the node; for level 1 the chunk's id.
        score: Higher is better.
    """

    level: int
    node_id: int
    score: float


@dataclass(frozen=True, slots=True)
class Hit(ToDict):
    """A chunk that answers a query.

    Attributes:
        document_id, chunk_id: Of which document, and which chunk of the memory.
        text: Of the chunk.
        score: Higher is better; compares across queries, namespaces and memories of one encoder. The
            reranker's where there is one.
        relevance: The score calibrated to [0, 1].
        start, end: Character offsets, `document.text[start:end] == text`.
        metadata: Of the document.
        path: The route from the top level down; the last step is the chunk itself (level 1) with what the
            leaf ranker gives it.
        namespace: Where it was found.
        created_at, updated_at, expires_at, valid_from, valid_to, version: Of the document; see
            `StoredDocument`.
        before, after: With `neighbours`, the document's text right before and after the chunk.
    """

    document_id: str
    chunk_id: int
    text: str
    start: int
    end: int
    score: float
    relevance: float
    metadata: dict[str, Any]
    path: tuple[PathStep, ...] = ()
    namespace: Namespace = ()
    created_at: datetime | None = field(default=None, compare=False)
    updated_at: datetime | None = field(default=None, compare=False)
    expires_at: datetime | None = None
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    version: int = field(default=0, compare=False)
    before: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class SearchStatistics(ToDict):
    """What a search did for one query.

    Attributes:
        mode: How it searched; "auto" where it found nothing to search, or namespaces of both kinds.
        embeddings_scored: Embeddings compared with the query.
        nodes_visited: Nodes whose embedding chunks the walk looked into; 0 without a walk.
        timings: Seconds per stage, for all queries of the call together.
    """

    mode: SearchMode = "auto"
    embeddings_scored: int = 0
    nodes_visited: int = 0
    timings: Mapping[str, float] = field(default_factory=dict)


class Hits(list[Hit]):
    """Hits, best first: a list like any other, which also has the statistics of its search.

    Attributes:
        statistics: What the search did.
    """

    statistics: SearchStatistics = SearchStatistics()

    def replaced(self, hits: Iterable[Hit]) -> Hits:
        """Other hits of the same search."""
        found = Hits(hits)
        found.statistics = self.statistics
        return found


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class MemoryEmbedding(ToDict):
    """One embedding that a language model may read.

    Attributes:
        level: 0 for a token window, 1 for a chunk, 2 and more for a node.
        vectors: As stored [r, dim]; r is 1 for windows and chunks.
        score: Higher is better; compares within a level. Of a chunk the score of its hit, of a window its
            best cosine with the query added to that, of a node what the ranker of its level gives it.
        node_id: Of the node; for levels 0 and 1 the chunk's id.
        document_id: Empty for a node.
        start, end: Character offsets of the window or chunk in its document; 0, 0 for a node. Where the
            encoder cannot tell which characters a window covers, they are the chunk's.
        namespace: Where it was found.
        words: What a node is about, in words of its live chunks, best first; where they were asked for.
        faces: The most central of a node's live chunks; where they were asked for.
    """

    level: int
    vectors: NDArray[np.float32]
    score: float
    node_id: int
    document_id: str
    start: int
    end: int
    namespace: Namespace = ()
    words: tuple[str, ...] = ()
    faces: tuple[StoredChunk, ...] = ()

    def __repr__(self) -> str:
        where = f", {self.document_id!r}[{self.start}:{self.end}]" if self.document_id else ""
        kind = ("window of chunk", "chunk")[self.level] if self.level < 2 else "node"
        return f"<level {self.level}, {kind} {self.node_id}{where}, score {self.score:.3f}>"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Recall(ToDict):
    """What a memory recalls for a query, all from one snapshot.

    Attributes:
        query: The text; empty for a plain vector.
        hits: The k best chunks, best first, as a search returns them.
        levels: Embeddings of every level, best first: under 0 all windows of the hits, under 1 the hits'
            chunks, and from 2 up to the top level the best nodes.
        statistics: What the search for hits and nodes did.
    """

    query: str
    hits: tuple[Hit, ...]
    levels: Mapping[int, tuple[MemoryEmbedding, ...]]
    statistics: SearchStatistics = SearchStatistics()

    def __repr__(self) -> str:
        found = ", ".join(f"{len(self.levels[level])} of level {level}" for level in sorted(self.levels))
        return f"<Recall for {self.query!r}: {len(self.hits)} hits; embeddings: {found or 'none'}>"


@dataclass(frozen=True, slots=True)
class StoredDocument(ToDict):
    """A document as the memory holds it.

    Attributes:
        id, text, metadata, namespace, labels: As given.
        masks: Names of the masks on it; "" is the name of a mask without one, "expired" that of what has
            expired.
        chunks: How many it has.
        split: False where it was to be kept as one chunk.
        created_at: When it was first added, in UTC; kept when it is replaced. None where an earlier release
            wrote it.
        updated_at: When its text, metadata, labels or times last changed.
        expires_at, valid_from, valid_to: As given, in UTC.
        version: Number of the write that last changed it: it grows with every change. 0 where an earlier
            release wrote it. Like the two moments of writing it does not count in comparisons.
    """

    id: str
    text: str
    metadata: dict[str, Any]
    namespace: Namespace
    labels: tuple[str, ...]
    masks: tuple[str, ...]
    chunks: int
    split: bool
    created_at: datetime | None = field(default=None, compare=False)
    updated_at: datetime | None = field(default=None, compare=False)
    expires_at: datetime | None = None
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    version: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class StoredChunk(ToDict):
    """A chunk as the memory holds it.

    Attributes:
        chunk_id: Its id.
        document_id: Of which document.
        text: What it says.
        start, end: Character offsets, `document.text[start:end] == text`.
        namespace: Where it is.
    """

    chunk_id: int
    document_id: str
    text: str
    start: int
    end: int
    namespace: Namespace


@dataclass(frozen=True, slots=True)
class Topic(ToDict):
    """A part of a memory, as `overview` tells of it.

    Attributes:
        node_id, level: Of the node; the root, for a namespace of a few chunks.
        words: What it is about, in words of its live chunks, best first.
        chunks: How many chunks are below it: live ones, which the filter lets through.
        faces: The chunks nearest to the mean of these, nearest first.
        namespace: Where it is.
    """

    node_id: int
    level: int
    words: tuple[str, ...]
    chunks: int
    faces: tuple[StoredChunk, ...]
    namespace: Namespace
