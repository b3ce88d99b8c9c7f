"""The memory as a LangChain retriever."""

from __future__ import annotations

from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict, Field
from typing_extensions import Self

from langchain_mllm.copies import opener
from langchain_mllm.documents import found_document
from langchain_mllm.searching import Scoped, asearch, search, unknown_option
from mllm_plugin import Hit, MemoryIndex
from mllm_plugin.errors import InvalidInputError
from mllm_plugin.memory.checks import SCOPE

_SEARCH = ("k", *SCOPE, "beam_width", "exact", "unique_documents")
_OPTIONS = (*_SEARCH, "include_path", "min_relevance")


class HierarchicalMemoryRetriever(Scoped, BaseRetriever):
    """Finds the chunks of a memory that answer a question.

    Every option but `memory` can be given for one call too: `retriever.invoke("question", k=3)`.

    A returned document carries the stored chunk as `page_content`, the id of the document it was cut from as
    `id` (what `memory.mask` and `memory.remove` take), and the stored metadata with the chunk's character
    offsets `start` and `end`, which tell chunks of one document apart. A stored key of the same name is kept
    as stored. A blank query finds what the filter lets through.

    Args:
        memory: The memory to search.
        k: Number of documents to return, at least 1.
        filter: Condition on the metadata, such as `{"year": {"$gte": 2020}}`.
        namespace: The namespace to search; a string is a namespace of one part.
        prefix: Search every namespace below `namespace` too, and tell them apart by `metadata["namespace"]`.
        beam_width: Nodes kept per level on the way down; the memory's own setting by default.
        exact: Score every live chunk instead of walking the tree.
        exclude_labels: Hide documents with one of these labels.
        unique_documents: Return the best chunk of each of `k` documents instead of the `k` best chunks.
        include_path: Add `score`, `relevance` (higher is better) and `path`, the route walked from the top
            level down, to the metadata. They depend on the query, so what compares documents by their
            metadata, as MultiQueryRetriever does, then finds a chunk as often as queries found it. A vector
            store that such a document is added to leaves them out.
        min_relevance: Leave out what is less relevant than this, in [0, 1]; fewer than `k` may be left.

    Raises:
        pydantic.ValidationError: An option is unknown or has a value out of range (a `ValueError`).
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    memory: MemoryIndex
    k: int = Field(default=5, ge=1)
    beam_width: int | None = Field(default=None, ge=1)
    exact: bool = False
    unique_documents: bool = False
    include_path: bool = False
    min_relevance: float = Field(default=0.0, ge=0.0, le=1.0)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """A retriever on the same open memory."""
        memo = {} if memo is None else memo
        memo[id(self.memory)] = self.memory
        return super().__deepcopy__(memo)

    def __getstate__(self) -> dict[Any, Any]:
        """What opens the memory in its place."""
        state = super().__getstate__()
        return {**state, "__dict__": {**state["__dict__"], "memory": opener(self.memory)}}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Opens the memory again."""
        fields = state["__dict__"]
        super().__setstate__({**state, "__dict__": {**fields, "memory": fields["memory"]()}})

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **options: Any
    ) -> list[Document]:
        call = self._for_call(options)
        return call._documents(search(self.memory, query, **call._search_options()))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **options: Any
    ) -> list[Document]:
        call = self._for_call(options)
        return call._documents(await asearch(self.memory, query, **call._search_options()))

    def _for_call(self, options: dict[str, Any]) -> Self:
        """Returns this retriever with the options of one call, validated as the constructor does."""
        if unknown := [name for name in options if name not in _OPTIONS]:
            raise InvalidInputError(unknown_option(unknown[0], _OPTIONS))
        return type(self).model_validate({**dict(self), **options}) if options else self

    def _search_options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _SEARCH}

    def _documents(self, hits: list[Hit]) -> list[Document]:
        return [
            found_document(hit, namespace=self.prefix, path=self.include_path)
            for hit in hits
            if hit.relevance >= self.min_relevance
        ]
