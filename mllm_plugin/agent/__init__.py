"""Agent memory: scopes, versions, duplicates, forgetting and overviews; no language model needed."""

from mllm_plugin.agent.facade import AgentMemory
from mllm_plugin.agent.items import (
    AgentTopic,
    AuditEntry,
    Consolidated,
    Duplicate,
    Forgotten,
    Memory,
    Remembered,
)
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
    "AgentTopic",
]
