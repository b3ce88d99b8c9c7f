"""Copies of retrievers, stores, models and embeddings."""

from __future__ import annotations

import copy
import pickle
import threading
from pathlib import Path
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
from mllm_plugin.encoders import VectorsOnly
from mllm_plugin.errors import InvalidTypeError


class Locked(VectorsOnly):
    """An encoder that holds what cannot be pickled."""

    def __init__(self) -> None:
        super().__init__(4)
        self.lock = threading.Lock()


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


def test_a_pickle_opens_the_memory_again(planets: MemoryIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(planets.path.parent)
    with MemoryIndex.open(planets.path.name, encoder=planets.encoder) as relative:
        retriever = HierarchicalMemoryRetriever(memory=relative, k=1, filter={"moons": {"$gt": 0}})
        store = HierarchicalMemoryVectorStore(relative, namespace=("users", "ann"))
        data = pickle.dumps((retriever, store, store.as_retriever(search_kwargs={"k": 1})))
    monkeypatch.chdir("/")
    retriever, store, of_store = pickle.loads(data)
    with retriever.memory as memory, store.memory, of_store.vectorstore.memory:
        assert memory.path == planets.path
        assert [found.id for found in retriever.invoke("a red planet")] == ["mars"]
        store.add_texts(["Ann likes tea."])
        assert of_store.invoke("tea")[0].page_content == "Ann likes tea."


def test_what_holds_an_encoder_that_cannot_be_pickled_says_so(tmp_path: Path) -> None:
    with MemoryIndex.open(tmp_path / "memory", encoder=Locked()) as memory:
        embeddings = MemoryEmbeddings(memory.encoder)
        retriever = HierarchicalMemoryRetriever(memory=memory)
        for one in (retriever, HierarchicalMemoryVectorStore(memory), embeddings):
            with pytest.raises(InvalidTypeError, match="the encoder Locked cannot be pickled"):
                pickle.dumps(one)
        assert copy.deepcopy(embeddings).encoder is memory.encoder


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
