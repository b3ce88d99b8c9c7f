"""Answers piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from threading import Event

from mllm_plugin.errors import InvalidInputError
from mllm_plugin.llm.generate import Generated
from mllm_plugin.memory_llm.answer import Answer, AnswerMode, Source
from mllm_plugin.memory_llm.plan import Plan


class AnswerStream(Iterator[str]):
    """Pieces of an answer; together they are its text. Closing it stops the model.

    Attributes:
        sources: What the model reads, known before the first piece.
        mode: What it reads with.
    """

    def __init__(
        self,
        plan: Plan,
        pieces: Generator[str | Generated],
        finish: Callable[[Plan, Generated], Answer],
        closed: Event,
    ) -> None:
        self.sources: tuple[Source, ...] = tuple(plan.sources())
        self.mode: AnswerMode = plan.mode
        self._plan, self._pieces, self._finish, self._closed = plan, pieces, finish, closed
        self._answer: Answer | None = None

    def __next__(self) -> str:
        if not self._closed.is_set():
            for piece in self._pieces:
                if self._closed.is_set():
                    break
                if isinstance(piece, str):
                    return piece
                self._answer = self._finish(self._plan, piece)
        raise StopIteration

    @property
    def answer(self) -> Answer:
        """The whole; waits for what has not come yet.

        Raises:
            InvalidInputError: The stream was closed before its end.
        """
        for _ in self:
            pass
        if self._answer is None:
            raise InvalidInputError("the stream was closed before its end, so there is no answer; ask again")
        return self._answer

    def close(self) -> None:
        """Stops the model; another thread may be waiting for a piece."""
        self._closed.set()


class AsyncAnswerStream(AsyncIterator[str]):
    """Pieces of an answer without blocking the event loop; awaiting the first one searches the memory.

    What is cancelled while it waits, by a time-out for instance, may be awaited again and loses nothing.
    """

    def __init__(self, start: Callable[[], AnswerStream]) -> None:
        self._start = start
        self._starting: asyncio.Future[AnswerStream] | None = None
        self._next: asyncio.Future[str | None] | None = None

    async def __anext__(self) -> str:
        stream = await self.started()
        if self._next is None:
            self._next = asyncio.ensure_future(asyncio.to_thread(next, stream, None))
        piece = await asyncio.shield(self._next)
        self._next = None
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def started(self) -> AnswerStream:
        """The stream, its sources known."""
        if self._starting is None:
            self._starting = asyncio.ensure_future(asyncio.to_thread(self._start))
        return await asyncio.shield(self._starting)

    async def answer(self) -> Answer:
        """The whole; waits for what has not come yet."""
        async for _ in self:
            pass
        stream = await self.started()
        return stream.answer

    async def aclose(self) -> None:
        """Stops the model."""
        for waiting in (self._starting, self._next):
            if self._starting is not None and self._starting.done() and not self._starting.exception():
                self._starting.result().close()
            if waiting is not None:
                await asyncio.gather(waiting, return_exceptions=True)
