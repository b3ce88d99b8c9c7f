"""A scripted model for the OpenAI Agents SDK."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from agents import ModelResponse, Usage
from agents.models.interface import Model
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseOutputText,
)

Reply = Callable[[list[dict[str, Any]]], Any]


def says(text: str) -> ResponseOutputMessage:
    part = ResponseOutputText(text=text, type="output_text", annotations=[], logprobs=[])
    return ResponseOutputMessage(
        id="m1", type="message", role="assistant", content=[part], status="completed"
    )


def calls(tool: str, **arguments: Any) -> ResponseFunctionToolCall:
    return ResponseFunctionToolCall(
        id="f1", call_id="c1", type="function_call", name=tool, arguments=json.dumps(arguments)
    )


class Scripted(Model):
    """Gives one reply after the other: outputs, functions of what it is given, or errors.

    Attributes:
        inputs: What it was given each time.
    """

    def __init__(self, *replies: Any) -> None:
        self._replies, self.inputs = list(replies), list[Any]()

    async def get_response(self, system_instructions: Any, input: Any, *rest: Any, **more: Any) -> Any:
        return ModelResponse(output=[self._next(input)], usage=Usage(), response_id=None)

    async def stream_response(
        self, system_instructions: Any, input: Any, *rest: Any, **more: Any
    ) -> AsyncIterator[Any]:
        response = Response(
            id="r1",
            created_at=1,
            model="scripted",
            object="response",
            output=[self._next(input)],
            tool_choice="none",
            tools=[],
            parallel_tool_calls=False,
        )
        yield ResponseCompletedEvent(type="response.completed", response=response, sequence_number=0)

    def _next(self, given: Any) -> Any:
        self.inputs.append(given)
        reply = self._replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply(given) if callable(reply) else reply
