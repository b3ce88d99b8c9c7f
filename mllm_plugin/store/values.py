"""Metadata as JSON values: what can be stored, what to use in place of the rest, and postings for filters."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, NamedTuple
from uuid import UUID

from mllm_plugin import clock
from mllm_plugin.errors import InvalidDocumentError
from mllm_plugin.text.letters import text_flaw

LONG = 200  # characters from which a string is posted as its hash
MOST_NESTED = 64  # objects and lists within each other
_INT64 = 1 << 63
_SHOWN = 60  # characters of a value in an error
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]|[^\s\[\]{}:,"]+')

_INSTEAD: tuple[tuple[Any, str], ...] = (
    (float, "leave the key out, or use None"),
    (Enum, "use value.value"),
    (time, "use value.isoformat(), which also sorts by time"),
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
    """Metadata as JSON; dates and datetimes as ISO 8601 text.

    Raises:
        InvalidDocumentError: It is not made of JSON values with string keys, holds a lone surrogate, or is
            nested too deeply; the message says where, and what to use in its place.
    """
    if found := _flaw(metadata):
        raise InvalidDocumentError(f"metadata{found[0]} {found[1]}")
    return json.dumps(metadata, ensure_ascii=False, allow_nan=False, default=_as_json)


def _as_json(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date) else dict(value)


def parsed_metadata(text: str) -> dict[str, Any]:
    """Stored metadata; what an earlier release let in may be nested deeper than Python's parser can go."""
    try:
        return json.loads(text)
    except RecursionError:
        return _parsed_iteratively(text)


def _parsed_iteratively(text: str) -> Any:
    """JSON that `metadata_json` wrote, without recursion."""
    whole: list[Any] = []
    opened: list[Any] = [whole]
    keys: list[str | None] = [None]
    for token in _TOKEN.findall(text):
        inside, key = opened[-1], keys[-1]
        if token in "]}":
            opened.pop()
            keys.pop()
        elif isinstance(inside, dict) and key is None:
            keys[-1] = json.loads(token)
        else:
            value = [] if token == "[" else {} if token == "{" else json.loads(token)
            if isinstance(inside, dict):
                inside[key], keys[-1] = value, None
            else:
                inside.append(value)
            if token in "[{":
                opened.append(value)
                keys.append(None)
    return whole[0]


def postings(metadata: Mapping[str, Any]) -> set[Posting]:
    """What a filter can find a document by."""
    return {Posting(key, *scalar(value)) for key, value in flatten("", metadata)}


def flatten(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The scalars with their keys; those of nested objects are joined by dots."""
    waiting = [(prefix, value)]
    while waiting:
        name, item = waiting.pop()
        if isinstance(item, Mapping):
            waiting += ((f"{name}.{key}" if name else key, one) for key, one in item.items())
        elif isinstance(item, list | tuple):
            waiting += ((name, part) for part in item)
        else:
            yield name, item.isoformat() if isinstance(item, date) else item


def lists_at(metadata: Mapping[str, Any], key: str) -> Iterator[list[Any]]:
    """The lists that a key names, as `flatten` names scalars."""
    waiting: list[tuple[str, Any]] = [("", metadata)]
    while waiting:
        name, item = waiting.pop()
        if isinstance(item, Mapping):
            waiting += ((f"{name}.{inner}" if name else inner, one) for inner, one in item.items())
        elif isinstance(item, list | tuple):
            if name == key:
                yield list(item)
            waiting += ((name, part) for part in item)


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal; `1` and `1.0` are, `1` and true are not."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return isinstance(one, bool) == isinstance(other, bool) and one == other


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
    if isinstance(value, date):
        return clock.flaw(value)
    return "" if value is None else f"is {shown(value)} of type {_kind(value)}: {_instead(value)}"


def _size_flaw(value: int) -> str:
    try:
        float(value)
    except OverflowError:
        return f"is an integer of {value.bit_length()} bits, which cannot be compared: use str(value)"
    return ""


class _Place(NamedTuple):
    """A value within metadata: its key or index, and what holds it."""

    value: Any
    key: Any = None
    holder: _Place | None = None
    depth: int = 1

    def path(self) -> str:
        """As Python would index it."""
        keys, place = [], self
        while place.holder is not None:
            keys.append(f"[{shown(place.key)}]")
            place = place.holder
        return "".join(reversed(keys))


def _flaw(metadata: Any) -> tuple[str, str] | None:
    """Where something is no JSON, as Python would index it, and why."""
    waiting = [_Place(metadata)]
    while waiting:
        place = waiting.pop()
        value = place.value
        if not isinstance(value, Mapping | list | tuple):
            if reason := scalar_flaw(value):
                return place.path(), reason
            continue
        if place.depth > MOST_NESTED:
            return "", f"is nested more than {MOST_NESTED} deep, or holds itself; store it as text"
        if isinstance(value, Mapping) and (reason := next(filter(None, map(_key_flaw, value)), "")):
            return place.path(), reason
        inside = value.items() if isinstance(value, Mapping) else enumerate(value)
        waiting += reversed([_Place(item, key, place, place.depth + 1) for key, item in inside])
    return None


def _key_flaw(key: Any) -> str:
    if not isinstance(key, str):
        return f"has the key {shown(key)} of type {_kind(key)}, which is no string: use str(key)"
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


def shown(value: Any) -> str:
    """A value for an error, cut short."""
    try:
        text = repr(value)
    except Exception:  # a number of more digits than Python prints, or an object that cannot show itself
        text = f"<{_kind(value)}>"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _digest(value: str) -> str:
    return hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
