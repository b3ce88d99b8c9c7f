"""Copies of retrievers, stores, models and embeddings."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStoreRetriever
from langchain_mllm import (
    ChatMemoryLLM,
    HierarchicalMemoryRetriever,
    HierarchicalMemoryVectorStore,
    MemoryEmbeddings,
    MemoryLLM,
)

from mllm_plugin import MemoryIndex
from mllm_plugin.errors import InvalidTypeError


def test_a_copied_retriever_searches_the_same_open_memory(planets: MemoryIndex) -> None:
    retriever = HierarchicalMemoryRetriever(memory=planets, k=1, filter={"moons": {"$gt": 0}})
    copied = copy.deepcopy(retriever)
    assert copied.memory is planets
    assert copied.invoke("a red planet") == retriever.invoke("a red planet")
    assert copied.filter is not None
    copied.filter.clear()
    assert retriever.filter == {"moons": {"$gt": 0}}


def test_a_copied_store_writes_to_the_same_open_memory(planets: MemoryIndex) -> None:
    store = HierarchicalMemoryVectorStore(planets, namespace=("users", "ann"))
    copied = copy.deepcopy(store.as_retriever(search_kwargs={"k": 1}))
    assert isinstance(copied, VectorStoreRetriever)
    copied.add_documents([Document(page_content="Ann likes tea.")])
    assert [found.page_content for found in store.similarity_search("tea")] == ["Ann likes tea."]
    assert copied.invoke("tea") == store.similarity_search("tea", k=1)


@pytest.mark.parametrize("kind", [ChatMemoryLLM, MemoryLLM])
def test_a_copied_model_shares_its_weights_and_none_is_pickled(reader: Any, kind: Any) -> None:
    model = kind(llm=reader, filter={"moons": 1})
    copied = copy.deepcopy(model)
    assert copied.llm is reader
    assert (copied is model, copied.filter) == (False, {"moons": 1})
    assert copied.bind(k=1).invoke("Which planet?")
    with pytest.raises(
        InvalidTypeError, match=r"cannot be pickled; open it in the process .*MemoryLLM\.open"
    ):
        pickle.dumps(model)


def test_embeddings_are_pickled_and_copied(encoder: Any) -> None:
    embeddings = MemoryEmbeddings(encoder)
    for copied in (copy.deepcopy(embeddings), pickle.loads(pickle.dumps(embeddings))):
        assert copied.embed_query("tea") == embeddings.embed_query("tea")
    assert embeddings.embed_documents([]) == []
