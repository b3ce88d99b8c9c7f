"""What one caller may do: the scope it is bound to, whether it writes, how much it asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mllm_plugin.agent.naming import KEYS
from mllm_plugin.errors import AccessError, InvalidInputError
from mllm_plugin.serving.answers import plain
from mllm_plugin.serving.opening import Opening
from mllm_plugin.serving.verbs import Arguments, Verb

if TYPE_CHECKING:
    from mllm_plugin.agent import AgentMemory, AgentScope

MOST = 100
_COUNTS = ("k", "limit", "nodes")


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

    def allows(self, verb: Verb) -> bool:
        """Whether a caller may use a verb at all."""
        return not (verb.writes and self.read_only)

    def narrowed(self, memory: AgentMemory, asked: Mapping[str, str]) -> AgentScope:
        """The scope of a call: this one, or one within it; nothing outside of this one is reached from it.

        Raises:
            AccessError: What is asked for is not within it.
        """
        innermost = max((KEYS.index(key) for key in self.scope), default=-1)
        for key, name in asked.items():
            if self.scope.get(key, name) != name:
                raise AccessError(f"{key} is fixed to another value here; leave {key!r} out of the scope")
            if key not in self.scope and KEYS.index(key) < innermost:
                raise AccessError(
                    f"expected a scope within {', '.join(self.scope)}, got one with {key!r}, which lies "
                    f"above; leave that out"
                )
        return memory.scope(**self.scope).closed().scope(**asked)

    def call(self, opening: Opening, verb: Verb, arguments: Arguments) -> dict[str, Any]:
        """Does what a verb says, and returns a plain answer.

        Raises:
            AccessError: The caller may not.
            MLLMError: The memory refuses it.
        """
        if not self.allows(verb):
            raise AccessError(f"{verb.name} writes, and this access only reads")
        arguments = self._limited(arguments)
        asked = {str(key): name for key, name in arguments.scope.items()}
        scope = self.narrowed(opening.memory(), asked)
        return plain(verb.run(scope, arguments))

    def _limited(self, arguments: Arguments) -> Arguments:
        """The arguments with no more results than are allowed.

        Raises:
            InvalidInputError: More are asked for.
        """
        fewer = {}
        for name in _COUNTS:
            count = getattr(arguments, name, 0)
            if count > self.most and name in arguments.model_fields_set:
                raise InvalidInputError(f"{name}: expected at most {self.most}, got {count}; ask for fewer")
            if count > self.most:
                fewer[name] = self.most
        return arguments.model_copy(update=fewer) if fewer else arguments
