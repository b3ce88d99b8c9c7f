"""Answers as plain JSON values, and cut to what a context has room for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import date
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

_UNASKED = ("score", "created_at", "updated_at", "valid_from", "level")
_LEAST = 80  # characters of a text that is cut


def plain(value: Any) -> Any:
    """The value as JSON knows it: dataclasses as objects without their empty fields, times as ISO 8601."""
    if is_dataclass(value) and not isinstance(value, type):
        shown = {one.name: plain(getattr(value, one.name)) for one in fields(value) if one.repr}
        return {name: one for name, one in shown.items() if one not in (None, (), [], {}, "")}
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Enum | Path):
        return plain(value.value) if isinstance(value, Enum) else str(value)
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, str | int | bool) or value is None:
        return value
    return value.item() if isinstance(value, np.generic) else str(value)


def brief(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer without what a language model does not ask for: scores, times of writing, first versions."""
    items = [_briefly(one) for one in answer.get("items", [])]
    return {**answer, "items": items} if items else answer


def _briefly(item: dict[str, Any]) -> dict[str, Any]:
    shown = {name: value for name, value in item.items() if name not in _UNASKED}
    if shown.get("version") == 1:
        del shown["version"]
    if "faces" in shown:
        shown["faces"] = [face["text"] for face in shown["faces"]]
    return shown


def compact(value: Any) -> str:
    """JSON with nothing to spare."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def fitted(answer: dict[str, Any], room: int) -> str:
    """The answer in at most about `room` characters: long texts are cut and said to be, then items left out.

    Args:
        answer: Plain; its longest list, best first, is what is cut.
        room: Characters.
    """
    said = compact(answer)
    if len(said) <= room:
        return said
    lists = {name: one for name, one in answer.items() if isinstance(one, list)}
    name = max(lists, key=lambda name: len(compact(lists[name])), default="items")
    items = lists.get(name, [])
    share = max(_LEAST, room // max(1, len(items)) * 2 // 3)
    cut = {key: _cut(one, share) for key, one in answer.items()}
    while len(said := compact(cut)) > room and len(cut.get(name, ())) > 1:
        keep = max(1, min(len(cut[name]) - 1, len(cut[name]) * room // len(said)))
        cut = {**cut, name: cut[name][:keep], "left_out": len(items) - keep}
    return said


def _cut(value: Any, share: int) -> Any:
    """A value whose texts are no longer than this; the object that had a longer one says so."""
    if isinstance(value, str):
        return value if len(value) <= share else f"{value[:share].rstrip()}…"
    if isinstance(value, list):
        return [_cut(one, share) for one in value]
    if not isinstance(value, dict):
        return value
    shown = {name: _cut(one, share) for name, one in value.items()}
    longer = any(isinstance(one, str) and len(one) > share for one in value.values())
    return {**shown, "truncated": True} if longer else shown
