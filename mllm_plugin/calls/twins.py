"""Async twins: the same call in a worker thread, under the same signature."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any, Concatenate, ParamSpec, TypeVar

_Self = TypeVar("_Self")
_P = ParamSpec("_P")
_R = TypeVar("_R")
_AT_ONCE = 64  # items that a thread fetches before the loop gets them


def twin(
    call: Callable[Concatenate[_Self, _P], _R],
) -> Callable[Concatenate[_Self, _P], Coroutine[Any, Any, _R]]:
    """A method's async twin: `asearch = twin(search)`. In a subclass it calls the subclass's own method."""

    async def awaited(self: Any, *args: Any, **options: Any) -> Any:  # its docstring comes from `like`
        return await asyncio.to_thread(getattr(self, call.__name__), *args, **options)

    return like(call)(awaited)


def class_twin(
    call: Callable[Concatenate[type[_Self], _P], _R],
) -> classmethod[_Self, _P, Coroutine[Any, Any, _R]]:
    """`twin` of a class method, within its class."""
    return classmethod(twin(getattr(call, "__func__", call)))


def iterator_twin(
    call: Callable[Concatenate[_Self, _P], Iterator[_R]],
) -> Callable[Concatenate[_Self, _P], AsyncIterator[_R]]:
    """`twin` of a method that yields: an async iterator."""

    def iterated(self: Any, *args: Any, **options: Any) -> Any:
        return _pulled(getattr(self, call.__name__)(*args, **options))

    return like(call)(iterated)


def like(
    call: Callable[Concatenate[_Self, _P], Any],
) -> Callable[[Callable[..., _R]], Callable[Concatenate[_Self, _P], _R]]:
    """Gives an async method the name, signature and docstring of the method that it is the twin of."""

    def named(awaited: Callable[..., _R]) -> Callable[Concatenate[_Self, _P], _R]:
        signature, plain = inspect.signature(call), not inspect.iscoroutinefunction(awaited)
        if plain:
            signature = signature.replace(return_annotation=f"Async{signature.return_annotation}")
        awaited.__name__ = f"a{call.__name__}"
        awaited.__qualname__ = f"{call.__qualname__.rpartition('.')[0]}.{awaited.__name__}"
        awaited.__module__ = call.__module__
        first = awaited.__doc__ or f"`{call.__name__}` without blocking the event loop."
        awaited.__doc__ = f"{first}\n\n{call.__doc__}"
        awaited.__signature__ = signature  # type: ignore[attr-defined]
        awaited.twin_of = call.__name__  # type: ignore[attr-defined]
        return awaited

    return named


async def _pulled(items: Iterator[_R]) -> AsyncIterator[_R]:
    try:
        while batch := await asyncio.to_thread(lambda: list(islice(items, _AT_ONCE))):
            for item in batch:
                yield item
    finally:
        with suppress(ValueError):  # a thread may still be in it; it ends with the last reference
            items.close()  # type: ignore[attr-defined]
