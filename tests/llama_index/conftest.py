"""A tiny deterministic encoder, for the memory and for LlamaIndex, and memories that use it."""

from __future__ import annotations

import asyncio
import hashlib
import re
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.llms.types import CompletionResponse, CompletionResponseGen, LLMMetadata
from llama_index.core.llms import CustomLLM
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index_mllm import HierarchicalMemoryVectorStore
from numpy.typing import NDArray
from pydantic import PrivateAttr

from mllm_plugin import Document, MemoryIndex

DIM = 16


def embed(text: str) -> NDArray[np.float32]:
    """The sum of one random direction per word: texts that share words are near each other."""
    vector = np.full(DIM, 1e-3, dtype=np.float32)
    for word in re.findall(r"\w+", text.lower()):
        seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest(), "little")
        vector += np.random.default_rng(seed).standard_normal(DIM, dtype=np.float32)
    return vector / np.linalg.norm(vector)


class WordEncoder:
    """A `TextEncoder` that keeps the texts it has seen, and calls `before` first."""

    dim = DIM
    fingerprint = "words:16"

    def __init__(self) -> None:
        self.encoded: list[str] = []
        self.before: Callable[[], object] = dict

    def encode_documents(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], None]:
        self._see(texts)
        return np.stack([embed(text) for text in texts]), None

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self._see(texts)
        return np.stack([embed(text) for text in texts])

    def _see(self, texts: Sequence[str]) -> None:
        self.before()
        self.encoded.extend(texts)


class WordEmbedding(BaseEmbedding):
    """The same embeddings for LlamaIndex; keeps the texts it has seen."""

    _embedded: list[str] = PrivateAttr(default_factory=list)

    @property
    def embedded(self) -> list[str]:
        return self._embedded

    def _get_text_embedding(self, text: str) -> list[float]:
        self._embedded.append(text)
        return embed(text).tolist()

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


class RecordingLLM(CustomLLM):
    """A scripted LLM: keeps every prompt and answers with the same words."""

    _prompts: list[str] = PrivateAttr(default_factory=list)

    @property
    def prompts(self) -> list[str]:
        return self._prompts

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="recording")

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        self._prompts.append(prompt)
        return CompletionResponse(text="noted")

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        yield self.complete(prompt, formatted, **kwargs)


class Gate:
    """Shows that an event loop runs on: `hold` waits, in another thread, until the loop comes round."""

    def __init__(self) -> None:
        self._entered, self._released = threading.Event(), threading.Event()

    def hold(self) -> None:
        self._entered.set()
        if not self._released.wait(timeout=10):
            raise TimeoutError("the event loop is blocked")

    async def passed_by(self, awaitable: Awaitable[Any]) -> Any:
        task = asyncio.ensure_future(awaitable)
        while not self._entered.is_set():
            await asyncio.sleep(0.001)
        self._released.set()
        return await task


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
    from tiny_memory_llm import load_tiny

    return load_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def reader(tiny: Any, memory: MemoryIndex) -> Any:
    """A `MemoryLLM` over three documents."""
    from tiny_memory_llm import tiny_memory_llm

    for number, animal in enumerate(("cats", "dogs", "horses")):
        text = f"{animal} eat in the kitchen number {number}"
        memory.add([Document(text, id=animal, metadata={"number": number})])
    return tiny_memory_llm(tiny, memory)
