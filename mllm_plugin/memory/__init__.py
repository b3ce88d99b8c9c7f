"""The facade."""

from mllm_plugin.memory.index import MemoryIndex

__all__ = ["MemoryIndex"]
