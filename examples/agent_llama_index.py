"""A LlamaIndex agent that remembers across sessions, and forgets on request.

Runs offline: a scripted model stands in for one that calls functions; put any other in its place.
"""

import asyncio
from collections.abc import Callable, Sequence
from tempfile import TemporaryDirectory
from typing import Any

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ToolCallBlock
from llama_index.core.llms import ChatMessage
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.memory import Memory
from llama_index_mllm import HierarchicalMemoryBlock

from mllm_plugin import AgentMemory
from mllm_plugin.agent import AgentScope, memory_functions

Reply = Callable[[Sequence[ChatMessage]], ChatMessage]


def said(text: str) -> ChatMessage:
    """What the model says."""
    return ChatMessage(role="assistant", content=text)


def calling(tool: str, argument: Callable[[], dict[str, Any]]) -> Reply:
    """A model that calls a tool, and then says what the tool gave."""

    def reply(messages: Sequence[ChatMessage]) -> ChatMessage:
        if messages[-1].role == "tool":
            return said(messages[-1].content or "")
        call = ToolCallBlock(tool_call_id="call-1", tool_name=tool, tool_kwargs=argument())
        return ChatMessage(role="assistant", blocks=[call])

    return reply


def reading(messages: Sequence[ChatMessage]) -> ChatMessage:
    """A model that reads what the memory put above the chat."""
    above = "\n".join(message.content or "" for message in messages if message.role == "system")
    noted = [line for line in above.splitlines() if "peanuts" in line]
    return said(noted[0] if noted else "I do not know.")


async def converse(ann: AgentScope, session: str, question: str, reply: Reply) -> None:
    """A conversation of its own: a new chat history, the same memory."""
    llm = MockFunctionCallingLLM(response_generator=lambda messages, **_: reply(messages))
    agent = FunctionAgent(llm=llm, tools=memory_functions(ann), streaming=False)
    history = Memory.from_defaults(session_id=session, memory_blocks=[HierarchicalMemoryBlock(ann)])
    answer = await agent.run(question, memory=history)
    print(f"{session}: {question}\n  -> {answer}")


async def main(ann: AgentScope) -> None:
    """Three conversations."""
    fact = "Ann is allergic to peanuts."
    await converse(
        ann, "monday", "Note that I cannot eat peanuts.", calling("remember", lambda: {"text": fact})
    )
    await converse(ann, "tuesday", "What am I allergic to?", reading)
    forget = calling("forget", lambda: {"id": ann.recall("allergy")[0].id})
    await converse(ann, "wednesday", "Forget my allergy.", forget)
    await converse(ann, "thursday", "What am I allergic to?", reading)


if __name__ == "__main__":
    with TemporaryDirectory() as folder, AgentMemory.open(folder) as memory:
        asyncio.run(main(memory.scope(user="ann")))
