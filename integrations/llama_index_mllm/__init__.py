"""The hierarchical memory in LlamaIndex: retriever, vector store, memory block, encoder, and an LLM."""

from typing import TYPE_CHECKING, Any

from llama_index_mllm.embedding import MemoryEmbedding
from llama_index_mllm.memory_block import HierarchicalMemoryBlock
from llama_index_mllm.retriever import HierarchicalMemoryRetriever
from llama_index_mllm.vector_store import HierarchicalMemoryVectorStore

if TYPE_CHECKING:
    from llama_index_mllm.llm import MemoryLLM

__all__ = [
    "HierarchicalMemoryBlock",
    "HierarchicalMemoryRetriever",
    "HierarchicalMemoryVectorStore",
    "MemoryEmbedding",
    "MemoryLLM",
]


def __getattr__(name: str) -> Any:
    """Imports the language model, and PyTorch with it, when it is asked for."""
    if name == "MemoryLLM":
        from llama_index_mllm.llm import MemoryLLM

        return MemoryLLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
