"""Items of a conversation as items of a memory: the text is found, the dictionary comes back as it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mllm_plugin.agent import Memory
from mllm_plugin.errors import InvalidTypeError

ITEM = "openai_item"  # of the metadata: the dictionary as JSON, without the texts that the memory has
LENGTHS = "openai_texts"  # of the metadata: characters of each of these texts
_ELSEWHERE = "…"  # in the place of a text that the memory has
SILENT = "openai:no text"  # the mask of what says nothing, such as a call of a tool


def remembered(item: Any) -> dict[str, Any]:
    """An item as arguments of `AgentScope.remember`.

    Raises:
        InvalidTypeError: It is not made of JSON values.
    """
    try:
        given = json.loads(json.dumps(dict(item)))
    except (TypeError, ValueError) as error:
        raise InvalidTypeError(
            f"an item of a session is a dictionary of JSON values, got {item!r:.200} ({error})"
        ) from error
    texts = _texts(given)
    text = "\n".join(texts)
    said = _storable(text)
    metadata: dict[str, Any] = {ITEM: json.dumps(given)}
    if said and said == text:  # kept once: what is changed or erased in the memory is nowhere else
        metadata = {
            ITEM: json.dumps(_with_texts(given, [_ELSEWHERE] * len(texts))),
            LENGTHS: list(map(len, texts)),
        }
    return {
        "text": said or _label(given),
        "kind": "message",
        "speaker": str(given.get("role") or "tool") if said else None,
        "metadata": metadata,
        "mask": None if said else SILENT,
    }


def item_of(memory: Memory) -> Any:
    """The item as it was given; where the memory's text was changed since, with that."""
    item, lengths = json.loads(memory.metadata[ITEM]), memory.metadata.get(LENGTHS)
    texts = _texts(item)
    if lengths is None:
        said = _storable("\n".join(texts))
        return item if said in ("", memory.text) else _with_texts(item, _cut(memory.text, len(texts)))
    return _with_texts(item, _cut(memory.text, len(texts), lengths))


def is_shown(memory: Memory) -> bool:
    """Whether nobody has hidden it, and it has not expired."""
    return set(memory.masks) <= {SILENT}


def _texts(item: Mapping[str, Any]) -> list[str]:
    """What is said or was answered; nothing for calls, pictures and what a model thought."""
    texts: list[str] = []

    def note(text: str) -> str:
        texts.append(text)
        return text

    _replaced(item, note)
    return texts


def _with_texts(item: Mapping[str, Any], texts: Sequence[str]) -> dict[str, Any]:
    """The item with other texts in the places of its own."""
    following = iter(texts)
    return _replaced(item, lambda _: next(following))


def _replaced(item: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """The item with each of its texts changed, in order."""
    key = "content" if item.get("content") or "output" not in item else "output"
    said = item.get(key)
    if item.get("type") == "reasoning" or not isinstance(said, str | list):
        return dict(item)
    return {**item, key: change(said) if isinstance(said, str) else [_part(one, change) for one in said]}


def _part(part: Any, change: Callable[[str], str]) -> Any:
    if isinstance(part, str):
        return change(part)
    if isinstance(part, Mapping) and isinstance(part.get("text"), str):
        return {**part, "text": change(part["text"])}
    return part


def _cut(text: str, count: int, lengths: Sequence[int] = ()) -> list[str]:
    """A text as so many: of these lengths where it has them, else all in the first."""
    ends = [sum(lengths[: place + 1]) + place for place in range(len(lengths))]
    fits = bool(ends) and ends[-1] == len(text) and all(text[end] == "\n" for end in ends[:-1])
    if not fits:
        return [text, *[""] * (count - 1)]
    return [text[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def _label(item: Mapping[str, Any]) -> str:
    return _storable(" ".join(str(item.get(key) or "") for key in ("type", "name", "arguments"))) or "item"


def _storable(text: str) -> str:
    """The text as a memory can have it; empty where it says nothing."""
    return text.encode("utf-8", "replace").decode("utf-8") if text.strip() else ""
