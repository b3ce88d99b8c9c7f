"""The memory as a LangChain vector store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore
from langchain_core.vectorstores.utils import maximal_marginal_relevance
from typing_extensions import Self

from langchain_mllm.copies import opener
from langchain_mllm.documents import documents_of, kept_document, pieces_of, plain
from langchain_mllm.embeddings import MemoryEmbeddings
from langchain_mllm.searching import asearch, check_options, is_blank, search, search_vectors
from mllm_plugin import Hit, MemoryConfig, MemoryIndex, StoredDocument
from mllm_plugin.errors import InvalidTypeError
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
        path: str | Path | None = None,
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
            path: Folder of the memory, always needed. `store.memory.close()` closes it.
            namespace: Namespace of the store.
            config: Settings of a new memory.
            **kwargs: More arguments of `MemoryIndex.open`.

        Raises:
            InvalidTypeError: `path` is missing, or an option is unknown.
        """
        if path is None:
            raise InvalidTypeError(
                "expected path=, the folder to keep the memory in, got none: a memory is on disk. For one "
                "that may be thrown away pass path=tempfile.mkdtemp()"
            )
        check_options(MemoryIndex.open, kwargs, "path", "namespace", "ids")
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

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A store on the same open memory."""
        return type(self)(self.memory, namespace=self.namespace)

    def __getstate__(self) -> dict[str, Any]:
        """What opens the memory in its place."""
        return {**vars(self), "memory": opener(self.memory)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Opens the memory again."""
        vars(self).update(state, memory=state["memory"]())

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
        options = self._add_options(kwargs)
        return list(self.memory.add(pieces_of(documents, ids), **options).ids)

    async def aadd_documents(
        self,
        documents: list[Document],
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Async twin of `add_documents`."""
        options = self._add_options(kwargs)
        return list((await self.memory.aadd(pieces_of(documents, ids), **options)).ids)

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Adds each text as a document; see `add_documents`."""
        return self.add_documents(documents_of(texts, metadatas), ids=ids, **kwargs)

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Async twin of `add_texts`."""
        return await self.aadd_documents(documents_of(texts, metadatas), ids=ids, **kwargs)

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
        self.memory.remove(**self._selected(ids, filter, kwargs))
        return True

    async def adelete(
        self, ids: list[str] | None = None, *, filter: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> bool:
        """Async twin of `delete`."""
        await self.memory.aremove(**self._selected(ids, filter, kwargs))
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Returns documents by id, in the order of `ids`; missing and masked ones are left out."""
        return _live(self.memory.get(list(ids), namespace=self.namespace))

    async def aget_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Async twin of `get_by_ids`."""
        return _live(await self.memory.aget(list(ids), namespace=self.namespace))

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Returns the `k` best documents for a question, best first."""
        return [kept_document(hit) for hit in self._search(query, k, kwargs)]

    async def asimilarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Async twin of `similarity_search`."""
        return [kept_document(hit) for hit in await self._asearch(query, k, kwargs)]

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, **kwargs: Any
    ) -> list[Document]:
        """Returns the `k` best documents for an embedding, best first; no words are compared."""
        return [kept_document(hit) for hit in self._search(embedding, k, kwargs)]

    async def asimilarity_search_by_vector(
        self, embedding: list[float], k: int = 4, **kwargs: Any
    ) -> list[Document]:
        """Async twin of `similarity_search_by_vector`."""
        return [kept_document(hit) for hit in await self._asearch(embedding, k, kwargs)]

    def similarity_search_with_score(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Returns the `k` best documents and their scores; a higher score is better."""
        return [(kept_document(hit), hit.score) for hit in self._search(query, k, kwargs)]

    async def asimilarity_search_with_score(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Async twin of `similarity_search_with_score`."""
        return [(kept_document(hit), hit.score) for hit in await self._asearch(query, k, kwargs)]

    def _similarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        return [(kept_document(hit), hit.relevance) for hit in self._search(query, k, kwargs)]

    async def _asimilarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        return [(kept_document(hit), hit.relevance) for hit in await self._asearch(query, k, kwargs)]

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """Returns `k` of the `fetch_k` best documents that answer the question and differ from each other.

        Documents are compared by their stored embeddings; none is embedded again.

        Args:
            query: The question.
            k: Number of documents to return.
            fetch_k: Number of documents to choose from, at least `k`.
            lambda_mult: From 0, most different from each other, to 1, most similar to the question.
            **kwargs: More arguments of `MemoryIndex.recall`, which are those of a search.
        """
        if is_blank(query):
            vector = [0.0] * self.memory.encoder.dim
        else:
            vector = kwargs["embedding"] = self.embeddings.embed_query(query)
        return self._most_different(query, vector, k, fetch_k, lambda_mult, kwargs)

    def max_marginal_relevance_search_by_vector(
        self, embedding: list[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """As `max_marginal_relevance_search`, for an embedding."""
        return self._most_different(embedding, embedding, k, fetch_k, lambda_mult, kwargs)

    def _most_different(
        self,
        query: str | list[float],
        vector: list[float],
        k: int,
        fetch_k: int,
        lambda_mult: float,
        options: dict[str, Any],
    ) -> list[Document]:
        check_options(self.memory.recall, options, "fetch_k", "lambda_mult")
        where = {"namespace": self.namespace, **options}
        hits, vectors = search_vectors(self.memory, query, k=max(k, fetch_k), **where)
        rows = range(len(hits))[:k]
        if np.any(vector):  # else nothing is nearer to it than anything else
            rows = maximal_marginal_relevance(np.asarray(vector), list(vectors), lambda_mult=lambda_mult, k=k)
        return [kept_document(hits[row]) for row in rows]

    def _search(self, query: str | list[float], k: int, options: dict[str, Any]) -> list[Hit]:
        return search(self.memory, query, k=k, **self._where(options))

    async def _asearch(self, query: str | list[float], k: int, options: dict[str, Any]) -> list[Hit]:
        return await asearch(self.memory, query, k=k, **self._where(options))

    def _where(self, options: dict[str, Any]) -> dict[str, Any]:
        check_options(self.memory.search, options)
        return {"namespace": self.namespace, **options}

    def _add_options(self, options: dict[str, Any]) -> dict[str, Any]:
        options.pop("current_time", None)  # TimeWeightedVectorStoreRetriever hands on what it was given
        check_options(self.memory.add, options, "ids")
        return {"namespace": self.namespace, "split": False, **options}

    def _selected(
        self, ids: list[str] | None, condition: Mapping[str, Any] | None, options: dict[str, Any]
    ) -> dict[str, Any]:
        check_options(self.memory.remove, options, "ids")
        chosen = _selection(ids, condition)
        return {"ids": ids, "filter": chosen, "namespace": self.namespace, **options}


def _selection(ids: list[str] | None, condition: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """An empty filter, which every document matches, when nothing says which ones to delete."""
    return {} if ids is None and condition is None else plain(condition)


def _live(documents: Iterable[StoredDocument]) -> list[Document]:
    return [kept_document(document) for document in documents if not document.masks]
