"""An agent memory behind a conversation: a block of LlamaIndex's `Memory`."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, MessageRole, TextBlock
from llama_index.core.memory.memory import BaseMemoryBlock
from llama_index.core.utils import get_tokenizer
from pydantic import ConfigDict, Field, PrivateAttr
from typing_extensions import Self

from llama_index_mllm.copies import sharing
from mllm_plugin.agent import AgentScope
from mllm_plugin.agent.prompting import query_of
from mllm_plugin.errors import InvalidTypeError

_SHORTEST = 40  # characters of a line that is cut; less says nothing


class HierarchicalMemoryBlock(BaseMemoryBlock[str]):
    """What no longer fits into a chat, and all else that a scope remembers, for LlamaIndex's `Memory`.

    Messages that leave the chat history are remembered word for word, without a language model, each in the
    scope of its session. A turn gets those items that best answer its last messages, a line each, best first;
    facts that were remembered otherwise are found too. Where too much is left for the token limit, the least
    relevant lines go first, and a block of priority 0 is never cut.

    As JSON it holds its options and the names of its scope; `HierarchicalMemoryBlock(memory, **fields)` makes
    it again. A copy shares the memory; pickling is refused.

    Args:
        memory: The scope of a user, as `AgentMemory.scope(user=...)` gives it, or a whole `AgentMemory`.
        scope: Names that narrow it, such as `{"user": "ann"}`.
        k: Most items of a turn.
        budget_tokens: Most tokens of a turn; None for no bound.
        min_relevance: Least relevance of an item, from 0 to 1.
        across_sessions: Find what was said in other sessions of the scope too.
        roles: Whose messages are remembered.
        tokenizer: Gives the tokens of a text, as `Memory` counts them; LlamaIndex's own when left out.
        name: Of the block.
        **options: Other fields of `BaseMemoryBlock`: `description`, `priority`, `accept_short_term_memory`.
    """

    model_config = ConfigDict(extra="forbid")

    name: str = "HierarchicalMemory"
    scope: dict[str, str] = Field(default_factory=dict)
    k: int = Field(default=10, ge=1)
    budget_tokens: int | None = Field(default=600, ge=1)
    min_relevance: float | None = Field(default=None, ge=0, le=1)
    across_sessions: bool = True
    roles: tuple[MessageRole, ...] = (MessageRole.USER, MessageRole.ASSISTANT)

    _memory: AgentScope = PrivateAttr()
    _tokenizer: Callable[[str], Sequence[Any]] = PrivateAttr()

    def __init__(
        self,
        memory: AgentScope,
        *,
        scope: Mapping[str, str] | None = None,
        tokenizer: Callable[[str], Sequence[Any]] | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(memory, AgentScope):
            raise InvalidTypeError(
                f"memory is an AgentMemory or a scope of one, got {type(memory).__name__}; a MemoryIndex "
                f"becomes one with AgentMemory(index)"
            )
        if scope is not None and not isinstance(scope, Mapping):
            raise InvalidTypeError(f"scope is a dictionary such as {{'user': 'ann'}}, got {scope!r}")
        bound = memory.scope(**scope) if scope else memory
        super().__init__(scope=bound.names, **options)  # type: ignore[call-arg]
        self._memory, self._tokenizer = bound, tokenizer or get_tokenizer()

    @property
    def memory(self) -> AgentScope:
        """The scope that it reads and writes."""
        return self._memory

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return super().__deepcopy__(sharing(memo, self._memory, self._tokenizer))

    def __getstate__(self) -> dict[Any, Any]:
        raise InvalidTypeError(
            "a HierarchicalMemoryBlock holds an open memory and cannot be pickled; keep block.model_dump() "
            "and make it again with HierarchicalMemoryBlock(memory, **fields)"
        )

    async def _aget(
        self, messages: list[ChatMessage] | None = None, session_id: str | None = None, **block_kwargs: Any
    ) -> str:
        query = query_of([_text(message) for message in messages or () if message.role in self.roles])
        if not query:
            return ""
        scope = self._memory if self.across_sessions else self._of_session(session_id)
        found = await scope.arecall(query, k=self.k, min_relevance=self.min_relevance)
        lines = [item.line() for item in found]
        return "\n".join(lines) if self.budget_tokens is None else self._fitting(lines, self.budget_tokens)

    async def _aput(self, messages: list[ChatMessage]) -> None:
        said: dict[str | None, list[dict[str, str]]] = {}
        for message in messages:
            if message.role in self.roles and (text := _text(message)):
                session = message.additional_kwargs.get("session_id")
                said.setdefault(session, []).append({"text": text, "speaker": message.role.value})
        for session, items in said.items():
            await self._of_session(session).aremember_many(items)

    async def atruncate(self, content: str, tokens_to_truncate: int) -> str | None:
        """Leaves out the last lines, which are the least relevant, and the end of the first if need be.

        Args:
            content: What the block gave.
            tokens_to_truncate: At least so many tokens less.

        Returns:
            The text that is left; None where nothing is.
        """
        if not content:
            return None
        return self._fitting(content.split("\n"), self._count(content) - tokens_to_truncate) or None

    def _of_session(self, session: str | None) -> AgentScope:
        bound = "session" in self._memory.names
        return self._memory if bound or not session else self._memory.scope(session=session)

    def _count(self, text: str) -> int:
        return len(self._tokenizer(text))

    def _fitting(self, lines: Sequence[str], most: int) -> str:
        """The first lines that come to at most so many tokens, or the beginning of the very first."""
        kept = bisect_right(range(1, len(lines) + 1), most, key=lambda n: self._count("\n".join(lines[:n])))
        if kept or not lines:
            return "\n".join(lines[:kept])
        whole = lines[0]
        cut = bisect_right(range(1, len(whole) + 1), most, key=lambda n: self._count(whole[:n]))
        return whole[:cut].rstrip() if cut >= _SHORTEST else ""


def _text(message: ChatMessage) -> str:
    """What a message says, as it can be stored; empty where that is nothing."""
    text = "\n".join(block.text for block in message.blocks if isinstance(block, TextBlock))
    return text.encode("utf-8", "replace").decode("utf-8").strip()
