"""Searching and reading."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from mllm_plugin.memory.arguments import filter_of, ids_of, labels_of, mode_of, positive, reranker_of
from mllm_plugin.memory.choice import DEFAULT
from mllm_plugin.memory.parts import MemoryParts
from mllm_plugin.search.engine import Request
from mllm_plugin.search.query import Query, listed, make_queries
from mllm_plugin.search.rerank import hits_needed, reranked
from mllm_plugin.store.documents import check_selection, read_chunks, read_documents, select_documents
from mllm_plugin.store.namespaces import check_namespace, find_namespace, select_namespaces
from mllm_plugin.types import Hit, Mode, Namespace, StoredChunk, StoredDocument

_READ_BATCH = 64
_Stored = TypeVar("_Stored", StoredChunk, StoredDocument)


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
        reranker: Any = DEFAULT,
    ) -> list[Hit]:
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
            reranker: Scores the best chunks anew, see `open`; None for none, "default" for the memory's.

        Returns:
            Hits, best first; ties in order of document id and offset.

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
            reranker=reranker,
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
        reranker: Any = DEFAULT,
    ) -> list[list[Hit]]:
        """Several searches at once: encoded in one batch, walked together, same results as one by one."""
        self._database.check_open()
        how = (k, beam_width, exact, mode, filter, exclude_labels, unique_documents, reranker)
        request = self._request(*how)
        where = check_namespace(namespace)
        prepared = self._prepared("search_batch", queries, embeddings)
        if not prepared:
            return []
        with self._database.read() as tx:
            rows = select_namespaces(tx, where, prefix=prefix)
            found = self._searcher.search(
                tx, rows, prepared, replace(request, k=hits_needed(request.reranker, request.k))
            )
        if request.reranker is None:
            return found
        with self._searcher.stage("rerank"):
            return reranked(request.reranker, prepared, found, request.k)

    def _request(
        self,
        k: Any,
        beam_width: Any,
        exact: bool,
        mode: Any,
        condition: Any,
        exclude_labels: Any,
        unique_documents: bool = False,
        reranker: Any = DEFAULT,
    ) -> Request:
        width = self.config.search.beam_width if beam_width is None else beam_width
        return Request(
            k=positive("k", k),
            beam_width=positive("beam_width", width),
            mode="exact" if exact else mode_of(mode),
            condition=filter_of(condition),
            exclude_labels=labels_of(exclude_labels),
            unique_documents=unique_documents,
            reranker=reranker_of(self.reranker if reranker == DEFAULT else reranker),
        )

    def _prepared(self, call: str, queries: Any, embeddings: Any) -> list[Query]:
        """Queries as rankers take them."""
        queries = listed(call, queries)
        embeddings = None if embeddings is None else listed("embeddings", embeddings)
        self._searcher.profile.timings = {}
        with self._searcher.stage("encode"):
            return make_queries(queries, embeddings, self.encoder, self.config.chunking.chunk_tokens)

    # -- reading
    # -------------------------------------------------------------------------------------------------

    def get(self, ids: Iterable[str] | str, *, namespace: Namespace | str = ()) -> list[StoredDocument]:
        """Documents by id, in the order asked; unknown ids are left out."""
        names = ids_of(ids)
        check_selection(ids=names, condition=None, label=None)
        with self._database.read() as tx:
            row = find_namespace(tx, check_namespace(namespace))
            if row is None:
                return []
            chosen = select_documents(tx, row.namespace_id, ids=names, condition=None, label=None)
            return list(read_documents(tx, row.namespace_id, row.namespace, chosen.rowids))

    def documents(
        self,
        *,
        namespace: Namespace | str = (),
        prefix: bool = False,
        filter: Mapping[str, Any] | None = None,
    ) -> Iterator[StoredDocument]:
        """All documents of a namespace, or of every one below it, in the order they were added."""
        return self._in_batches(read_documents, namespace, prefix, filter)

    def chunks(
        self,
        *,
        namespace: Namespace | str = (),
        prefix: bool = False,
        filter: Mapping[str, Any] | None = None,
    ) -> Iterator[StoredChunk]:
        """All live chunks of a namespace, or of every one below it, document by document."""
        return self._in_batches(read_chunks, namespace, prefix, filter)

    def _in_batches(
        self,
        read: Callable[..., Iterator[_Stored]],
        namespace: Namespace | str,
        prefix: bool,
        condition: Mapping[str, Any] | None,
    ) -> Iterator[_Stored]:
        """Reads what there is now, some documents in a transaction."""
        condition = filter_of(condition) or {}
        with self._database.read() as tx:
            rows = select_namespaces(tx, check_namespace(namespace), prefix=prefix)
            chosen = [
                (
                    row,
                    select_documents(tx, row.namespace_id, ids=None, condition=condition, label=None).rowids,
                )
                for row in rows
            ]
        for row, rowids in chosen:
            for start in range(0, len(rowids), _READ_BATCH):
                with self._database.read() as tx:
                    part = rowids[start : start + _READ_BATCH]
                    found = list(read(tx, row.namespace_id, row.namespace, part))
                yield from found

    def namespaces(self, prefix: Namespace | str = ()) -> list[Namespace]:
        """All namespaces that begin with `prefix`."""
        with self._database.read() as tx:
            return [row.namespace for row in select_namespaces(tx, check_namespace(prefix), prefix=True)]

    @property
    def timings(self) -> dict[str, float]:
        """Seconds per stage of the last search in this thread."""
        return dict(getattr(self._searcher.profile, "timings", {}))

    @property
    def embeddings_scored(self) -> list[int]:
        """Embeddings compared with each query of the last search in this thread."""
        return list(getattr(self._searcher.profile, "scored", []))


def _matching(tx: Any, namespace_id: int, condition: Mapping[str, Any]) -> list[int]:
    """Row ids of the documents that a filter lets through."""
    return select_documents(tx, namespace_id, ids=None, condition=condition, label=None).rowids
