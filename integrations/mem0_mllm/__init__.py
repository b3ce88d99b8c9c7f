"""The agent memory with the interface of mem0: `from mem0_mllm import Memory` in place of mem0's."""

from mem0_mllm.asynchronous import AsyncMemory
from mem0_mllm.memory import Memory

__all__ = ["AsyncMemory", "Memory"]
