"""What all scopes of one agent memory share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mllm_plugin.agent.likeness import Likeness
from mllm_plugin.agent.turns import Turns
from mllm_plugin.memory import MemoryIndex
from mllm_plugin.store.audit import Audit

Duplicates = Literal["report", "merge", "keep"]


@dataclass(frozen=True)
class Shared:
    """The memory and what goes with it.

    Attributes:
        memory: Where everything lies.
        duplicates: What happens to near-duplicates.
        likeness: Finds them.
        turns: Numbers the messages of sessions.
        audit: The log.
    """

    memory: MemoryIndex
    duplicates: Duplicates
    likeness: Likeness
    audit: Audit
    turns: Turns = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "turns", Turns(self.memory))
