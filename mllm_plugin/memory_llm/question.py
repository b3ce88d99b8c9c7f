"""A question, alone or at the end of a chat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mllm_plugin.errors import InvalidInputError, InvalidTypeError
from mllm_plugin.llm.prompt import merged
from mllm_plugin.text.letters import text_flaw

Question = str | Sequence[Mapping[str, str]]
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Turns:
    """A question with what came before it.

    Attributes:
        question: The user's last words.
        query: What the memory is searched by.
        history: Earlier messages, oldest first, without a system line.
        system: A system message at the beginning, in a tuple; empty without one.
    """

    question: str
    query: str
    history: tuple[Mapping[str, str], ...] = ()
    system: tuple[Mapping[str, str], ...] = ()

    @property
    def messages(self) -> tuple[Mapping[str, str], ...]:
        """All but the question."""
        return (*self.system, *self.history)

    def shortened(self) -> list[Turns]:
        """The same with fewer and fewer of the oldest messages; each history begins with the user."""
        starts = [place for place, message in enumerate(self.history) if message["role"] == "user"]
        places = sorted({0, *starts, len(self.history)})
        return [replace(self, history=self.history[place:]) for place in places]


def turns_of(question: Any) -> Turns:
    """Checks a question or a list of messages; neighbours of one role become one message.

    Raises:
        InvalidInputError: It is empty, no valid Unicode, or does not end with the user's message.
        InvalidTypeError: It is neither text nor messages.
    """
    if isinstance(question, str):
        return Turns(_text(question, "the question"), question)
    if isinstance(question, bytes | Mapping) or not isinstance(question, Sequence):
        raise InvalidTypeError(
            f"a question is a string or a list of messages, got {type(question).__name__} {question!r:.80}"
        )
    messages = merged([_message(message) for message in question])
    if not messages or messages[-1]["role"] != "user":
        raise InvalidInputError(
            f"the last message must be the user's, got {messages[-1]['role'] if messages else 'none'!r}"
        )
    system = tuple(messages[:1]) if messages[0]["role"] == "system" else ()
    history = messages[len(system) : -1]
    if any(message["role"] == "system" for message in history):
        raise InvalidInputError("a system message may only be the first one")
    query = messages[-1].get("query", messages[-1]["content"])
    return Turns(messages[-1]["content"], query, tuple(history), system)


def questions_of(questions: Any) -> list[Turns]:
    """Checks several questions."""
    if isinstance(questions, str | bytes | Mapping) or not isinstance(questions, Sequence):
        raise InvalidTypeError(f"questions are a list, got {type(questions).__name__} {questions!r:.80}")
    return [turns_of(question) for question in questions]


def _message(given: Any) -> dict[str, str]:
    if not isinstance(given, Mapping) or not isinstance(given.get("content"), str):
        raise InvalidTypeError(f"a message has a role and a content, both text, got {given!r:.80}")
    role = given.get("role")
    if role not in _ROLES:
        raise InvalidInputError(f"unknown role {role!r}; expected one of {', '.join(_ROLES)}")
    may_be_empty = role != "user"
    message = {"role": role, "content": _text(given["content"], f"a message of the {role}", may_be_empty)}
    if "query" in given:
        message["query"] = _text(given["query"], "the query of a message")
    return message


def _text(text: Any, what: str, may_be_empty: bool = False) -> str:
    if not isinstance(text, str):
        raise InvalidTypeError(f"{what} must be text, got {type(text).__name__}")
    if not text.strip() and not may_be_empty:
        raise InvalidInputError(f"{what} is empty; expected some words")
    if reason := text_flaw(text):
        raise InvalidInputError(f"{what} {reason}")
    return text
