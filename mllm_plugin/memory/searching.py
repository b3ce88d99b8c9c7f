"""Searching, recalling and reading; each call sees one consistent snapshot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from mllm_plugin.encoders.text import window_spans
from mllm_plugin.memory.checks import mode_of, positive
from mllm_plugin.memory.handle import Handle
from mllm_plugin.memory.scope import Scope
from mllm_plugin.search.engine import Request
from mllm_plugin.search.query import Query, make_queries
from mllm_plugin.search.recall import recall
from mllm_plugin.store.documents import Which, read_documents, select_documents
from mllm_plugin.store.namespaces import find_namespace, select_namespaces
from mllm_plugin.types import Hit, Mode, Namespace, Recall, StoredDocument
from mllm_plugin.vectors import listed

_READ_BATCH = 64


def request_of(
    memory: Handle,
    scope: Scope,
    k: int,
    beam_width: int | None,
    exact: bool,
    mode: Mode,
    unique_documents: bool,
) -> Request:
    """How to search, checked."""
    memory.database.check_open()
    width = memory.config.search.beam_width if beam_width is None else beam_width
    return Request(
        k=positive("k", k),
        beam_width=positive("beam_width", width),
        mode=mode_of(mode, exact),
        condition=scope.filter,
        exclude_labels=scope.exclude_labels,
        unique_documents=unique_documents,
    )


def search(
    memory: Handle, scope: Scope, request: Request, queries: Sequence[Any], embeddings: Any
) -> list[list[Hit]]:
    """The hits of each query."""
    prepared = _prepared(memory, "search_batch", queries, embeddings)
    if not prepared:
        return []
    with memory.database.read() as tx:
        rows = select_namespaces(tx, scope.namespace, prefix=scope.prefix)
        return memory.searcher.search(tx, rows, prepared, request)


def recall_all(
    memory: Handle,
    scope: Scope,
    request: Request,
    nodes: int,
    queries: Sequence[Any],
    embeddings: Any,
) -> list[Recall]:
    """What each query recalls."""
    prepared = _prepared(memory, "recall_batch", queries, embeddings)
    if not prepared:
        return []
    spans = partial(window_spans, memory.encoder)
    with memory.database.read() as tx:
        rows = select_namespaces(tx, scope.namespace, prefix=scope.prefix)
        return recall(memory.searcher, tx, rows, prepared, request, nodes=nodes, spans=spans)


def _prepared(memory: Handle, call: str, queries: Any, embeddings: Any) -> list[Query]:
    """Queries as rankers take them."""
    queries = listed(call, queries)
    embeddings = None if embeddings is None else listed("embeddings", embeddings)
    memory.searcher.profile.timings = {}
    with memory.searcher.stage("encode"):
        return make_queries(queries, embeddings, memory.encoder, memory.config.chunking.chunk_tokens)


def get(memory: Handle, namespace: Namespace, which: Which) -> list[StoredDocument]:
    """The documents that a call means; those that are not there are left out."""
    with memory.database.read() as tx:
        row = find_namespace(tx, namespace)
        if row is None:
            return []
        chosen = select_documents(tx, row.namespace_id, **which._asdict())
        return list(read_documents(tx, row.namespace_id, row.namespace, chosen.rowids))


def documents(memory: Handle, scope: Scope) -> Iterator[StoredDocument]:
    """All documents of a scope, in the order they were added."""
    condition = scope.filter or {}
    with memory.database.read() as tx:
        rows = select_namespaces(tx, scope.namespace, prefix=scope.prefix)
        chosen = [
            (row, select_documents(tx, row.namespace_id, ids=None, condition=condition, label=None).rowids)
            for row in rows
        ]
    for row, rowids in chosen:
        for start in range(0, len(rowids), _READ_BATCH):
            with memory.database.read() as tx:
                part = rowids[start : start + _READ_BATCH]
                found = list(read_documents(tx, row.namespace_id, row.namespace, part))
            yield from found


def namespaces(memory: Handle, prefix: Namespace) -> list[Namespace]:
    """All namespaces that begin with `prefix`."""
    with memory.database.read() as tx:
        return [row.namespace for row in select_namespaces(tx, prefix, prefix=True)]
