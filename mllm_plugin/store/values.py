"""Metadata as JSON values: what can be stored, what to use in place of the rest, and postings for filters."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, NamedTuple
from uuid import UUID

from mllm_plugin.errors import InvalidDocumentError

LONG = 200  # characters from which a string is posted as its hash
_INT64 = 1 << 63
_SHOWN = 60  # characters of a value in an error

_INSTEAD: tuple[tuple[Any, str], ...] = (
    (float, "leave the key out, or use None"),
    (Enum, "use value.value"),
    (date | time, "use value.isoformat(), which also sorts by time"),
    (timedelta, "use value.total_seconds()"),
    (set | frozenset, "use sorted(value)"),
    (bytes | bytearray | memoryview, "use bytes(value).decode(), or base64 text"),
    (Decimal, "use float(value), or str(value) to keep every digit"),
    (UUID | PurePath, "use str(value)"),
)


class Posting(NamedTuple):
    """One scalar of a document's metadata.

    Kinds: s string, l hash of a long string, n number, b boolean, z null (value 0).
    """

    key: str
    kind: str
    value: str | float | int


def metadata_json(metadata: Mapping[str, Any]) -> str:
    """Metadata as JSON.

    Raises:
        InvalidDocumentError: It is not made of JSON values with string keys, or holds a lone surrogate; the
            message says where, and what to use in its place.
    """
    try:
        if found := _flaw(metadata):
            raise InvalidDocumentError(f"metadata{found[0]} {found[1]}")
        return json.dumps(metadata, ensure_ascii=False, allow_nan=False, default=dict)
    except RecursionError:
        raise InvalidDocumentError("its metadata is nested too deeply, or holds itself") from None


def postings(metadata: Mapping[str, Any]) -> set[Posting]:
    """What a filter can find a document by."""
    return {Posting(key, *scalar(value)) for key, value in flatten("", metadata)}


def flatten(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The scalars with their keys; those of nested objects are joined by dots."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from flatten(f"{prefix}.{key}" if prefix else key, item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from flatten(prefix, item)
    else:
        yield prefix, value


def scalar(value: str | float | None) -> tuple[str, str | float]:
    """Kind and value of a posting; integers beyond 64 bits are posted as the nearest float."""
    if value is None:
        return "z", 0
    if isinstance(value, bool):
        return "b", int(value)
    if isinstance(value, str):
        return ("s", value) if len(value) < LONG else ("l", _digest(value))
    fits = isinstance(value, float) or -_INT64 <= value < _INT64
    return "n", value if fits else float(value)


def may_be_rounded(value: float) -> bool:
    """Whether several numbers are posted as this one."""
    return abs(value) >= _INT64


def exact(value: Any) -> Any:
    """A scalar as exactly a str, int or float: what a subclass of the caller's overrides is never asked."""
    if isinstance(value, bool) or type(value) in (str, int, float):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    return float.__float__(value) if isinstance(value, float) else value


def scalar_flaw(value: Any) -> str:
    """Why a value is no scalar of JSON, and what to use in its place; empty when it is one."""
    if isinstance(value, str):
        return text_flaw(value)
    if isinstance(value, float):
        return "" if math.isfinite(value) else f"is {value!r}, which JSON does not have: {_instead(value)}"
    if isinstance(value, int):
        return _size_flaw(value)
    return "" if value is None else f"is {_shown(value)} of type {_kind(value)}: {_instead(value)}"


def _size_flaw(value: int) -> str:
    try:
        float(value)
    except OverflowError:
        return f"is an integer of {value.bit_length()} bits, which cannot be compared: use str(value)"
    return ""


def text_flaw(text: str) -> str:
    """Why a text cannot be stored; empty when it can."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return (
            f"holds a lone surrogate at {error.start}, which is no valid Unicode; decode the source with "
            f"errors='replace'"
        )
    return ""


def _flaw(value: Any) -> tuple[str, str] | None:
    """Where something is no JSON, as Python would index it, and why."""
    if not isinstance(value, Mapping | list | tuple):
        reason = scalar_flaw(value)
        return ("", reason) if reason else None
    for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
        if isinstance(value, Mapping) and (reason := _key_flaw(key)):
            return "", reason
        if found := _flaw(item):
            return f"[{_shown(key)}]{found[0]}", found[1]
    return None


def _key_flaw(key: Any) -> str:
    if not isinstance(key, str):
        return f"has the key {_shown(key)} of type {_kind(key)}, which is no string: use str(key)"
    reason = text_flaw(key)
    return f"has a key that {reason}" if reason else ""


def _instead(value: Any) -> str:
    for kinds, words in _INSTEAD:
        if isinstance(value, kinds):
            return words
    if str(getattr(value, "dtype", "")).startswith(("datetime64", "timedelta64")):
        return "use str(value)"
    if hasattr(value, "tolist"):  # numpy and torch
        return "use value.item()" if getattr(value, "ndim", 1) == 0 else "use value.tolist()"
    return "use str, int, float, bool, None, or a list or dict of these"


def _kind(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"


def _digest(value: str) -> str:
    return hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
