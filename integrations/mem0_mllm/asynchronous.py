"""`AsyncMemory`: `Memory` without blocking the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from typing_extensions import Self

from mem0_mllm.memory import Extract, Memory
from mllm_plugin.agent import AgentMemory

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _awaited(
    call: Callable[Concatenate[Memory, _P], _R],
) -> Callable[Concatenate[AsyncMemory, _P], Coroutine[Any, Any, _R]]:
    """The same call in a worker thread."""

    @wraps(call)
    async def awaited(self: AsyncMemory, *args: _P.args, **options: _P.kwargs) -> _R:
        return await asyncio.to_thread(call, self.inner, *args, **options)

    return awaited


class AsyncMemory:
    """`Memory` with calls to await.

    Args:
        config, memory, extract: As for `Memory`; `extract` runs in a worker thread.

    Attributes:
        inner: The `Memory` that does the work.
    """

    def __init__(
        self, config: Any = None, *, memory: AgentMemory | None = None, extract: Extract | None = None
    ) -> None:
        self.inner = Memory(config, memory=memory, extract=extract)

    @classmethod
    def from_config(cls, config_dict: dict[str, Any], *, extract: Extract | None = None) -> Self:
        """As `Memory.from_config`."""
        return cls(config_dict, extract=extract)

    add = _awaited(Memory.add)
    update = _awaited(Memory.update)
    get = _awaited(Memory.get)
    get_all = _awaited(Memory.get_all)
    search = _awaited(Memory.search)
    history = _awaited(Memory.history)
    delete = _awaited(Memory.delete)
    delete_all = _awaited(Memory.delete_all)
    reset = _awaited(Memory.reset)

    def close(self) -> None:
        """As `Memory.close`."""
        self.inner.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()
