"""LangChain's indexing API on the vector store."""

from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, aindex, index
from langchain_mllm import HierarchicalMemoryVectorStore

from mllm_plugin import MemoryIndex


class Indexed:
    """A store that is kept in step with lists of documents, with or without async."""

    def __init__(self, memory: MemoryIndex, *, use_async: bool) -> None:
        self.store = HierarchicalMemoryVectorStore(memory, namespace="indexed")
        self._records = InMemoryRecordManager("indexed")
        self._records.create_schema()
        self._use_async = use_async

    async def update(self, documents: list[Document], **options: Any) -> tuple[int, int, int]:
        """Returns how many documents were added, skipped and deleted."""
        options = {"source_id_key": "source", "key_encoder": "sha256", **options}
        if self._use_async:
            done = await aindex(documents, self._records, self.store, **options)
        else:
            done = index(documents, self._records, self.store, **options)
        return done["num_added"], done["num_skipped"], done["num_deleted"]

    def texts(self) -> set[str]:
        return {doc.page_content for doc in self.store.similarity_search("text", k=100)}


@pytest.fixture(params=[False, True], ids=["index", "aindex"])
def indexed(memory: MemoryIndex, request: pytest.FixtureRequest) -> Indexed:
    return Indexed(memory, use_async=request.param)


def _document(text: str, source: str) -> Document:
    return Document(page_content=text, metadata={"source": source})


A1, A2, B1 = _document("text a1", "a"), _document("text a2", "a"), _document("text b1", "b")


async def test_incremental_cleanup_replaces_what_its_source_no_longer_has(indexed: Indexed) -> None:
    assert await indexed.update([A1, A2, B1], cleanup="incremental") == (3, 0, 0)
    assert await indexed.update([A1, A2, B1], cleanup="incremental") == (0, 3, 0)
    changed = _document("text a2, changed", "a")
    assert await indexed.update([A1, changed], cleanup="incremental") == (1, 1, 1)
    assert indexed.texts() == {"text a1", "text a2, changed", "text b1"}


async def test_full_cleanup_leaves_what_was_given(indexed: Indexed) -> None:
    await indexed.update([A1, A2, B1], cleanup="full")
    assert await indexed.update([B1], cleanup="full") == (0, 1, 2)
    assert indexed.texts() == {"text b1"}
    assert await indexed.update([], cleanup="full") == (0, 0, 1)
    assert indexed.texts() == set()


async def test_scoped_full_cleanup_leaves_other_sources_alone(indexed: Indexed) -> None:
    await indexed.update([A1, A2, B1], cleanup="scoped_full")
    assert await indexed.update([A1], cleanup="scoped_full", batch_size=1) == (0, 1, 1)
    assert indexed.texts() == {"text a1", "text b1"}


async def test_forced_updates_do_not_duplicate(indexed: Indexed) -> None:
    await indexed.update([A1, B1])
    await indexed.update([A1, B1], force_update=True)
    assert indexed.store.memory.stats().documents == 2


async def test_the_documents_come_back_as_they_went_in(indexed: Indexed) -> None:
    await indexed.update([A1])
    [found] = indexed.store.similarity_search("text")
    assert (found.page_content, found.metadata) == (A1.page_content, A1.metadata)
