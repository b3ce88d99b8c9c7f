"""A `MemoryLLM` of a tiny random model and a random reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mllm_plugin import MemoryIndex
from mllm_plugin.llm import LoadedLLM, MemoryReader, load_llm
from mllm_plugin.memory_llm import MemoryLLM, MemoryLLMConfig
from tests.helpers.tiny import write_tiny


def load_tiny(folder: Path) -> LoadedLLM:
    """A model whose tokens are bytes, with room for the long prompts of frameworks."""
    return load_llm(write_tiny(folder, context=4096), device="cpu")


def random_reader(llm: LoadedLLM, seed: int = 0, **settings: Any) -> MemoryReader:
    """A reader whose every part does something, whatever it means."""
    reader = MemoryReader.create(llm, rank=2, **settings)
    generator = torch.Generator().manual_seed(seed)
    for name, value in reader.tensors.items():
        if not name.endswith("idf"):
            value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    return reader


def tiny_memory_llm(llm: LoadedLLM, memory: MemoryIndex) -> MemoryLLM:
    """Reads two chunks, of which one as text too, and writes a few characters."""
    config = MemoryLLMConfig(
        max_new_tokens=12, k=2, expand=1, chunks=2, windows=24, repeat=True, system="Be brief."
    )
    return MemoryLLM(memory, llm, MemoryReader.create(llm, rank=2), config)


def stop_inside(text: str) -> str:
    """Two plain characters at which a text can be cut cleanly."""
    for at in range(1, len(text) - 1):
        stop = text[at : at + 2]
        if text.index(stop) == at and text[at - 1 : at + 2].isascii() and text[at - 1].strip():
            return stop
    raise AssertionError(f"no two plain characters in {text!r}")
