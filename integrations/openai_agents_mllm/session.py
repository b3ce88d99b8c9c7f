"""A conversation of the OpenAI Agents SDK in a scope of an agent memory."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from agents import TResponseInputItem
from agents.memory import SessionABC, SessionSettings

from mllm_plugin.agent import AgentScope, Forgotten, Memory
from mllm_plugin.errors import InvalidTypeError
from openai_agents_mllm.items import ITEM, is_shown, item_of, remembered

_log = logging.getLogger(__name__)


class HierarchicalMemorySession(SessionABC):
    """A `Session` whose items are also memories: `Runner.run(agent, "...", session=session)`.

    Items come back as they were given, in order, and every one of a call is stored, or none. What has a text
    is found by `recall`, in this session and by the scopes around it, such as the user's; calls of tools,
    pictures and reasoning are kept and not found. What is popped or cleared is erased from every file. What
    was hidden with `AgentScope.hide` or has expired is not shown to a model either.

    Args:
        session_id: Names the conversation.
        memory: The scope that it lies in, such as `AgentMemory.scope(user=...)`, or a whole `AgentMemory`.
        session_settings: Of the SDK: `SessionSettings(limit=...)` bounds what a turn gets.

    Attributes:
        scope: The scope of this session.
    """

    session_settings: SessionSettings | None = None

    def __init__(
        self, session_id: str, memory: AgentScope, *, session_settings: SessionSettings | None = None
    ) -> None:
        if not isinstance(memory, AgentScope):
            raise InvalidTypeError(
                f"memory is an AgentMemory or a scope of one, got {type(memory).__name__}; a MemoryIndex "
                f"becomes one with AgentMemory(index)"
            )
        if not isinstance(session_id, str):  # None would be the whole scope, with every session in it
            raise InvalidTypeError(f"session_id is a string, got {session_id!r}")
        self.session_id = session_id
        self.session_settings = session_settings or SessionSettings()
        self.scope = memory.scope(session=session_id)

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        """The items, oldest first.

        Args:
            limit: Only so many of the last; as the settings have it when left out.
        """
        if limit is None and self.session_settings is not None:
            limit = self.session_settings.limit
        if limit is not None and not isinstance(limit, int):
            raise InvalidTypeError(f"limit is a number of items, got {limit!r}")
        found = await asyncio.to_thread(self._items)
        return [item_of(one) for one in (found if limit is None else found[max(0, len(found) - limit) :])]

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        """Adds items behind the last one.

        Raises:
            InvalidTypeError: One is not made of JSON values; none was added.
        """
        if items is not None and not isinstance(items, list | tuple):
            raise InvalidTypeError(f"items is a list of dictionaries, got {type(items).__name__}")
        if items:
            await self.scope.aremember_many([remembered(item) for item in items])

    async def pop_item(self) -> TResponseInputItem | None:
        """Erases the last item and returns it; None where there is none. No two callers get the same one."""
        return await asyncio.to_thread(self._pop)

    async def clear_session(self) -> None:
        """Erases all items of the session."""
        _report(await self.scope.aforget(filter={ITEM: {"$exists": True}}))

    def _items(self) -> list[Memory]:
        found = self.scope.list(order=None, limit=None, filter={ITEM: {"$exists": True}}, masked=None)
        return [one for one in found if is_shown(one)]

    def _pop(self) -> Any:
        while found := self._items():
            report = self.scope.forget(found[-1].id)
            if any(one.documents for one in report.reports):
                _report(report)
                return item_of(found[-1])
        return None


def _report(report: Forgotten) -> None:
    """The protocol has no room for a report, so what is not erased yet is logged."""
    if not report.erased:
        _log.warning("out of the session, but not erased from every file yet: %s", report.reason)
