"""Messages of LlamaIndex to those of a `MemoryLLM`, and its answers to responses of LlamaIndex."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    MessageRole,
    TextBlock,
)
from llama_index.core.prompts import BasePromptTemplate

from mllm_plugin.errors import InvalidInputError
from mllm_plugin.memory_llm import Answer

_QUERY, _HAS_CONTEXT = "mllm_query", "mllm_has_context"
_CONTEXT = ("context_str", "context_msg")  # what templates of query engines call it
_BLANK = "…"  # in place of a message without words, which neither a search nor a chat template can do with
_ROLES = {
    MessageRole.USER: "user",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
}


def question_of(messages: Sequence[ChatMessage], query: str | None = None) -> list[dict[str, str]]:
    """The question that messages ask; neighbours of one role become one message.

    Args:
        messages: Oldest first; the last is the user's.
        query: What the memory is searched by; when left out, what `marked` knows, or the last message.

    Raises:
        InvalidInputError: A message is of a tool, or holds something other than text.
    """
    turns: list[dict[str, str]] = []
    for message in messages:
        role, text = _role(message), "\n".join(_texts(message))
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += f"\n\n{text}"
        else:
            turns.append({"role": role, "content": text})
    for turn in turns:
        if turn["role"] == "user" and not turn["content"].strip():
            turn["content"] = _BLANK
    query = query or (messages[-1].additional_kwargs.get(_QUERY) if messages else None)
    if query and query.strip() and turns:
        turns[-1]["query"] = query
    return turns


def prompt_of(text: str, query: str | None = None) -> Any:
    """The question that a prompt asks; `query` as in `question_of`."""
    return question_of([ChatMessage(role=MessageRole.USER, content=text)], query)


def marked(messages: list[ChatMessage], template: BasePromptTemplate, given: Mapping[str, Any]) -> None:
    """Notes in the last message of a filled template which question it asks, and that it holds context."""
    filled = {**template.kwargs, **given}
    found = {_QUERY: filled.get("query_str"), _HAS_CONTEXT: any(filled.get(name) for name in _CONTEXT)}
    notes = {name: value for name, value in found.items() if value}
    if messages and notes:
        own = messages[-1].additional_kwargs
        messages[-1] = messages[-1].model_copy(update={"additional_kwargs": {**own, **notes}})


def has_context(messages: Sequence[ChatMessage]) -> bool:
    """Whether a template has put retrieved text into the last message."""
    return bool(messages) and bool(messages[-1].additional_kwargs.get(_HAS_CONTEXT))


def completion_of(text: str, answer: Answer | None, delta: str | None = None) -> CompletionResponse:
    """A completion; until the answer is there, what is known of its text."""
    return CompletionResponse(text=text, delta=delta, **_about(answer))


def chat_response_of(text: str, answer: Answer | None, delta: str | None = None) -> ChatResponse:
    """A chat's response; nothing of ours in the message, which may become part of another prompt."""
    message = ChatMessage(role=MessageRole.ASSISTANT, content=text)
    return ChatResponse(message=message, delta=delta, **_about(answer))


def _about(answer: Answer | None) -> dict[str, Any]:
    if answer is None:
        return {}
    raw = answer.to_dict()
    known = {name: raw[name] for name in ("sources", "mode", "finish_reason", "dropped")}
    return {"raw": raw, "additional_kwargs": {**known, **raw["usage"]}}


def _role(message: ChatMessage) -> str:
    if message.role not in _ROLES:
        raise InvalidInputError(
            f"a MemoryLLM neither calls tools nor reads what they return, got a message of role "
            f"{message.role.value!r}; give the retriever as a tool to an LLM that calls functions"
        )
    return _ROLES[message.role]


def _texts(message: ChatMessage) -> list[str]:
    """Texts of a message; what another model thought is left out."""
    blocks = [block for block in message.blocks if getattr(block, "block_type", "") != "thinking"]
    for block in blocks:
        if not isinstance(block, TextBlock):
            raise InvalidInputError(
                f"a MemoryLLM reads text only, got a {type(block).__name__}; leave it out, or describe it in "
                f"words"
            )
    return [block.text for block in blocks if isinstance(block, TextBlock)]
