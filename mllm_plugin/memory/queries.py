"""Searching and reading."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from mllm_plugin.memory.arguments import filter_of, ids_of, labels_of, mode_of, positive
from mllm_plugin.memory.parts import MemoryParts
from mllm_plugin.search.engine import Clock, Request
from mllm_plugin.search.query import Query, listed, make_queries
from mllm_plugin.store.documents import check_selection
from mllm_plugin.store.namespaces import check_namespace
from mllm_plugin.store.snapshot import Snapshot
from mllm_plugin.types import Hits, Mode, Namespace, StoredDocument

_READ_AHEAD = 1 << 24  # characters of documents that are read before the first is handed out


class Queries(MemoryParts):
    """Calls that only read; each sees one consistent snapshot."""

    def search(
        self,
        query: Any,
        *,
        k: int = 5,
        embedding: Any = None,
        beam_width: int | None = None,
        exact: bool = False,
        mode: Mode = "auto",
        namespace: Namespace | str = (),
        prefix: bool = False,
        filter: Mapping[str, Any] | None = None,
        exclude_labels: Sequence[str] = (),
        unique_documents: bool = False,
    ) -> Hits:
        """Finds the chunks that best answer a query.

        Args:
            query: Text, or a vector [dim] (or several [m, dim]).
            k: Results wanted; fewer come only when fewer live chunks match.
            embedding: Vector to use for a text query instead of encoding it.
            beam_width: Lowest nodes kept on the walk; wider is slower and nearer to exact.
            exact: Score every live chunk.
            mode: "beam" walks the tree, "flat" compares every chunk's embedding and words, "exact" every
                chunk's windows too; "auto" is flat in a small namespace and beam in a large one.
            namespace: Where to look.
            prefix: Look in every namespace below `namespace` too.
            filter: Metadata condition, e.g. `{"year": {"$gte": 2020}}`.
            exclude_labels: Documents with one of these labels are left out.
            unique_documents: At most one hit per document, its best chunk.

        Returns:
            Hits, best first; ties in order of document id and offset. A list, which also has the
            `statistics` of the search.

        Raises:
            InvalidInputError: k or beam_width below 1, empty query, unknown mode.
            DimensionMismatchError: A vector has another width than the memory.
            FilterError: The filter is malformed.
        """
        return self.search_batch(
            [query],
            k=k,
            embeddings=None if embedding is None else [embedding],
            beam_width=beam_width,
            exact=exact,
            mode=mode,
            namespace=namespace,
            prefix=prefix,
            filter=filter,
            exclude_labels=exclude_labels,
            unique_documents=unique_documents,
        )[0]

    def search_batch(
        self,
        queries: Sequence[Any],
        *,
        k: int = 5,
        embeddings: Sequence[Any] | None = None,
        beam_width: int | None = None,
        exact: bool = False,
        mode: Mode = "auto",
        namespace: Namespace | str = (),
        prefix: bool = False,
        filter: Mapping[str, Any] | None = None,
        exclude_labels: Sequence[str] = (),
        unique_documents: bool = False,
    ) -> list[Hits]:
        """Several searches at once: encoded in one batch, walked together, same results as one by one."""
        self._database.check_open()
        request = self._request(k, beam_width, exact, mode, filter, exclude_labels, unique_documents)
        where = check_namespace(namespace)
        clock = Clock()
        prepared = self._prepared("search_batch", queries, embeddings, clock)
        if not prepared:
            return []
        with self._database.snapshot() as snapshot:
            rows = snapshot.namespaces(where, prefix=prefix)
            views = self._searcher.views(snapshot, rows, request, clock)
            return self._searcher.search(views, prepared, request, clock)

    def _request(
        self,
        k: Any,
        beam_width: Any,
        exact: bool,
        mode: Any,
        condition: Any,
        exclude_labels: Any,
        unique_documents: bool = False,
    ) -> Request:
        width = self.config.search.beam_width if beam_width is None else beam_width
        return Request(
            k=positive("k", k),
            beam_width=positive("beam_width", width),
            mode="exact" if exact else mode_of(mode),
            condition=filter_of(condition),
            exclude_labels=labels_of(exclude_labels),
            unique_documents=unique_documents,
        )

    def _prepared(self, call: str, queries: Any, embeddings: Any, clock: Clock) -> list[Query]:
        """Queries as rankers take them."""
        queries = listed(call, queries)
        embeddings = None if embeddings is None else listed("embeddings", embeddings)
        with clock.stage("encode"):
            return make_queries(queries, embeddings, self.encoder, self.config.chunking.chunk_tokens)

    # -- reading
    # -------------------------------------------------------------------------------------------------

    def get(self, ids: Iterable[str] | str, *, namespace: Namespace | str = ()) -> list[StoredDocument]:
        """Documents by id, in the order asked; unknown ids are left out."""
        names = ids_of(ids)
        check_selection(ids=names, condition=None, label=None)
        with self._database.snapshot() as snapshot:
            row = snapshot.namespace(check_namespace(namespace))
            if row is None:
                return []
            return list(snapshot.documents(row, snapshot.select(row, ids=names).rowids))

    def documents(
        self,
        *,
        namespace: Namespace | str = (),
        prefix: bool = False,
        filter: Mapping[str, Any] | None = None,
    ) -> Iterator[StoredDocument]:
        """All documents of a namespace, or of every one below it, in the order they were added.

        All of one moment: what is written while they are read changes none of them. Some megabytes of text
        are read at once. What goes beyond holds its moment until the iterator is exhausted or closed:
        `remove` waits for it and then reports `erased=False`, and the log grows with what is written. To edit
        while you read, read first: `list(memory.documents())`.
        """
        condition = filter_of(filter) or {}
        where = check_namespace(namespace)
        with self._database.snapshot() as snapshot:
            listing = (
                document
                for row in snapshot.namespaces(where, prefix=prefix)
                for document in snapshot.documents(row, snapshot.select(row, condition=condition).rowids)
            )
            first, characters = [], 0
            for document in listing:
                first.append(document)
                characters += len(document.text)
                if characters > _READ_AHEAD:
                    yield from first
                    yield from listing
                    return
        yield from first

    def namespaces(self, prefix: Namespace | str = ()) -> list[Namespace]:
        """All namespaces that begin with `prefix`."""
        with self._database.snapshot() as snapshot:
            return [row.namespace for row in snapshot.namespaces(check_namespace(prefix))]

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """One moment of everything that is stored, for whoever reads more than the other calls give.

        Use it as `with memory.snapshot() as snapshot:`; it ends with the block. While it is open, removals
        are not reported erased, as with `documents`.
        """
        self._database.check_open()
        return self._database.snapshot()
