"""The agent memory in the OpenAI Agents SDK: sessions, and tools to remember, recall and forget."""

from mllm_plugin.extras import needs

with needs("openai-agents", "the session for the OpenAI Agents SDK"):
    from openai_agents_mllm.session import HierarchicalMemorySession
    from openai_agents_mllm.tools import memory_tools

__all__ = ["HierarchicalMemorySession", "memory_tools"]
