"""Filters of mem0 as filters of the memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mem0_mllm.items import ABOUT, METADATA, PROMOTED
from mllm_plugin.errors import FilterError

_OPERATORS = ("eq", "ne", "gt", "gte", "lt", "lte", "in", "nin", "contains")
_LOGIC = ("AND", "OR", "NOT")


def condition_of(filters: Mapping[str, Any]) -> dict[str, Any]:
    """A filter of the memory.

    Raises:
        FilterError: An operator is unknown, or a condition is malformed.
    """
    parts = [_part(key, wanted) for key, wanted in filters.items()]
    return parts[0] if len(parts) == 1 else {"$and": parts}


def _part(key: str, wanted: Any) -> dict[str, Any]:
    if key.strip("$").upper() in _LOGIC:
        return _joined(key.strip("$").upper(), wanted)
    path = f"{ABOUT}.{key}" if key in PROMOTED else f"{METADATA}.{key}"
    if wanted == "*":
        return {path: {"$exists": True}}
    if not isinstance(wanted, Mapping):
        return {path: {"$eq": wanted}}
    for name in wanted:
        if name not in _OPERATORS:
            raise FilterError(
                f"Unsupported metadata filter operator: {name!r} of {key!r}; expected one of "
                f"{', '.join(_OPERATORS)}"
            )
    return {path: {f"${name}": operand for name, operand in wanted.items()}}


def _joined(name: str, wanted: Any) -> dict[str, Any]:
    conditions = [wanted] if isinstance(wanted, Mapping) else wanted
    if not isinstance(conditions, list) or not conditions or not all(map(_is_condition, conditions)):
        raise FilterError(f"{name} requires a list of conditions that is not empty, got {wanted!r}")
    parts = [condition_of(one) for one in conditions]
    return {"$not": {"$or": parts}} if name == "NOT" else {f"${name.lower()}": parts}


def _is_condition(one: Any) -> bool:
    return isinstance(one, Mapping) and bool(one)
