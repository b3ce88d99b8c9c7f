"""A tiny model, a memory with something to say, and a reader between them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mllm_plugin import MemoryConfig, MemoryIndex, TreeConfig
from mllm_plugin.llm import LoadedLLM, MemoryReader, PromptLayout, load_llm
from mllm_plugin.memory_llm import MemoryLLM, MemoryLLMConfig
from tests.helpers.llm_tools import documents
from tests.helpers.tiny import write_tiny
from tests.helpers.tiny_memory_llm import random_reader
from tests.helpers.toy import ToyEncoder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> LoadedLLM:
    return load_llm(tiny_folder, device="cpu")


@pytest.fixture
def layout(tiny: LoadedLLM) -> PromptLayout:
    return PromptLayout(tiny.tokenizer, system="Be brief.")


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MemoryIndex]:
    """A memory of several levels, for tests that only read."""
    config = MemoryConfig(tree=TreeConfig(fan_out=4))
    with MemoryIndex.open(
        tmp_path_factory.mktemp("stocked") / "memory", encoder=ToyEncoder(), config=config
    ) as memory:
        memory.add(documents())
        yield memory


@pytest.fixture(scope="module")
def adapter(tiny: LoadedLLM) -> MemoryReader:
    return random_reader(tiny)


@pytest.fixture(scope="module")
def reader(tiny: LoadedLLM, stocked: MemoryIndex, adapter: MemoryReader) -> MemoryLLM:
    """Reads embeddings and text."""
    config = MemoryLLMConfig(
        max_new_tokens=12, expand=1, k=3, chunks=3, windows=24, repeat=True, system="Be brief."
    )
    return MemoryLLM(stocked, tiny, adapter, config)
