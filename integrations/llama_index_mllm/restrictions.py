"""Which nodes a query may find: its filters and ids, and what one call adds to them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.indices.base import BaseIndex
from llama_index.core.vector_stores.types import VectorStoreQuery

from llama_index_mllm.filters import Filter, all_of, memory_filter
from llama_index_mllm.nodes import NODE_ID, SOURCE_ID


def restriction(query: VectorStoreQuery, options: Mapping[str, Any]) -> Filter | None:
    """The filter of the memory that a query comes to.

    Args:
        query: Its `filters`, `doc_ids` and `node_ids`; not those `node_ids` that an index lists.
        options: Its `filter`, one of the memory or `MetadataFilters`.
    """
    node_ids = None if _listed_by_an_index(query.node_ids) else query.node_ids
    return all_of(
        memory_filter(query.filters),
        memory_filter(options.get("filter")),
        {NODE_ID: {"$in": node_ids}} if node_ids else None,
        {SOURCE_ID: {"$in": query.doc_ids}} if query.doc_ids is not None else None,
    )


def _listed_by_an_index(node_ids: list[str] | None) -> bool:
    """Whether an index passes ids because it lists them itself, and not because somebody asks for these.

    `VectorStoreIndex.as_retriever` passes the ids of its images and index nodes, the text being here, or of
    all that it wrote itself; taken as a restriction they would hide every other node. A query does not say
    whose ids it has, so the retriever that made it is looked for among the callers.
    """
    frame = sys._getframe(1) if node_ids else None
    while frame is not None and not _asks_with(frame.f_locals.get("self"), node_ids):
        frame = frame.f_back
    if frame is None:
        return False
    index = getattr(frame.f_locals["self"], "_index", None)
    listed = index.index_struct.nodes_dict.values() if isinstance(index, BaseIndex) else ()
    return set(node_ids or ()) <= set(listed)


def _asks_with(caller: Any, node_ids: list[str] | None) -> bool:
    return issubclass(type(caller), BaseRetriever) and getattr(caller, "_node_ids", None) is node_ids
