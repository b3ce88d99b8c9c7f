"""Agent memory: scopes, versions, duplicates, forgetting and overviews; no language model needed."""

from mllm_plugin.agent.facade import AgentMemory
from mllm_plugin.agent.functions import memory_functions
from mllm_plugin.agent.items import AuditEntry, Consolidated, Duplicate, Forgotten, Memory, Remembered, Topic
from mllm_plugin.agent.scope import AgentScope

__all__ = [
    "AgentMemory",
    "AgentScope",
    "AuditEntry",
    "Consolidated",
    "Duplicate",
    "Forgotten",
    "Memory",
    "Remembered",
    "Topic",
    "memory_functions",
]
