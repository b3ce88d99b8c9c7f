"""A vector store of LlamaIndex in one namespace of a memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)
from pydantic import PrivateAttr

from llama_index_mllm.filters import all_of, memory_filter
from llama_index_mllm.nodes import NODE_ID, SOURCE_ID, chunk_node, document_of, node_of
from mllm_plugin import Hit, MemoryConfig, MemoryIndex, RemoveReport
from mllm_plugin.encoders import VectorsOnly
from mllm_plugin.errors import InvalidInputError

_log = logging.getLogger(__name__)

_MODES = (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.HYBRID)
_NO_COUNTERPART = ("alpha", "sparse_top_k", "mmr_threshold", "output_fields", "embedding_field")


class HierarchicalMemoryVectorStore(BasePydanticVectorStore):
    """Nodes of LlamaIndex in one namespace of a memory.

    A node is stored as one piece, never cut again, with the embedding that LlamaIndex computed, and comes
    back unchanged. A query uses its embedding, and its words as lexical evidence; similarities are the hits'
    relevance in [0, 1], higher is better. Documents that were added to the memory itself are found as well.
    Options of one call go to the memory: `index.as_retriever(vector_store_kwargs={"exact": True})`.

    Args:
        memory: Where the nodes are stored; the caller closes it.
        namespace: Namespace of this store; a string is a namespace of one part. Stores of other namespaces
            may share the memory and never see these nodes.
    """

    stores_text: bool = True
    is_embedding_query: bool = True
    namespace: str | tuple[str, ...] = ()

    _memory: MemoryIndex = PrivateAttr()

    def __init__(self, memory: MemoryIndex, *, namespace: str | tuple[str, ...] = ()) -> None:
        super().__init__(namespace=namespace)  # type: ignore[call-arg]
        self._memory = memory

    @classmethod
    def from_params(
        cls,
        path: str | Path,
        *,
        embed_model: BaseEmbedding | None = None,
        dim: int | None = None,
        namespace: str | tuple[str, ...] = (),
        config: MemoryConfig | None = None,
    ) -> HierarchicalMemoryVectorStore:
        """Opens a memory, or makes it, and a store in it; `store.client.close()` closes the memory.

        Args:
            path: The memory's folder.
            embed_model: The embedding model that the index uses too.
            dim: Width of the embeddings, where all of them are given by the framework.
            namespace: Namespace of the store.
            config: Settings of the memory.

        Raises:
            InvalidInputError: Both `embed_model` and `dim` are given.
        """
        if embed_model is not None and dim is not None:
            raise InvalidInputError("expected embed_model= or dim=, got both; the model knows its dimension")
        encoder = embed_model if dim is None else VectorsOnly(dim)
        return cls(MemoryIndex.open(path, encoder=encoder, config=config), namespace=namespace)

    @classmethod
    def class_name(cls) -> str:
        """The name LlamaIndex knows it by."""
        return "HierarchicalMemoryVectorStore"

    @property
    def client(self) -> MemoryIndex:
        """The memory."""
        return self._memory

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Adds nodes, or replaces those whose ids are there.

        Args:
            nodes: Nodes with embeddings; none is computed here.
            **kwargs: More arguments of `MemoryIndex.add`.

        Returns:
            The ids of the nodes, in order.

        Raises:
            InvalidInputError: A node has no embedding.
        """
        documents = [document_of(node) for node in nodes]
        embeddings = [_embedding(node) for node in nodes]
        if documents:
            self._memory.add(
                documents, embeddings=embeddings, split=False, namespace=self.namespace, **kwargs
            )
        return [document.id for document in documents]

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Finds the nodes nearest to a query, best first.

        Args:
            query: Mode DEFAULT or HYBRID, which are the same here: embedding and words both count. Without an
                embedding the memory's own encoder embeds the words. An empty `node_ids` means no restriction,
                since every index passes one; an empty `doc_ids` matches nothing. Both name nodes of a store,
                not documents that were added to the memory itself.
            **kwargs: More arguments of `MemoryIndex.search`: `exact`, `beam_width`, `exclude_labels`, …

        Raises:
            InvalidInputError: A mode or setting without counterpart, or neither words nor an embedding.
            FilterError: A filter without exact counterpart.
        """
        return _result(self._memory.search(**self._search(query), **kwargs))

    def get_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """Returns the nodes with these ids that match a filter; all nodes when neither is given."""
        if node_ids is not None and filters is None:
            return [node_of(document) for document in self._memory.get(node_ids, namespace=self.namespace)]
        documents = self._memory.documents(namespace=self.namespace, filter=memory_filter(filters))
        wanted = None if node_ids is None else set(node_ids)
        return [node_of(document) for document in documents if wanted is None or document.id in wanted]

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Erases every node of a source document.

        Args:
            ref_doc_id: Id of the source document.
            **delete_kwargs: More arguments of `MemoryIndex.remove`, such as `wait`.
        """
        for selection in _nodes_of(ref_doc_id):
            _report(self._memory.remove(**selection, namespace=self.namespace, **delete_kwargs))

    def delete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,
    ) -> None:
        """Erases the nodes with these ids that match a filter.

        Raises:
            InvalidInputError: Neither is given; `clear` erases all.
        """
        selection = _selection(node_ids, filters)
        _report(self._memory.remove(**selection, namespace=self.namespace, **delete_kwargs))

    def clear(self) -> None:
        """Erases everything in the store's namespace."""
        _report(self._memory.remove(filter={}, namespace=self.namespace))

    def persist(self, persist_path: str, fs: AbstractFileSystem | None = None) -> None:
        """Does nothing: a memory is on disk after every call. Reopen it with `from_params`."""

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Like `add`, without blocking the event loop."""
        return await asyncio.to_thread(self.add, nodes, **kwargs)

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Like `query`, without blocking the event loop."""
        return _result(await self._memory.asearch(**self._search(query), **kwargs))

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """Like `get_nodes`, without blocking the event loop."""
        return await asyncio.to_thread(self.get_nodes, node_ids, filters)

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Like `delete`, without blocking the event loop."""
        for selection in _nodes_of(ref_doc_id):
            _report(await self._memory.aremove(**selection, namespace=self.namespace, **delete_kwargs))

    async def adelete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,
    ) -> None:
        """Like `delete_nodes`, without blocking the event loop."""
        selection = _selection(node_ids, filters)
        _report(await self._memory.aremove(**selection, namespace=self.namespace, **delete_kwargs))

    async def aclear(self) -> None:
        """Like `clear`, without blocking the event loop."""
        _report(await self._memory.aremove(filter={}, namespace=self.namespace))

    def _search(self, query: VectorStoreQuery) -> dict[str, Any]:
        _check(query)
        text = query.query_str if query.query_str and query.query_str.strip() else None
        k = query.similarity_top_k
        if query.mode == VectorStoreQueryMode.HYBRID and query.hybrid_top_k is not None:
            k = query.hybrid_top_k
        return {
            "query": query.query_embedding if text is None else text,
            "embedding": None if text is None else query.query_embedding,
            "k": k,
            "namespace": self.namespace,
            "filter": all_of(
                memory_filter(query.filters),
                {NODE_ID: {"$in": query.node_ids}} if query.node_ids else None,
                {SOURCE_ID: {"$in": query.doc_ids}} if query.doc_ids is not None else None,
            ),
        }


def _check(query: VectorStoreQuery) -> None:
    if query.mode not in _MODES:
        mode = VectorStoreQueryMode(query.mode).value
        raise InvalidInputError(
            f"query mode {mode!r} has no counterpart in a memory; expected 'default' or 'hybrid'"
        )
    for name in _NO_COUNTERPART:
        if (value := getattr(query, name)) is not None:
            raise InvalidInputError(
                f"{name}={value!r} has no counterpart in a memory; leave it out. How much words and vectors "
                f"weigh is set in MemoryConfig.leaf"
            )
    if query.query_embedding is None and not (query.query_str or "").strip():
        raise InvalidInputError("the query is empty; expected query_embedding, query_str or both")


def _embedding(node: BaseNode) -> list[float]:
    if node.embedding is None:
        raise InvalidInputError(
            f"node {node.node_id!r} has no embedding; add nodes through VectorStoreIndex, end the "
            f"IngestionPipeline with an embedding model, or set node.embedding"
        )
    return node.embedding


def _result(hits: Sequence[Hit]) -> VectorStoreQueryResult:
    nodes = [chunk_node(hit) for hit in hits]
    return VectorStoreQueryResult(
        nodes=nodes, similarities=[hit.relevance for hit in hits], ids=[node.node_id for node in nodes]
    )


def _nodes_of(ref_doc_id: str) -> Iterator[dict[str, Any]]:
    """Selects nodes by their source, then a document that was added to the memory itself by its id."""
    yield {"filter": {SOURCE_ID: ref_doc_id}}
    yield {"ids": [ref_doc_id], "filter": {SOURCE_ID: {"$exists": False}}}


def _selection(node_ids: list[str] | None, filters: MetadataFilters | None) -> dict[str, Any]:
    condition = memory_filter(filters)
    if node_ids is None and not condition:
        raise InvalidInputError("expected node_ids, filters or both, got neither; clear() erases everything")
    return {"ids": node_ids, "filter": condition}


def _report(report: RemoveReport) -> None:
    """LlamaIndex has no room for a report, so what is not erased yet is logged."""
    if not report.erased:
        _log.warning("removed from every result, but not erased from every file yet: %s", report.reason)
