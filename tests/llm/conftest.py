"""A tiny model, a memory with something to say, and an adapter between them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import write_tiny
from toy import ToyEncoder

from mllm_plugin import Document, MemoryConfig, MemoryIndex, TreeConfig
from mllm_plugin.llm import Adapter, LoadedLLM, PromptLayout, load_llm
from mllm_plugin.memory_llm import MemoryLLM, MemoryLLMConfig

WORDS = ["ships", "kettles", "foxes", "lamps", "rivers", "clocks", "violins", "maps"]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> LoadedLLM:
    return load_llm(tiny_folder, device="cpu")


@pytest.fixture
def layout(tiny: LoadedLLM) -> PromptLayout:
    return PromptLayout(tiny.tokenizer, system="Be brief.")


def documents(count: int = 24) -> list[Document]:
    """Documents of three chunks, each about a word of its own."""
    found = []
    for number in range(count):
        word = WORDS[number % len(WORDS)]
        text = " ".join(f"The {word} number {number} has part {part} of {word}." for part in range(6))
        found.append(Document(id=f"d{number}", text=text, metadata={"number": number, "word": word}))
    return found


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MemoryIndex]:
    """A memory of several levels, for tests that only read."""
    config = MemoryConfig(tree=TreeConfig(fan_out=4))
    with MemoryIndex.open(
        tmp_path_factory.mktemp("stocked") / "memory", encoder=ToyEncoder(), config=config
    ) as memory:
        memory.add(documents())
        yield memory


def make_adapter(llm: LoadedLLM, memory: MemoryIndex, **settings: object) -> Adapter:
    """An untrained one; it reads something, whatever it means."""
    settings = {"width": 16, "lora_rank": 2, **settings}
    return Adapter.create(llm, encoder=memory.encoder.fingerprint, dim=memory.dim, **settings)


@pytest.fixture(scope="module")
def adapter(tiny: LoadedLLM, stocked: MemoryIndex) -> Adapter:
    return make_adapter(tiny, stocked)


@pytest.fixture(scope="module")
def reader(tiny: LoadedLLM, stocked: MemoryIndex, adapter: Adapter) -> MemoryLLM:
    """Reads embeddings and text."""
    config = MemoryLLMConfig(max_new_tokens=12, expand=1, k=3, system="Be brief.")
    return MemoryLLM(stocked, tiny, adapter, config)
