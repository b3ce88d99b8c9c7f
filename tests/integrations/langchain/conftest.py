"""A small memory with a deterministic encoder, so that most tests need no model."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mllm_plugin import Document, MemoryIndex
from tests.helpers.langchain_tools import WordHashEncoder

os.environ["HF_HUB_OFFLINE"] = "1"

PLANETS = [
    Document("Mercury is the planet nearest to the sun.", id="mercury", metadata={"moons": 0}),
    Document("Venus turns backwards under a thick cloud.", id="venus", metadata={"moons": 0}),
    Document("Earth is a planet with oceans and one moon.", id="earth", metadata={"moons": 1}),
    Document("Mars is a red planet with two small moons.", id="mars", metadata={"moons": 2}),
    Document("Jupiter is the largest planet of all.", id="jupiter", metadata={"moons": 95}),
]


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
    from tests.helpers.tiny_memory_llm import load_tiny

    return load_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def reader(tiny: Any, planets: MemoryIndex) -> Any:
    """A `MemoryLLM` over the five documents."""
    from tests.helpers.tiny_memory_llm import tiny_memory_llm

    return tiny_memory_llm(tiny, planets)
