"""The hierarchical memory in LangChain: retriever, vector store, and a language model that reads it."""

from typing import TYPE_CHECKING, Any

from langchain_mllm.embeddings import MemoryEmbeddings
from langchain_mllm.retrievers import HierarchicalMemoryRetriever
from langchain_mllm.structured_query import HierarchicalMemoryTranslator
from langchain_mllm.vectorstores import HierarchicalMemoryVectorStore

if TYPE_CHECKING:
    from langchain_mllm.chat_models import ChatMemoryLLM
    from langchain_mllm.llms import MemoryLLM

__all__ = [
    "ChatMemoryLLM",
    "HierarchicalMemoryRetriever",
    "HierarchicalMemoryTranslator",
    "HierarchicalMemoryVectorStore",
    "MemoryEmbeddings",
    "MemoryLLM",
]


def __getattr__(name: str) -> Any:
    """Imports the language models, and PyTorch with them, when they are asked for."""
    if name == "ChatMemoryLLM":
        from langchain_mllm.chat_models import ChatMemoryLLM

        return ChatMemoryLLM
    if name == "MemoryLLM":
        from langchain_mllm.llms import MemoryLLM

        return MemoryLLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
