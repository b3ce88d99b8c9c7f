"""What one caller may do: the scope it is bound to, whether it writes, how much it asks for."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mllm_plugin.errors import InvalidInputError, NotFoundError
from mllm_plugin.serving.answers import plain
from mllm_plugin.serving.opening import Opening
from mllm_plugin.serving.problems import AccessError
from mllm_plugin.serving.verbs import KEYS, Arguments, Verb

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
                f"expected a scope within {', '.join(self.scope)}, got one with {', '.join(asked)}, which "
                f"lies above; leave that out"
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
        scope = self.narrowed(opening.memory(warm=verb.embeds), dict(arguments.scope))
        self._check_ids(scope, arguments)
        return plain(verb.run(scope, arguments, self._within()))

    def _within(self) -> tuple[str, ...] | None:
        """How far out a recall falls through: to what the access is bound to, and no further."""
        first = max((KEYS.index(key) for key in self.scope), default=None)
        return None if first is None else KEYS[first:]

    def _check_ids(self, scope: AgentScope, arguments: Arguments) -> None:
        """Refuses an id that a scope finds further out, as if it were not there.

        Raises:
            NotFoundError: It lies outside.
        """
        for name in ("id", "supersedes"):
            asked, found = getattr(arguments, name, None), None
            if asked is None or not self.scope:
                continue
            with suppress(NotFoundError):  # the verb says so, or makes it
                found = scope.get(asked)
            if found is not None and any(found.scope.get(key) != one for key, one in self.scope.items()):
                raise NotFoundError(f"no memory {asked!r} in this scope; `list` shows what there is")
