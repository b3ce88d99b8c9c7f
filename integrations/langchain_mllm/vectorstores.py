"""The memory as a LangChain vector store."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore
from langchain_core.vectorstores.utils import maximal_marginal_relevance
from typing_extensions import Self

import mllm_plugin
from langchain_mllm.embeddings import MemoryEmbeddings
from mllm_plugin import Hit, MemoryConfig, MemoryIndex, StoredDocument
from mllm_plugin.errors import InvalidInputError
from mllm_plugin.types import Namespace


class HierarchicalMemoryVectorStore(VectorStore):
    """Documents of one namespace of a memory.

    Each document handed over is stored as one piece, never cut again, and comes back unchanged. Searches take
    the options of `MemoryIndex.search`: `filter`, `beam_width`, `exact`, `prefix`, `exclude_labels` and more.
    Scores are higher for better documents.

    Args:
        memory: Where the documents are stored; the caller closes it.
        namespace: Namespace of this store; a string is a namespace of one part. Stores of other namespaces
            may share the memory and never see these documents.
    """

    def __init__(self, memory: MemoryIndex, *, namespace: Namespace | str = ()) -> None:
        self.memory = memory
        self.namespace = namespace

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        path: str | Path,
        namespace: Namespace | str = (),
        config: MemoryConfig | None = None,
        **kwargs: Any,
    ) -> Self:
        """Opens the memory in the folder `path`, creates it if need be, and adds texts.

        Args:
            texts: One document each.
            embedding: The memory's Encoder 1.
            metadatas: JSON values by name, for each text.
            ids: An id for each text; made up where left out.
            path: Folder of the memory. `store.memory.close()` closes it.
            namespace: Namespace of the store.
            config: Settings of a new memory.
            **kwargs: More arguments of `MemoryIndex.open`.
        """
        memory = MemoryIndex.open(path, encoder=embedding, config=config, **kwargs)
        store = cls(memory, namespace=namespace)
        try:
            store.add_texts(texts, metadatas, ids=ids)
        except BaseException:
            memory.close()
            raise
        return store

    @property
    def embeddings(self) -> Embeddings:
        """The memory's Encoder 1."""
        return MemoryEmbeddings(self.memory.encoder)

    def add_documents(
        self,
        documents: list[Document],
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Adds documents; one whose id is there already takes the place of the stored one.

        Args:
            documents: Documents with non-empty text and JSON metadata.
            ids: Take precedence over the documents' own ids; an id is made up where both are missing.
            batch_size: Sent by the indexing API, not needed here: the memory forms batches itself.
            **kwargs: More arguments of `MemoryIndex.add`, such as `embeddings`.

        Returns:
            The ids, in order.
        """
        pieces = _pieces(documents, ids)
        return list(self.memory.add(pieces, namespace=self.namespace, split=False, **kwargs).ids)

    async def aadd_documents(
        self,
        documents: list[Document],
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Async twin of `add_documents`."""
        pieces = _pieces(documents, ids)
        report = await self.memory.aadd(pieces, namespace=self.namespace, split=False, **kwargs)
        return list(report.ids)

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Adds each text as a document; see `add_documents`."""
        return self.add_documents(_documents(texts, metadatas), ids=ids, **kwargs)

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Async twin of `add_texts`."""
        return await self.aadd_documents(_documents(texts, metadatas), ids=ids, **kwargs)

    def delete(
        self, ids: list[str] | None = None, *, filter: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> bool:
        """Erases documents of this namespace; unknown ids are passed over.

        Args:
            ids: Which documents. With neither ids nor a filter, all of this namespace.
            filter: Condition on the metadata; with ids, both must hold.
            **kwargs: More arguments of `MemoryIndex.remove`, such as `wait`.

        Returns:
            True: none of them is left. `memory.remove` also reports whether any file still holds their text.
        """
        self.memory.remove(ids, filter=_selection(ids, filter), namespace=self.namespace, **kwargs)
        return True

    async def adelete(
        self, ids: list[str] | None = None, *, filter: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> bool:
        """Async twin of `delete`."""
        await self.memory.aremove(ids, filter=_selection(ids, filter), namespace=self.namespace, **kwargs)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Returns documents by id, in the order of `ids`; missing and masked ones are left out."""
        return _live(self.memory.get(list(ids), namespace=self.namespace))

    async def aget_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Async twin of `get_by_ids`."""
        return _live(await self.memory.aget(list(ids), namespace=self.namespace))

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Returns the `k` best documents for a question, best first."""
        return [_found(hit) for hit in self._search(query, k, kwargs)]

    async def asimilarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Async twin of `similarity_search`."""
        return [_found(hit) for hit in await self._asearch(query, k, kwargs)]

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, **kwargs: Any
    ) -> list[Document]:
        """Returns the `k` best documents for an embedding, best first; no words are compared."""
        return [_found(hit) for hit in self._search(embedding, k, kwargs)]

    async def asimilarity_search_by_vector(
        self, embedding: list[float], k: int = 4, **kwargs: Any
    ) -> list[Document]:
        """Async twin of `similarity_search_by_vector`."""
        return [_found(hit) for hit in await self._asearch(embedding, k, kwargs)]

    def similarity_search_with_score(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Returns the `k` best documents and their scores; a higher score is better."""
        return [(_found(hit), hit.score) for hit in self._search(query, k, kwargs)]

    async def asimilarity_search_with_score(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Async twin of `similarity_search_with_score`."""
        return [(_found(hit), hit.score) for hit in await self._asearch(query, k, kwargs)]

    def _similarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        return [(_found(hit), hit.relevance) for hit in self._search(query, k, kwargs)]

    async def _asimilarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        return [(_found(hit), hit.relevance) for hit in await self._asearch(query, k, kwargs)]

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """Returns `k` of the `fetch_k` best documents that answer the question and differ from each other.

        The texts fetched are embedded again for the comparison, one call of the encoder.

        Args:
            query: The question.
            k: Number of documents to return.
            fetch_k: Number of documents to choose from.
            lambda_mult: From 0, most different from each other, to 1, most similar to the question.
            **kwargs: More arguments of `MemoryIndex.search`.
        """
        vector = self.embeddings.embed_query(query)
        hits = self._search(query, fetch_k, {**kwargs, "embedding": vector})
        return self._most_different(vector, hits, k, lambda_mult)

    def max_marginal_relevance_search_by_vector(
        self, embedding: list[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """As `max_marginal_relevance_search`, for an embedding."""
        return self._most_different(embedding, self._search(embedding, fetch_k, kwargs), k, lambda_mult)

    def _search(self, query: str | list[float], k: int, options: dict[str, Any]) -> list[Hit]:
        return self.memory.search(query, k=k, **{"namespace": self.namespace, **options})

    async def _asearch(self, query: str | list[float], k: int, options: dict[str, Any]) -> list[Hit]:
        return await self.memory.asearch(query, k=k, **{"namespace": self.namespace, **options})

    def _most_different(
        self, query: list[float], hits: list[Hit], k: int, lambda_mult: float
    ) -> list[Document]:
        vectors = self.embeddings.embed_documents([hit.text for hit in hits]) if hits else []
        rows = maximal_marginal_relevance(np.asarray(query), vectors, lambda_mult=lambda_mult, k=k)
        return [_found(hits[row]) for row in rows]


def _documents(texts: Iterable[str], metadatas: Sequence[dict[str, Any]] | None) -> list[Document]:
    texts = list(texts)
    if metadatas and len(metadatas) != len(texts):
        raise InvalidInputError(f"expected {len(texts)} metadatas, one per text, got {len(metadatas)}")
    pairs = zip(texts, metadatas or repeat({}), strict=False)
    return [Document(page_content=text, metadata=metadata) for text, metadata in pairs]


def _pieces(documents: Sequence[Document], ids: Sequence[str | None] | None) -> list[mllm_plugin.Document]:
    if ids and len(ids) != len(documents):
        raise InvalidInputError(f"expected {len(documents)} ids, one per document, got {len(ids)}")
    pairs = zip(documents, ids or repeat(None), strict=False)
    return [
        mllm_plugin.Document(
            text=document.page_content,
            id=given or document.id or uuid.uuid4().hex,
            metadata=document.metadata,
        )
        for document, given in pairs
    ]


def _selection(ids: list[str] | None, condition: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """An empty filter, which every document matches, when nothing says which ones to delete."""
    return {} if ids is None and condition is None else condition


def _found(hit: Hit) -> Document:
    return Document(page_content=hit.text, id=hit.document_id, metadata=hit.metadata)


def _live(documents: Iterable[StoredDocument]) -> list[Document]:
    return [
        Document(page_content=document.text, id=document.id, metadata=document.metadata)
        for document in documents
        if not document.masks
    ]
