"""LangChain's own integration tests, the whole of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore
from langchain_mllm import HierarchicalMemoryRetriever, HierarchicalMemoryVectorStore
from langchain_tests.integration_tests import RetrieversIntegrationTests, VectorStoreIntegrationTests

from mllm_plugin import MemoryIndex


class TestRetrieverConformance(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _use_planets(self, planets: MemoryIndex) -> None:
        self.memory = planets

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return HierarchicalMemoryRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"memory": self.memory}

    @property
    def retriever_query_example(self) -> str:
        return "Which planet has moons?"


class TestVectorStoreConformance(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path: Path) -> Iterator[VectorStore]:
        with MemoryIndex.open(tmp_path / "memory", encoder=self.get_embeddings()) as memory:
            yield HierarchicalMemoryVectorStore(memory)


class TestVectorStoreInNamespaceConformance(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path: Path) -> Iterator[VectorStore]:
        with MemoryIndex.open(tmp_path / "memory", encoder=self.get_embeddings()) as memory:
            HierarchicalMemoryVectorStore(memory, namespace="other").add_texts(["foo", "bar"], ids=["1", "2"])
            yield HierarchicalMemoryVectorStore(memory, namespace=("users", "42"))
