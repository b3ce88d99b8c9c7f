"""Answers piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Iterator

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
        self, plan: Plan, pieces: Generator[str | Generated], finish: Callable[[Plan, Generated], Answer]
    ) -> None:
        self.sources: tuple[Source, ...] = tuple(plan.sources())
        self.mode: AnswerMode = plan.mode
        self._plan, self._pieces, self._finish = plan, pieces, finish
        self._answer: Answer | None = None

    def __next__(self) -> str:
        for piece in self._pieces:
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
        """Stops the model."""
        self._pieces.close()


class AsyncAnswerStream(AsyncIterator[str]):
    """Pieces of an answer without blocking the event loop; awaiting the first one searches the memory."""

    def __init__(self, start: Callable[[], AnswerStream]) -> None:
        self._start = start
        self._stream: AnswerStream | None = None

    async def __anext__(self) -> str:
        stream = await self.started()
        piece = await asyncio.to_thread(next, stream, None)
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def started(self) -> AnswerStream:
        """The stream, its sources known."""
        if self._stream is None:
            self._stream = await asyncio.to_thread(self._start)
        return self._stream

    async def answer(self) -> Answer:
        """The whole; waits for what has not come yet."""
        stream = await self.started()
        return await asyncio.to_thread(lambda: stream.answer)

    async def aclose(self) -> None:
        """Stops the model."""
        if self._stream is not None:
            await asyncio.to_thread(self._stream.close)
