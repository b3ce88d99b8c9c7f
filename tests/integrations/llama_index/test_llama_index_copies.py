"""Copies share the memory, the encoder, the model; pickles open them again, or are refused clearly."""

from __future__ import annotations

import copy
import pickle
import threading
from pathlib import Path

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.callbacks import CallbackManager, LlamaDebugHandler
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import Document
from llama_index.core.vector_stores import VectorStoreQuery
from llama_index_mllm import (
    HierarchicalMemoryRetriever,
    HierarchicalMemoryVectorStore,
    MemoryEmbedding,
    MemoryLLM,
)

from mllm_plugin import InvalidTypeError, MemoryConfig, MemoryIndex
from mllm_plugin.config import SearchConfig
from mllm_plugin.encoders import VectorsOnly
from tests.helpers.llama_index_tools import WordEncoder


def test_a_pickled_embedding_embeds_the_same(memory: MemoryIndex) -> None:
    handler = LlamaDebugHandler(print_trace_on_end=False)
    model = MemoryEmbedding(memory.encoder, embed_batch_size=3, callback_manager=CallbackManager([handler]))
    again = pickle.loads(pickle.dumps(model))
    assert again.get_text_embedding("cats sleep") == model.get_text_embedding("cats sleep")
    assert (again.model_name, again.embed_batch_size) == (model.model_name, 3)
    assert handler in model.callback_manager.handlers
    assert again.callback_manager.handlers == []


def test_a_pipeline_embeds_in_other_processes(memory: MemoryIndex) -> None:
    documents = [Document(text=f"cats sleep {number}") for number in range(2)]
    pipeline = IngestionPipeline(transformations=[MemoryEmbedding(memory.encoder)])
    here = {node.text: node.embedding for node in pipeline.run(documents=documents)}
    there = {node.text: node.embedding for node in pipeline.run(documents=documents, num_workers=2)}
    assert there == here


def test_a_pickled_store_opens_its_memory_again(filled: HierarchicalMemoryVectorStore, embedding) -> None:
    asked = VectorStoreQuery(query_embedding=embedding.get_query_embedding("dogs bark"), similarity_top_k=3)
    again = pickle.loads(pickle.dumps(filled))
    with again.client:
        assert again.client is not filled.client
        assert again.client.path == filled.client.path
        assert again.query(asked) == filled.query(asked)
        again.delete("doc1")
    assert len(filled.get_nodes()) == 5


def test_what_a_memory_was_opened_with_is_kept(tmp_path: Path, make_node, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = MemoryConfig(search=SearchConfig(beam_width=7))
    with MemoryIndex.open("m", encoder=VectorsOnly(16), config=config) as memory:
        store = HierarchicalMemoryVectorStore(memory, namespace=("users", "42"))
        store.add([make_node("cats", id_="n")])
        pickled = pickle.dumps(store)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = pickle.loads(pickled)
    with again.client as memory:
        assert [node.node_id for node in again.get_nodes()] == ["n"]
        assert (again.namespace, memory.config.search.beam_width) == (("users", "42"), 7)


def test_a_pickled_retriever_finds_the_same(filled: HierarchicalMemoryVectorStore, memory) -> None:
    retriever = HierarchicalMemoryRetriever(memory, k=2, filter={"animal": "dogs"})
    again = pickle.loads(pickle.dumps(retriever))
    with again.memory:
        assert again.retrieve("dogs bark") == retriever.retrieve("dogs bark")


def test_copies_share_what_is_open(filled: HierarchicalMemoryVectorStore, memory, embedding) -> None:
    retriever = HierarchicalMemoryRetriever(memory, k=2, filter={"animal": "dogs"})
    model = MemoryEmbedding(memory.encoder)
    for duplicate in (copy.copy, copy.deepcopy):
        assert duplicate(filled).client is memory
        assert duplicate(model).get_query_embedding("cats") == model.get_query_embedding("cats")
        twin = duplicate(retriever)
        assert twin.memory is memory
        assert twin.retrieve("dogs bark") == retriever.retrieve("dogs bark")
        twin.k = 1
        assert retriever.k == 2
    copy.deepcopy(retriever).filter["animal"] = "cats"
    assert retriever.filter == {"animal": "dogs"}
    assert filled.model_copy(deep=True).client is memory


def test_what_holds_them_can_be_copied(filled: HierarchicalMemoryVectorStore, embedding, llm) -> None:
    index = VectorStoreIndex.from_vector_store(filled, embed_model=embedding)
    engine = RetrieverQueryEngine.from_args(index.as_retriever(similarity_top_k=1), llm=llm)
    for one in (copy.deepcopy(index).as_query_engine(llm=llm, similarity_top_k=1), copy.deepcopy(engine)):
        assert one.query("dogs bark").source_nodes[0].node.node_id == "n2"


def test_what_cannot_be_pickled_is_refused_and_stays_whole(tmp_path: Path) -> None:
    encoder = WordEncoder()
    encoder.lock = threading.Lock()
    with MemoryIndex.open(tmp_path, encoder=encoder) as memory:
        held = (
            MemoryEmbedding(encoder),
            HierarchicalMemoryVectorStore(memory),
            HierarchicalMemoryRetriever(memory),
        )
        for one in held:
            with pytest.raises(InvalidTypeError, match="cannot be pickled"):
                pickle.dumps(one)
            assert type(copy.deepcopy(one)) is type(one)  # shares the encoder, whatever that is
        assert held[0].get_query_embedding("cats")
        assert held[1].client is memory
        assert held[2].memory is memory


def test_a_language_model_is_copied_but_not_pickled(reader) -> None:
    model = MemoryLLM(llm=reader, stop=["."], k=1)
    with pytest.raises(InvalidTypeError, match="cannot be pickled; open one in each process"):
        pickle.dumps(model)
    for twin in (copy.copy(model), copy.deepcopy(model)):
        assert twin.llm is model.llm is reader
        assert (twin.stop, twin.k) == (["."], 1)
    assert copy.deepcopy(model).complete("where do dogs eat").text == model.complete("where do dogs eat").text
