"""A language model that writes and reads vectors: tensors in, tensors out; nothing here knows a memory."""

from mllm_plugin.extras import needs

with needs("llm", "a language model"):
    import torch  # noqa: F401 - everything here needs it
    import transformers  # noqa: F401

from mllm_plugin.llm.models import DEFAULT_LLM, LoadedLLM, load_llm, resolve_llm
from mllm_plugin.llm.prompt import DEFAULT_SYSTEM, Batch, Prompt, PromptLayout, assemble, memory_order
from mllm_plugin.llm.reader import MemoryReader, ReaderConfig, shipped_reader

__all__ = [
    "DEFAULT_LLM",
    "DEFAULT_SYSTEM",
    "Batch",
    "LoadedLLM",
    "MemoryReader",
    "Prompt",
    "PromptLayout",
    "ReaderConfig",
    "assemble",
    "load_llm",
    "memory_order",
    "resolve_llm",
    "shipped_reader",
]
