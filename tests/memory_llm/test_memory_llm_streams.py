"""`MemoryLLM` in batches, piece by piece, and in an event loop."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from mllm_plugin import InvalidInputError

QUESTION = "Which part has the violins number 6?"


def test_batched_equals_single(reader):
    questions = [QUESTION, "What of the lamps?", [{"role": "user", "content": "And the maps number 7?"}]]
    for mode in ("both", "memory", "text"):
        single = [reader.answer(one, mode=mode) for one in questions]
        together = reader.answer_batch(questions, mode=mode)
        assert [replace(one, unknown=None) for one in together] == [
            replace(one, unknown=None) for one in single
        ]
        for one, other in zip(together, single, strict=True):  # padding changes the last digits
            assert one.unknown == (None if mode == "text" else pytest.approx(other.unknown, abs=1e-4))
    assert reader.answer_batch([]) == []


def test_streamed_equals_whole(reader):
    for mode in ("both", "text"):
        stream = reader.stream(QUESTION, mode=mode)
        assert stream.sources == reader.answer(QUESTION, mode=mode).sources
        pieces = list(stream)
        assert stream.answer == reader.answer(QUESTION, mode=mode)
        assert "".join(pieces) == stream.answer.text
    assert reader.stream(QUESTION).answer == reader.answer(QUESTION)


def test_a_closed_stream_has_no_answer(reader):
    stream = reader.stream(QUESTION, max_new_tokens=200)
    next(stream)
    stream.close()
    assert list(stream) == []
    with pytest.raises(InvalidInputError, match="closed before its end"):
        _ = stream.answer
    assert reader.answer(QUESTION).text


async def test_async_twins(reader):
    expected = reader.answer(QUESTION)
    assert await reader.aanswer(QUESTION) == expected
    assert await reader.aanswer_batch([QUESTION, QUESTION]) == [expected, expected]
    stream = reader.astream(QUESTION)
    pieces = [piece async for piece in stream]
    assert "".join(pieces) == expected.text
    assert await stream.answer() == expected
    assert (await reader.astream(QUESTION).started()).sources == expected.sources
    with pytest.raises(InvalidInputError):
        await reader.astream("").answer()


async def test_the_event_loop_goes_on(reader):
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.001)

    task = asyncio.create_task(tick())
    async for _ in reader.astream(QUESTION, max_new_tokens=60):
        pass
    await reader.aanswer(QUESTION, max_new_tokens=60)
    task.cancel()
    assert ticks > 10


async def test_a_stream_left_early_stops_the_model(reader):
    stream = reader.astream(QUESTION, max_new_tokens=200)
    async for _ in stream:
        break
    await stream.aclose()
    assert [piece async for piece in stream] == []
    with pytest.raises(InvalidInputError, match="closed before its end"):
        await stream.answer()
    assert (await reader.aanswer(QUESTION)).text


async def test_time_outs_lose_nothing(reader):
    stream, pieces = reader.astream(QUESTION), []
    with reader.llm.lock:
        for _ in range(3):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext(stream), 0.02)
    pieces = [piece async for piece in stream]
    assert "".join(pieces) == (await stream.answer()).text == reader.answer(QUESTION).text


async def test_closing_while_a_piece_is_awaited(reader):
    stream = reader.astream(QUESTION, max_new_tokens=200)
    await stream.started()
    with reader.llm.lock:
        waiting = asyncio.create_task(anext(stream))
        await asyncio.sleep(0.02)
        waiting.cancel()
        closing = asyncio.create_task(stream.aclose())
        await asyncio.sleep(0.02)
    await asyncio.wait_for(closing, 10)
    assert reader.answer(QUESTION).text


async def test_never_begun(reader):
    await reader.astream(QUESTION).aclose()
    stream = reader.astream("")
    with pytest.raises(InvalidInputError):
        await stream.started()
    await stream.aclose()
