"""What one caller may do: the scope it is bound to, whether it writes, how much it asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mllm_plugin.errors import InvalidInputError
from mllm_plugin.serving.answers import plain
from mllm_plugin.serving.opening import Opening
from mllm_plugin.serving.problems import AccessError
from mllm_plugin.serving.verbs import Arguments, Verb

if TYPE_CHECKING:
    from mllm_plugin.agent import AgentMemory, AgentScope

MOST = 100


@dataclass(frozen=True)
class Access:
    """A caller's rights.

    Attributes:
        scope: What the caller is bound to, such as {"user": "ann"}; empty for the whole memory.
        read_only: Whether it only reads.
        most: Results that a call may ask for.
        name: Whom the server's log and limits know it by.
    """

    scope: Mapping[str, str] = field(default_factory=dict)
    read_only: bool = False
    most: int = MOST
    name: str = ""

    def narrowed(self, memory: AgentMemory, asked: Mapping[str, str]) -> AgentScope:
        """The scope of a call: this one, or one within it.

        Raises:
            AccessError: What is asked for is not within it.
        """
        bound = memory.scope(**self.scope)
        for key, value in asked.items():
            if self.scope.get(key, value) != value:
                raise AccessError(f"{key} is fixed to another value here; leave {key!r} out of the scope")
        narrow = memory.scope(**{**asked, **self.scope})
        if narrow.namespace[: len(bound.namespace)] != bound.namespace:
            raise AccessError(
                f"expected a scope within {', '.join(self.scope)}, got one with {', '.join(asked)}, which lies "
                f"above; leave that out"
            )
        return narrow

    def call(self, opening: Opening, verb: Verb, arguments: Arguments) -> dict[str, Any]:
        """Does what a verb says, and returns a plain answer.

        Raises:
            AccessError: The caller may not.
            MLLMError: The memory refuses it.
        """
        if verb.writes and self.read_only:
            raise AccessError(f"{verb.name} writes, and this access only reads")
        asked = getattr(arguments, "k", None) or getattr(arguments, "limit", None) or 0
        if asked > self.most:
            raise InvalidInputError(f"expected at most {self.most} results, got {asked}; ask for fewer")
        scope = self.narrowed(opening.memory(warm=verb.embeds), arguments.scope)
        return plain(verb.run(scope, arguments))
