"""A small memory with a deterministic encoder, so that most tests need no model."""

import os
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mllm_plugin import Document, MemoryIndex

os.environ["HF_HUB_OFFLINE"] = "1"

PLANETS = [
    Document("Mercury is the planet nearest to the sun.", id="mercury", metadata={"moons": 0}),
    Document("Venus turns backwards under a thick cloud.", id="venus", metadata={"moons": 0}),
    Document("Earth is a planet with oceans and one moon.", id="earth", metadata={"moons": 1}),
    Document("Mars is a red planet with two small moons.", id="mars", metadata={"moons": 2}),
    Document("Jupiter is the largest planet of all.", id="jupiter", metadata={"moons": 95}),
]


class WordHashEncoder:
    """Sums one fixed random vector per word."""

    dim = 16
    fingerprint = "word-hash:16"

    def encode_documents(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], None]:
        return self.encode_queries(texts), None

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.stack([self._vector(text) for text in texts])

    def _vector(self, text: str) -> NDArray[np.float32]:
        words = re.findall(r"\w+", text.lower()) or [text]
        vectors = [np.random.default_rng(zlib.crc32(word.encode())).normal(size=self.dim) for word in words]
        return np.sum(vectors, axis=0).astype(np.float32)


@pytest.fixture
def encoder() -> WordHashEncoder:
    return WordHashEncoder()


@pytest.fixture
def memory(tmp_path: Path, encoder: WordHashEncoder) -> Iterator[MemoryIndex]:
    """An empty memory on disk."""
    with MemoryIndex.open(tmp_path / "memory", encoder=encoder) as memory:
        yield memory


@pytest.fixture
def planets(memory: MemoryIndex) -> MemoryIndex:
    """A memory of five short documents."""
    memory.add(PLANETS)
    return memory


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny random language model."""
    from tiny_memory_llm import load_tiny

    return load_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def reader(tiny: Any, planets: MemoryIndex) -> Any:
    """A `MemoryLLM` over the five documents."""
    from tiny_memory_llm import tiny_memory_llm

    return tiny_memory_llm(tiny, planets)
