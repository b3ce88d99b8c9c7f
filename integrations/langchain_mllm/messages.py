"""Messages of LangChain to those of a `MemoryLLM`, and what an answer says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage, SystemMessage
from langchain_core.messages.ai import UsageMetadata

from mllm_plugin.errors import InvalidInputError
from mllm_plugin.memory_llm import Answer

_ROLES = {HumanMessage: "user", AIMessage: "assistant", SystemMessage: "system"}
_BLANK = "…"  # in place of a message without words, which neither a search nor a chat template can do with
_THOUGHTS = ("reasoning", "thinking", "redacted_thinking")


def question_of(messages: Sequence[BaseMessage], query: str | None = None) -> list[dict[str, str]]:
    """The question that messages ask; neighbours of one role become one message.

    Args:
        messages: Oldest first; the last is the user's. With a blank one any chunk may be found.
        query: What the memory is searched by, if not the last message.

    Raises:
        InvalidInputError: A message is of a tool, or holds something other than text.
    """
    turns: list[dict[str, str]] = []
    for message in messages:
        role, text = _role(message), _text(message)
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += f"\n\n{text}"
        else:
            turns.append({"role": role, "content": text})
    for turn in turns:
        if turn["role"] == "user" and not turn["content"].strip():
            turn["content"] = _BLANK
    if query and query.strip() and turns:
        turns[-1]["query"] = query
    return turns


def metadata_of(answer: Answer, model_name: str) -> dict[str, Any]:
    """What goes into `response_metadata`: JSON values; the sources are in the order they were read."""
    sources = [{**asdict(source), "namespace": list(source.namespace)} for source in answer.sources]
    return {
        "model_name": model_name,
        "model_provider": "mllm",
        "finish_reason": answer.finish_reason,
        "mode": answer.mode,
        "sources": sources,
        "dropped": asdict(answer.dropped),
        "memory_tokens": answer.usage.memory_tokens,
        "text_tokens": answer.usage.text_tokens,
    }


def usage_of(answer: Answer) -> UsageMetadata:
    """Tokens read, memory tokens included, and written."""
    read, written = answer.usage.input_tokens, answer.usage.output_tokens
    return UsageMetadata(input_tokens=read, output_tokens=written, total_tokens=read + written)


def _role(message: BaseMessage) -> str:
    if isinstance(message, ChatMessage):
        return message.role
    known = next((role for kind, role in _ROLES.items() if isinstance(message, kind)), None)
    if known is None or (isinstance(message, AIMessage) and message.tool_calls):
        raise InvalidInputError(
            f"a MemoryLLM neither calls tools nor reads what they return, got a message of type "
            f"{message.type!r}{' with tool calls' if known else ''}; give the retriever as a tool to a chat "
            f"model that has bind_tools"
        )
    return known


def _text(message: BaseMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    return "".join(map(_block_text, message.content))


def _block_text(block: str | dict[str, Any]) -> str:
    """The text of a content block; what another model thought is left out."""
    if isinstance(block, str):
        return block
    kind = block.get("type", "text")
    if kind in _THOUGHTS:
        return ""
    if kind != "text" or not isinstance(block.get("text"), str):
        raise InvalidInputError(
            f"a MemoryLLM reads text only, got a content block of type {kind!r}; leave it out, or describe "
            f"it in words"
        )
    return block["text"]
