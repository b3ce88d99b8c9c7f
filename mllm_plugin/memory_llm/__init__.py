"""A language model that answers from a memory."""

from mllm_plugin.memory_llm.answer import Answer, Dropped, ReadReport, Source, Usage
from mllm_plugin.memory_llm.config import MemoryLLMConfig
from mllm_plugin.memory_llm.facade import MemoryLLM
from mllm_plugin.memory_llm.streams import AnswerStream, AsyncAnswerStream

__all__ = [
    "Answer",
    "AnswerStream",
    "AsyncAnswerStream",
    "Dropped",
    "MemoryLLM",
    "MemoryLLMConfig",
    "ReadReport",
    "Source",
    "Usage",
]
