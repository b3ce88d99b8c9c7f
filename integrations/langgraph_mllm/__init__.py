"""The hierarchical memory in LangGraph: a store for agents, LangMem and Deep Agents."""

from mllm_plugin.extras import needs

with needs("langgraph", "the LangGraph store"):
    from langgraph_mllm.store import HierarchicalMemoryStore

__all__ = ["HierarchicalMemoryStore"]
