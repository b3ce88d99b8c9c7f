"""Items of a conversation as items of a memory: the text is found, the dictionary comes back as it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mllm_plugin.agent import Memory
from mllm_plugin.errors import InvalidTypeError

ITEM = "openai_item"  # of the metadata: the dictionary as JSON
SILENT = "openai:no text"  # the mask of what says nothing, such as a call of a tool


def remembered(item: Any) -> dict[str, Any]:
    """An item as arguments of `AgentScope.remember`.

    Raises:
        InvalidTypeError: It is not made of JSON values.
    """
    try:
        stored = json.dumps(dict(item))
    except (TypeError, ValueError) as error:
        raise InvalidTypeError(
            f"an item of a session is a dictionary of JSON values, got {item!r:.200} ({error})"
        ) from error
    text = _text(item)
    return {
        "text": text or _label(item),
        "kind": "message",
        "speaker": item.get("role", "tool") if text else None,
        "metadata": {ITEM: stored},
        "mask": None if text else SILENT,
    }


def item_of(memory: Memory) -> Any:
    """The item as it was given."""
    return json.loads(memory.metadata[ITEM])


def is_shown(memory: Memory) -> bool:
    """Whether nobody has hidden it, and it has not expired."""
    return set(memory.masks) <= {SILENT}


def _text(item: Mapping[str, Any]) -> str:
    """What is said or was answered; empty for calls, pictures and what a model thought."""
    if item.get("type") == "reasoning":
        return ""
    said = item.get("content") or item.get("output")
    parts = [said] if isinstance(said, str) else said if isinstance(said, list) else []
    texts = [part.get("text") if isinstance(part, Mapping) else part for part in parts]
    return _storable("\n".join(text for text in texts if isinstance(text, str)))


def _label(item: Mapping[str, Any]) -> str:
    return _storable(" ".join(str(item.get(key) or "") for key in ("type", "name", "arguments"))) or "item"


def _storable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8").strip()
