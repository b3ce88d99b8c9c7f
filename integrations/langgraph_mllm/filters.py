"""Filters of LangGraph: what the memory can look up is left to it, the rest is compared here.

`{"key": value}` and $eq compare whole values, lists and dictionaries too; a dictionary without operators is
a filter on the nested value. $ne also holds where the key is missing, $gt $gte $lt $lte only between two
numbers or two strings. The memory's other operators ($in, $exists, $and, …) work as in `MemoryIndex.search`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping
from typing import Any

from langgraph_mllm.items import VALUE

_ORDER = {"$gt": operator.gt, "$gte": operator.ge, "$lt": operator.lt, "$lte": operator.le}


def lookup(condition: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A filter of the memory that lets through all that `matches` does, and perhaps more."""
    parts = [part for key, wanted in (condition or {}).items() for part in _entry(key, wanted)]
    return {"$and": parts} if parts else None


def matches(value: Mapping[str, Any], condition: Mapping[str, Any] | None) -> bool:
    """Whether a value that the memory let through satisfies the filter."""
    entries = ((key, wanted) for key, wanted in (condition or {}).items() if not key.startswith("$"))
    return all(_agrees(_at(value, key), wanted) for key, wanted in entries)


def _entry(key: str, wanted: Any) -> Iterator[dict[str, Any]]:
    if key.startswith("$"):
        yield _below(key, wanted)
    else:
        yield from _needed(f"{VALUE}.{key}", wanted)


def _below(key: str, wanted: Any) -> dict[str, Any]:
    """A logical operator over filters, with the keys where the memory has them."""
    if key == "$not" and isinstance(wanted, Mapping):
        return {key: _renamed(wanted)}
    if isinstance(wanted, list | tuple):
        return {key: [_renamed(one) if isinstance(one, Mapping) else one for one in wanted]}
    return {key: wanted}


def _renamed(condition: Mapping[str, Any]) -> dict[str, Any]:
    renamed: dict[str, Any] = {}
    for key, wanted in condition.items():
        renamed.update(_below(key, wanted) if key.startswith("$") else {f"{VALUE}.{key}": wanted})
    return renamed


def _needed(path: str, wanted: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(wanted, Mapping):
        if _is_posted(wanted):
            yield {path: wanted}
    elif _has_operators(wanted):
        for name, operand in wanted.items():
            compared_here = name in ("$eq", "$ne", *_ORDER)
            if not compared_here or (name != "$ne" and _is_posted(operand)):
                yield {path: {name: operand}}
    else:
        for key, inner in wanted.items():
            yield from _needed(f"{path}.{key}", inner)


def _is_posted(value: Any) -> bool:
    """Whether the memory can look it up: a scalar that JSON has."""
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, str | int)


def _has_operators(wanted: Mapping[str, Any]) -> bool:
    return any(key.startswith("$") for key in wanted)


def _at(value: Mapping[str, Any], key: str) -> Any:
    """The value under a key, or under the keys that its dots separate."""
    if key in value:
        return value[key]
    found: Any = value
    for name in key.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _agrees(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        if _has_operators(wanted):
            return all(_holds(found, name, operand) for name, operand in wanted.items())
        return isinstance(found, Mapping) and all(_agrees(found.get(key), one) for key, one in wanted.items())
    if isinstance(wanted, list | tuple):
        return isinstance(found, list) and len(found) == len(wanted) and all(map(_agrees, found, wanted))
    return found == wanted and isinstance(found, bool) == isinstance(wanted, bool)


def _holds(found: Any, name: str, operand: Any) -> bool:
    if name == "$eq":
        return found == operand and isinstance(found, bool) == isinstance(operand, bool)
    if name == "$ne":
        return not _holds(found, "$eq", operand)
    if name in _ORDER and not _is_posted(operand):
        return isinstance(found, int | float) and _ORDER[name](found, operand)
    return True  # the memory has looked
