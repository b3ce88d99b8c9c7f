"""Memories that use the encoder of `llama_index_tools`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index_mllm import HierarchicalMemoryVectorStore

from mllm_plugin import Document, MemoryIndex
from tests.helpers.llama_index_tools import Gate, RecordingLLM, WordEmbedding, WordEncoder, embed


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither hub nor OpenAI: LlamaIndex carries its own tiktoken and NLTK files."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("OPENAI_API_KEY", "TIKTOKEN_CACHE_DIR", "NLTK_DATA"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def encoder() -> WordEncoder:
    return WordEncoder()


@pytest.fixture
def embedding() -> WordEmbedding:
    return WordEmbedding(model_name="words")


@pytest.fixture
def llm() -> RecordingLLM:
    return RecordingLLM()


@pytest.fixture
def memory(tmp_path: Path, encoder: WordEncoder) -> Iterator[MemoryIndex]:
    with MemoryIndex.open(tmp_path / "memory", encoder=encoder) as memory:
        yield memory
        report = memory.verify()
        assert report.ok, report.problems


@pytest.fixture
def store(memory: MemoryIndex) -> HierarchicalMemoryVectorStore:
    return HierarchicalMemoryVectorStore(memory)


@pytest.fixture
def make_node() -> Callable[..., TextNode]:
    """Makes a node with an embedding of its text; `ref_doc_id` names its source."""

    def make(text: str, *, ref_doc_id: str | None = None, **fields: object) -> TextNode:
        source = {} if ref_doc_id is None else {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=ref_doc_id)}
        return TextNode(text=text, embedding=embed(text).tolist(), relationships=source, **fields)

    return make


@pytest.fixture
def nodes(make_node: Callable[..., TextNode]) -> list[TextNode]:
    """Three sources of two nodes each, and a node without a source."""
    texts = ["cats sleep", "cats hunt", "dogs bark", "dogs run", "horses run", "horses sleep"]
    made = [
        make_node(
            text, id_=f"n{row}", ref_doc_id=f"doc{row // 2}", metadata={"row": row, "animal": text.split()[0]}
        )
        for row, text in enumerate(texts)
    ]
    return [*made, make_node("no source", id_="alone", metadata={"row": 6})]


@pytest.fixture
def filled(store: HierarchicalMemoryVectorStore, nodes: list[TextNode]) -> HierarchicalMemoryVectorStore:
    assert store.add(nodes) == [node.node_id for node in nodes]
    return store


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny random language model."""
    from tests.helpers.tiny_memory_llm import load_tiny

    return load_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def reader(tiny: Any, memory: MemoryIndex) -> Any:
    """A `MemoryLLM` over three documents."""
    from tests.helpers.tiny_memory_llm import tiny_memory_llm

    for number, animal in enumerate(("cats", "dogs", "horses")):
        text = f"{animal} eat in the kitchen number {number}"
        memory.add([Document(text, id=animal, metadata={"number": number})])
    return tiny_memory_llm(tiny, memory)
