"""A `MemoryLLM` of a tiny random model and an untrained adapter, for the tests of the integrations."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny import write_tiny

from mllm_plugin import MemoryIndex
from mllm_plugin.llm import Adapter, LoadedLLM, load_llm
from mllm_plugin.memory_llm import MemoryLLM, MemoryLLMConfig


def load_tiny(folder: Path) -> LoadedLLM:
    """A model whose tokens are bytes, with room for the long prompts of frameworks."""
    return load_llm(write_tiny(folder, context=4096), device="cpu")


def tiny_memory_llm(llm: LoadedLLM, memory: MemoryIndex) -> MemoryLLM:
    """Reads two chunks, of which one as text too, and writes a few characters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        adapter = Adapter.create(
            llm, encoder=memory.encoder.fingerprint, dim=memory.dim, width=16, lora_rank=2
        )
    config = MemoryLLMConfig(max_new_tokens=12, k=2, expand=1, system="Be brief.")
    return MemoryLLM(memory, llm, adapter, config)


def stop_inside(text: str) -> str:
    """Two plain characters at which a text can be cut cleanly."""
    for at in range(1, len(text) - 1):
        stop = text[at : at + 2]
        if text.index(stop) == at and text[at - 1 : at + 2].isascii() and text[at - 1].strip():
            return stop
    raise AssertionError(f"no two plain characters in {text!r}")
