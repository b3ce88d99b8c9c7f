"""The hierarchical memory in LlamaIndex: as a retriever, as a vector store, and its encoder."""

from llama_index_mllm.embedding import MemoryEmbedding
from llama_index_mllm.retriever import HierarchicalMemoryRetriever
from llama_index_mllm.vector_store import HierarchicalMemoryVectorStore

__all__ = ["HierarchicalMemoryRetriever", "HierarchicalMemoryVectorStore", "MemoryEmbedding"]
