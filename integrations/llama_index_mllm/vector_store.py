"""A vector store of LlamaIndex in one namespace of a memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fsspec import AbstractFileSystem
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryResult,
)
from numpy.typing import NDArray
from pydantic import PrivateAttr
from typing_extensions import Self

from llama_index_mllm.copies import restore, sharing, state_of
from llama_index_mllm.filters import memory_filter
from llama_index_mllm.nodes import SOURCE_ID, document_of, node_of
from llama_index_mllm.queries import MMR_OPTIONS, OPTIONS, Search
from llama_index_mllm.restrictions import restriction
from mllm_plugin import MemoryConfig, MemoryIndex, RemoveReport
from mllm_plugin.encoders import VectorsOnly
from mllm_plugin.errors import DimensionMismatchError, InvalidInputError, InvalidTypeError

_log = logging.getLogger(__name__)

_OPTIONS = (*OPTIONS, *MMR_OPTIONS, "filter")


class HierarchicalMemoryVectorStore(BasePydanticVectorStore):
    """Nodes of LlamaIndex in one namespace of a memory.

    A node is stored as one piece, never cut again, with the embedding that LlamaIndex computed, and comes
    back unchanged. A query uses its embedding, and its words as lexical evidence; similarities are the hits'
    relevance in [0, 1], higher is better. Documents that were added to the memory itself are found as well.
    Options of one call go to the memory: `index.as_retriever(vector_store_kwargs={"exact": True})`. A copy
    shares the memory; a pickle holds its path and its encoder, and opens it again.

    Args:
        memory: Where the nodes are stored; the caller closes it.
        namespace: Namespace of this store; a string is a namespace of one part. Stores of other namespaces
            may share the memory and never see these nodes.

    Attributes:
        stores_text: True, the memory holds the nodes whole.
        is_embedding_query: True, LlamaIndex embeds queries.
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
        **options: Any,
    ) -> HierarchicalMemoryVectorStore:
        """Opens a memory, or makes it, and a store in it; `store.client.close()` closes the memory.

        Args:
            path: The memory's folder.
            embed_model: The embedding model that the index uses too.
            dim: Width of the embeddings, where all of them are given by the framework.
            namespace: Namespace of the store.
            config: Settings of the memory.
            **options: More arguments of `MemoryIndex.open`, such as `device`.

        Raises:
            InvalidInputError: Both `embed_model` and `dim` are given.
        """
        if embed_model is not None and dim is not None:
            raise InvalidInputError("expected embed_model= or dim=, got both; the model knows its dimension")
        encoder = embed_model if dim is None else VectorsOnly(dim)
        memory = MemoryIndex.open(path, encoder=encoder, config=config, **options)
        return cls(memory, namespace=namespace)

    @classmethod
    def class_name(cls) -> str:
        """The name LlamaIndex knows it by."""
        return "HierarchicalMemoryVectorStore"

    @property
    def client(self) -> MemoryIndex:
        """The memory."""
        return self._memory

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return super().__deepcopy__(sharing(memo, self._memory))

    def __getstate__(self) -> dict[str, Any]:
        return state_of(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        restore(self, state)

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Adds nodes, or replaces those whose ids are there.

        Args:
            nodes: Nodes with embeddings; none is computed here.
            **kwargs: More arguments of `MemoryIndex.add`.

        Returns:
            The ids of the nodes, in order.

        Raises:
            InvalidInputError: A node has no embedding, or one of another width; nothing was added.
            InvalidDocumentError: A node's metadata cannot be kept; the error names node and key.
        """
        documents = [document_of(node) for node in nodes]
        embeddings = [_embedding(node, self._memory.dim) for node in nodes]
        if documents:
            self._memory.add(
                documents, embeddings=embeddings, split=False, namespace=self.namespace, **kwargs
            )
        return [document.id for document in documents]

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Finds the nodes nearest to a query, best first.

        Args:
            query: In mode DEFAULT embedding and words both count, weighed as the memory weighs them; without
                an embedding the memory's own encoder embeds the words, and without words either the result is
                what matches the filters, up to k, with no similarities. HYBRID is the same, unless `alpha` or
                `sparse_top_k` are given: then a ranking by embedding alone (alpha 1) and one by words alone
                (alpha 0) are blended. SPARSE and TEXT_SEARCH rank by words alone. MMR takes nodes unlike
                those before. An empty `node_ids`, and those that an index lists itself, mean no restriction;
                an empty `doc_ids` matches nothing. Both name nodes of a store, not documents that were added
                to the memory itself.
            **kwargs: More arguments of `MemoryIndex.search`: `exact`, `beam_width`, `exclude_labels`, …;
                `filter`, one more condition, of the memory or `MetadataFilters`; for MMR `mmr_threshold` (1:
                only likeness to the query counts, 0: only unlikeness to those before; 0.5 when left out) and
                `mmr_prefetch_k` or `mmr_prefetch_factor`, out of how many (4 times k when left out).

        Raises:
            InvalidInputError: A mode or setting without counterpart, or out of range.
            InvalidTypeError: An option is unknown.
            FilterError: A filter without exact counterpart.
        """
        return self._search(query, kwargs).result()

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
        return await asyncio.to_thread(self._search(query, kwargs).result)

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

    def _search(self, query: VectorStoreQuery, given: Mapping[str, Any]) -> Search:
        for name in given:
            if name not in _OPTIONS:
                raise InvalidTypeError(
                    f"unknown option {name!r} of a query; expected one of {', '.join(_OPTIONS)}. What the "
                    f"query and the store have fields for is set there"
                )
        options = {**given, "namespace": self.namespace, "filter": restriction(query, given)}
        return Search(self._memory, query, options)


def _embedding(node: BaseNode, dim: int) -> NDArray[np.float64]:
    if node.embedding is None:
        raise InvalidInputError(
            f"node {node.node_id!r} has no embedding; add nodes through VectorStoreIndex, end the "
            f"IngestionPipeline with an embedding model, or set node.embedding"
        )
    embedding = np.asarray(node.embedding, dtype=np.float64)
    if embedding.shape != (dim,):
        raise DimensionMismatchError(
            f"node {node.node_id!r}: expected an embedding of {dim} numbers, got {embedding.size}; the "
            f"memory was made for another embedding model"
        )
    if not np.isfinite(embedding).all():
        raise InvalidInputError(f"node {node.node_id!r}: its embedding holds NaN or infinity; embed it again")
    return embedding


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
