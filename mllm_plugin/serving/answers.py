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


def compact(value: Any) -> str:
    """JSON with nothing to spare."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def fitted(answer: dict[str, Any], room: int) -> str:
    """The answer in at most about `room` characters: long texts are cut and said to be, then items left out.

    Args:
        answer: Plain; "items" in it, best first, are what is cut.
        room: Characters.
    """
    said = compact(answer)
    if len(said) <= room:
        return said
    items = answer.get("items", [])
    share = max(_LEAST, room // max(1, len(items)) * 2 // 3)
    cut = {**answer, "items": [_cut(one, share) for one in items]}
    while len(said := compact(cut)) > room and len(cut["items"]) > 1:
        keep = max(1, min(len(cut["items"]) - 1, len(cut["items"]) * room // len(said)))
        cut = {**cut, "items": cut["items"][:keep], "left_out": len(items) - keep}
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
