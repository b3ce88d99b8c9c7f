"""What callers of a store pass, looked at before anything is read or written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from langgraph.store.base import GetOp, ListNamespacesOp, Op, PutOp, SearchOp, get_text_at_path

from mllm_plugin.errors import InvalidInputError, InvalidTypeError
from mllm_plugin.memory.checks import at_least
from mllm_plugin.types import Namespace

_LONGEST = timedelta(days=365_000).total_seconds() / 60  # minutes until the last year that there is, nearly


def checked(op: Any) -> Op:
    """An operation whose arguments are what they have to be, its namespace a tuple.

    Raises:
        InvalidTypeError: One is of another type.
        InvalidInputError: One is out of range, or the operation is unknown.
    """
    if isinstance(op, PutOp):
        _check_value(op.value)
        _check_ttl(op.ttl)
        if op.index is not None and op.index is not False and not isinstance(op.index, list | tuple):
            raise InvalidTypeError(f"index is False or a list of JSON paths, got {op.index!r}")
        return op._replace(namespace=_namespace(op.namespace))
    if isinstance(op, GetOp):
        return op._replace(namespace=_namespace(op.namespace))
    if isinstance(op, SearchOp):
        if op.query is not None and not isinstance(op.query, str):
            raise InvalidTypeError(f"query is a text, got {type(op.query).__name__}")
        if op.filter is not None and not isinstance(op.filter, Mapping):
            raise InvalidTypeError(f"filter is a dictionary, got {type(op.filter).__name__}")
        _check_page(op)
        return op._replace(namespace_prefix=_namespace(op.namespace_prefix))
    if isinstance(op, ListNamespacesOp):
        _check_page(op)
        return op
    raise InvalidInputError(f"unknown operation {type(op).__name__}; batch takes LangGraph's Op")


def _namespace(given: Any) -> Namespace:
    if not isinstance(given, list | tuple) or not all(isinstance(part, str) for part in given):
        raise InvalidTypeError(f"a namespace is a tuple of strings, got {given!r}")
    return tuple(given)


def _check_page(op: SearchOp | ListNamespacesOp) -> None:
    at_least("limit", op.limit, 0)
    at_least("offset", op.offset, 0)


def _check_value(value: Any) -> None:
    if value is not None and not isinstance(value, Mapping):
        raise InvalidTypeError(f"a value is a dictionary, got {type(value).__name__} {value!r:.200}")


def texts_at(value: Any, path: str) -> list[str]:
    """The texts of a value at a JSON path.

    Raises:
        InvalidTypeError: What is there is not made of JSON values.
    """
    try:
        return get_text_at_path(value, path)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidTypeError(f"a value is made of JSON values, got {value!r:.200} ({error})") from error


def _check_ttl(minutes: Any) -> None:
    if minutes is None:
        return
    if not isinstance(minutes, int | float) or isinstance(minutes, bool):
        raise InvalidTypeError(f"ttl is a number of minutes, got {minutes!r}")
    if not math.isfinite(minutes) or abs(minutes) > _LONGEST:
        raise InvalidInputError(f"ttl is a number of minutes up to a thousand years, or None, got {minutes}")


def fields_of(index: Any) -> Mapping[str, Any]:
    """What a store's `index` says; nothing where it is only on or off.

    Raises:
        InvalidTypeError: It is something else.
    """
    if index is not None and not isinstance(index, Mapping | bool):
        raise InvalidTypeError(f"index is {{'fields': [...]}} or False, got {index!r}")
    return index if isinstance(index, Mapping) else {}
