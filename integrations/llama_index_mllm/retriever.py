"""A retriever over a memory."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks.base import CallbackManager
from llama_index.core.schema import IndexNode, NodeWithScore, QueryBundle
from llama_index.core.vector_stores import MetadataFilters
from typing_extensions import Self

from llama_index_mllm.copies import sharing
from llama_index_mllm.filters import Filter, memory_filter
from llama_index_mllm.nodes import scored_node
from llama_index_mllm.queries import matches
from mllm_plugin import MemoryIndex
from mllm_plugin.memory.checks import SCOPE

_SEARCH = ("k", *SCOPE, "beam_width", "exact", "unique_documents")


class HierarchicalMemoryRetriever(BaseRetriever):
    """Finds the chunks of a memory that matter for a question.

    A node carries the stored chunk unchanged, its document as source, its character span and the stored
    metadata. Its score is the hit's relevance in [0, 1], higher is better. A node that was kept by
    `HierarchicalMemoryVectorStore` comes back as it was. A blank question finds what matches the filter, up
    to `k` and without scores. Options are attributes: set them between calls. A copy shares the memory; a
    pickle holds its path and its encoder, and opens it again.

    Args:
        memory: An open memory.
        k: Number of nodes.
        filter: A filter of the memory, or `MetadataFilters`.
        namespace: Where to search; a string is a namespace of one part.
        prefix: Search every namespace below `namespace` too.
        beam_width: Nodes kept per level; the memory's own setting when left out.
        exact: Score every live chunk.
        exclude_labels: Labels whose documents are hidden from this search.
        unique_documents: Return the best chunk of each of `k` documents instead of the `k` best chunks.
        include_path: Add `score`, `relevance` and `path`, the route from the top level down, to the metadata,
            unseen by LLM and embedding model; a stored key of the same name is kept as stored. They depend on
            the query, and so does then the node's hash, by which fusion retrievers tell nodes apart.
        callback_manager, object_map, objects, verbose: As in every retriever of LlamaIndex.
    """

    def __init__(
        self,
        memory: MemoryIndex,
        *,
        k: int = 5,
        filter: Filter | MetadataFilters | None = None,
        namespace: str | tuple[str, ...] = (),
        prefix: bool = False,
        beam_width: int | None = None,
        exact: bool = False,
        exclude_labels: Sequence[str] = (),
        unique_documents: bool = False,
        include_path: bool = False,
        callback_manager: CallbackManager | None = None,
        object_map: dict[str, Any] | None = None,
        objects: list[IndexNode] | None = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(callback_manager, object_map, objects, verbose)
        self.memory = memory
        self.k = k
        self.filter = filter
        self.namespace = namespace
        self.prefix = prefix
        self.beam_width = beam_width
        self.exact = exact
        self.exclude_labels = exclude_labels
        self.unique_documents = unique_documents
        self.include_path = include_path

    def __copy__(self) -> Self:
        return self._with(vars(self))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self._with(copy.deepcopy(vars(self), sharing(memo, self.memory, self.callback_manager)))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "callback_manager": None}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state, callback_manager=CallbackManager())

    def _with(self, fields: Mapping[str, Any]) -> Self:
        clone = type(self).__new__(type(self))
        vars(clone).update(fields)
        return clone

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        text, embedding = query_bundle.query_str, self._embedding(query_bundle)
        if text.strip():
            hits = self.memory.search(text, embedding=embedding, **self._settings())
        elif embedding is not None:
            hits = self.memory.search(embedding, **self._settings())
        else:
            hits = matches(self.memory, **self._settings())
        asked = bool(text.strip()) or embedding is not None
        return [scored_node(hit, include_path=self.include_path, asked=asked) for hit in hits]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)

    def _embedding(self, bundle: QueryBundle) -> Any:
        """The one given, else of the texts which a transform such as HyDE put in place of the question."""
        texts = [text for text in bundle.custom_embedding_strs or () if text.strip()]
        if bundle.embedding is not None or not texts:
            return bundle.embedding
        return self.memory.encoder.encode_queries(texts)

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _SEARCH} | {"filter": memory_filter(self.filter)}
