"""Metadata filters of LlamaIndex in the memory's filter language.

A list in the metadata matches when one of its elements does; NE and NIN match nodes without the key too. A
filter of LlamaIndex cannot hold true or false, so 1 and 0 stand for them, as they do in Python. What has no
exact counterpart is refused: TEXT_MATCH_INSENSITIVE, and None as a value.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from mllm_plugin.errors import FilterError

Filter = Mapping[str, Any]

_OPERATORS = {
    FilterOperator.EQ: "$eq",
    FilterOperator.NE: "$ne",
    FilterOperator.GT: "$gt",
    FilterOperator.GTE: "$gte",
    FilterOperator.LT: "$lt",
    FilterOperator.LTE: "$lte",
    FilterOperator.IN: "$in",
    FilterOperator.NIN: "$nin",
    FilterOperator.ANY: "$in",
    FilterOperator.CONTAINS: "$eq",
    FilterOperator.TEXT_MATCH: "$contains",
}
_SEVERAL = {"$eq": "$in", "$ne": "$nin", "$in": "$in", "$nin": "$nin"}
_ORDER = {"$gt": operator.gt, "$gte": operator.ge, "$lt": operator.lt, "$lte": operator.le}


def memory_filter(filters: Filter | MetadataFilters | None) -> Filter | None:
    """Translates a filter; the memory's own filters pass as they are.

    Args:
        filters: Conditions, nested as deep as one likes. NOT holds when none of its conditions does; a group
            without conditions always holds.

    Raises:
        FilterError: A condition has no exact counterpart in the memory.
    """
    if not isinstance(filters, MetadataFilters):
        return filters
    parts = [_part(part) for part in filters.filters]
    if not parts:
        return {}
    if filters.condition is FilterCondition.NOT:
        return {"$not": {"$or": parts}}
    return {"$or" if filters.condition is FilterCondition.OR else "$and": parts}


def all_of(*filters: Filter | None) -> Filter | None:
    """Joins those filters that are given; None when there is none."""
    parts = [part for part in filters if part]
    return {"$and": parts} if parts else None


def _part(part: MetadataFilter | MetadataFilters) -> Filter:
    if isinstance(part, MetadataFilters):
        return memory_filter(part) or {}
    if part.operator is FilterOperator.IS_EMPTY:
        return {part.key: {"$in": [None, ""]}}
    _check(part)
    if part.operator is FilterOperator.ALL:
        return {"$and": [_condition(part.key, "$eq", value) for value in part.value]}  # type: ignore[union-attr]
    return _condition(part.key, _OPERATORS[part.operator], part.value)


def _condition(key: str, name: str, value: Any) -> Filter:
    """One condition; the flags that a number stands for, or compares with, are named beside it."""
    if name in _ORDER and isinstance(value, int | float):
        flags = [flag for flag in (False, True) if _ORDER[name](flag, value)]
        return {"$or": [{key: {name: value}}, {key: {"$in": flags}}]} if flags else {key: {name: value}}
    values = value if isinstance(value, list) and name in ("$in", "$nin") else [value]
    flags = [flag for flag in (False, True) if name in _SEVERAL and flag in values]
    return {key: {_SEVERAL[name]: [*values, *flags]}} if flags else {key: {name: value}}


def _check(part: MetadataFilter) -> None:
    name = f"the filter operator {part.operator.value!r} on {part.key!r}"
    if part.operator is not FilterOperator.ALL and part.operator not in _OPERATORS:
        raise FilterError(f"{name} has no exact counterpart in a memory; use one of {_known()}")
    if part.value is None:
        raise FilterError(f"{name} takes a value, got None; use 'is_empty' to find missing ones")
    if part.operator is FilterOperator.TEXT_MATCH and not isinstance(part.value, str):
        raise FilterError(f"{name} takes a string, got {part.value!r}")
    if part.operator is FilterOperator.CONTAINS and isinstance(part.value, list):
        raise FilterError(f"{name} takes one value, got {part.value!r}; use 'all' or 'any' for several")
    if part.operator is FilterOperator.ALL and not (isinstance(part.value, list) and part.value):
        raise FilterError(f"{name} takes a non-empty list, got {part.value!r}")


def _known() -> str:
    known = (*_OPERATORS, FilterOperator.ALL, FilterOperator.IS_EMPTY)
    return " ".join(repr(operator.value) for operator in known)
