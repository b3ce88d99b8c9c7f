"""Searching, recalling and reading; each call sees one consistent snapshot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any, TypeVar

from mllm_plugin.encoders.base import listed, window_spans
from mllm_plugin.errors import MLLMError
from mllm_plugin.memory.checks import Scope, at_least, mode_of, positive, reranker_of, when_of
from mllm_plugin.memory.handle import Handle
from mllm_plugin.memory.opening import DEFAULT
from mllm_plugin.search.engine import Clock, Request
from mllm_plugin.search.overview import overview
from mllm_plugin.search.query import Query, make_queries, recency_of
from mllm_plugin.search.recall import recall
from mllm_plugin.search.rerank import hits_needed, reranked
from mllm_plugin.store.documents import Which
from mllm_plugin.store.listing import Listing
from mllm_plugin.store.namespaces import NamespaceRow
from mllm_plugin.store.snapshot import Snapshot
from mllm_plugin.types import Hits, Namespace, Recall, SearchMode, StoredChunk, StoredDocument, Topic

_EXPIRED_AT_ONCE = 256  # a reader does no more for others; it leaves out what is left
_READ_AHEAD = 1 << 24  # characters of documents that are read before the first is handed out
_Stored = TypeVar("_Stored", StoredChunk, StoredDocument)


@contextmanager
def moment_of(memory: Handle) -> Iterator[Snapshot]:
    """A snapshot for reading, after what has expired was masked, if that can be written now."""
    with ExitStack() as stack:
        snapshot = stack.enter_context(memory.database.snapshot())
        if snapshot.overdue is not None and not memory.database.read_only:
            stack.close()
            with suppress(MLLMError), memory.edit(wait=0.0) as edit:
                edit.expire(_EXPIRED_AT_ONCE)
            snapshot = stack.enter_context(memory.database.snapshot())
        yield snapshot


def request_of(
    memory: Handle,
    scope: Scope,
    k: int,
    beam_width: int | None,
    exact: bool,
    mode: SearchMode,
    unique_documents: bool,
    reranker: Any = DEFAULT,
    *,
    as_of: Any = None,
    since: Any = None,
    recency: Any = None,
    include_masked: Any = (),
    neighbours: Any = 0,
) -> Request:
    """How to search, checked."""
    memory.database.check_open()
    width = memory.config.search.beam_width if beam_width is None else beam_width
    when = when_of(as_of, since, include_masked)
    return Request(
        k=positive("k", k),
        beam_width=positive("beam_width", width),
        mode=mode_of(mode, exact, through_masks=bool(when.include_masked)),
        when=when,
        recency=recency_of(recency),
        neighbours=at_least("neighbours", neighbours, 0),
        condition=scope.filter,
        exclude_labels=scope.exclude_labels,
        unique_documents=unique_documents,
        reranker=reranker_of(memory.reranker if reranker == DEFAULT else reranker),
    )


def search(
    memory: Handle, scope: Scope, request: Request, queries: Sequence[Any], embeddings: Any
) -> list[Hits]:
    """The hits of each query."""
    clock = Clock()
    prepared = _prepared(memory, "search_batch", queries, embeddings, clock)
    if not prepared:
        return []
    with moment_of(memory) as snapshot:
        rows = snapshot.namespaces(scope.namespace, prefix=scope.prefix)
        views = memory.searcher.views(snapshot, rows, request, clock)
        if request.reranker is None:
            return memory.searcher.search(views, prepared, request, clock)
        wider = replace(request, k=hits_needed(request.reranker, request.k))
        found = memory.searcher.search(views, prepared, wider, clock)
    with clock.stage("rerank"):
        return reranked(request.reranker, prepared, found, request.k)


def recall_all(
    memory: Handle,
    scope: Scope,
    request: Request,
    nodes: int,
    words: int,
    faces: int,
    queries: Sequence[Any],
    embeddings: Any,
) -> list[Recall]:
    """What each query recalls."""
    clock = Clock()
    prepared = _prepared(memory, "recall_batch", queries, embeddings, clock)
    if not prepared:
        return []
    spans = partial(window_spans, memory.encoder)
    with moment_of(memory) as snapshot:
        rows = snapshot.namespaces(scope.namespace, prefix=scope.prefix)
        views = memory.searcher.views(snapshot, rows, request, clock)
        how = {"nodes": nodes, "words": words, "faces": faces, "spans": spans}
        return recall(memory.searcher, views, prepared, request, clock, **how)


def topics(
    memory: Handle, scope: Scope, request: Request, topic: Any, nodes: int, words: int, faces: int
) -> list[Topic]:
    """What the memory is about, or the parts of it that are nearest to a topic."""
    clock = Clock()
    query = None if topic is None else _prepared(memory, "overview", [topic], None, clock)[0]
    with memory.database.snapshot() as snapshot:
        rows = snapshot.namespaces(scope.namespace, prefix=scope.prefix)
        views = memory.searcher.views(snapshot, rows, request, clock)
        return overview(memory.searcher, views, query, request, nodes=nodes, words=words, faces=faces)


def _prepared(memory: Handle, call: str, queries: Any, embeddings: Any, clock: Clock) -> list[Query]:
    """Queries as rankers take them."""
    queries = listed(call, queries)
    embeddings = None if embeddings is None else listed("embeddings", embeddings)
    with clock.stage("encode"):
        return make_queries(queries, embeddings, memory.encoder, memory.config.chunking.chunk_tokens)


def get(memory: Handle, namespace: Namespace, which: Which) -> list[StoredDocument]:
    """The documents that a call means; those that are not there are left out."""
    with moment_of(memory) as snapshot:
        row = snapshot.namespace(namespace)
        if row is None:
            return []
        return list(snapshot.documents(row, snapshot.select(row, **which._asdict()).rowids))


def documents(memory: Handle, scope: Scope, listing: Listing) -> Iterator[StoredDocument]:
    """All documents of a scope, of one moment."""
    return _listed(memory, scope, listing, Snapshot.documents)


def chunks(memory: Handle, scope: Scope) -> Iterator[StoredChunk]:
    """All live chunks of a scope, of one moment, document by document."""
    return _listed(memory, scope, Listing(scope.filter, masked=False), Snapshot.chunks)


def count(memory: Handle, scope: Scope, listing: Listing) -> int:
    """How many documents a scope has."""
    with moment_of(memory) as snapshot:
        rows = snapshot.namespaces(scope.namespace, prefix=scope.prefix)
        return snapshot.count(rows, listing)


def _listed(
    memory: Handle,
    scope: Scope,
    wanted: Listing,
    read: Callable[[Snapshot, NamespaceRow, Sequence[int]], Iterator[_Stored]],
) -> Iterator[_Stored]:
    with moment_of(memory) as snapshot:
        rows = snapshot.namespaces(scope.namespace, prefix=scope.prefix)
        runs = groupby(snapshot.listed(rows, wanted), itemgetter(0))
        listing = (found for row, run in runs for found in read(snapshot, row, [rowid for _, rowid in run]))
        first, characters = [], 0
        for found in listing:
            first.append(found)
            characters += len(found.text)
            if characters > _READ_AHEAD:
                yield from first
                yield from listing
                return
    yield from first


def namespaces(memory: Handle, prefix: Namespace) -> list[Namespace]:
    """All namespaces that begin with `prefix`."""
    with moment_of(memory) as snapshot:
        return [row.namespace for row in snapshot.namespaces(prefix)]
