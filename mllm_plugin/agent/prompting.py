"""What a conversation asks a memory for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mllm_plugin.errors import InvalidTypeError

_LAST = 2  # messages: the last one may be "yes, that one"
_LONGEST = 1000  # characters of each


def query_of(messages: str | Sequence[Any]) -> str:
    """The text of the last messages; empty where there is none.

    Raises:
        InvalidTypeError: A message has no content.
    """
    several = isinstance(messages, Iterable) and not isinstance(messages, str | Mapping)
    given = list(messages) if several else [messages]
    texts = [text for message in given if (text := _text(message).strip())]
    return "\n".join(text[-_LONGEST:] for text in texts[-_LAST:])


def _text(message: Any) -> str:
    if isinstance(message, str):
        return message
    named = message.get("content") if isinstance(message, Mapping) else getattr(message, "content", None)
    if isinstance(named, str):
        return named
    if isinstance(named, Sequence):
        texts = [part.get("text") if isinstance(part, Mapping) else part for part in named]
        return " ".join(text for text in texts if isinstance(text, str))
    if named is None and isinstance(message, Mapping) and "content" in message:
        return ""
    raise InvalidTypeError(
        f"a message is a text, a dictionary with 'content' or an object with .content, got "
        f"{type(message).__name__}"
    )
