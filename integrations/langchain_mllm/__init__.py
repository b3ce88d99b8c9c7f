"""The hierarchical memory in LangChain: as a retriever and as a vector store."""

from langchain_mllm.embeddings import MemoryEmbeddings
from langchain_mllm.retrievers import HierarchicalMemoryRetriever
from langchain_mllm.vectorstores import HierarchicalMemoryVectorStore

__all__ = ["HierarchicalMemoryRetriever", "HierarchicalMemoryVectorStore", "MemoryEmbeddings"]
