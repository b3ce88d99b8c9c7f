"""Metadata: checked, flattened into postings, and filters over them compiled to SQL.

A filter is a dictionary as in LangGraph, Chroma or MongoDB: `{"year": {"$gte": 2020}, "lang": "en"}`.
Operators: $eq $ne $gt $gte $lt $lte $in $nin $exists $contains, and $and $or $not. Several entries mean
"and". A list in the metadata matches when any of its elements does; keys of nested objects are joined by
dots. $ne, $nin and $not match documents without the key too. `None` equals a null and a missing key.
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import apsw

from mllm_plugin.errors import FilterError, InvalidDocumentError

_ORDER = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_COMPARE = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
    "$contains": operator.contains,
}
_OPERATORS = ("$eq", "$ne", *_ORDER, "$in", "$nin", "$exists", "$contains", "$and", "$or", "$not")
_INT64 = 1 << 63
_MOST_PARAMETERS = 30_000
_LONG = 200  # characters from which a string is posted as its hash
LONG_STRING = "long_string_matches"  # SQL function, see `register_functions`


class Posting(NamedTuple):
    """One scalar of a document's metadata.

    Kinds: s string, l hash of a long string, n number, b boolean, z null (value 0).
    """

    key: str
    kind: str
    value: str | float | int


class Clause(NamedTuple):
    """A condition on `d.document_rowid` with its parameters."""

    sql: str
    parameters: tuple[Any, ...]


def metadata_json(metadata: Mapping[str, Any]) -> str:
    """Metadata as JSON.

    Raises:
        InvalidDocumentError: It is not made of JSON values with string keys, or holds a lone surrogate.
    """
    try:
        _check(metadata)
        text = json.dumps(metadata, ensure_ascii=False, allow_nan=False)
        text.encode("utf-8")
        postings(metadata)
    except (TypeError, ValueError, RecursionError, FilterError) as error:
        raise InvalidDocumentError(
            f"metadata must be JSON values (str, int, float, bool, None, list, dict with str keys): {error}"
        ) from error
    return text


def postings(metadata: Mapping[str, Any]) -> set[Posting]:
    """What a filter can find a document by."""
    return {Posting(key, *_scalar(value)) for key, value in _flatten("", metadata)}


def compile_filter(condition: Mapping[str, Any] | None, namespace_id: int) -> Clause:
    """SQL for a filter.

    Raises:
        FilterError: An operator is unknown or has an unfit operand.
    """
    if condition is None:
        return Clause("1", ())
    try:
        return _filter(condition, namespace_id)
    except RecursionError:
        raise FilterError("the filter is nested too deeply") from None


def _filter(condition: Any, namespace_id: int) -> Clause:
    if not isinstance(condition, Mapping):
        raise FilterError(f"a filter is a dictionary, got {type(condition).__name__}")
    return _all([_entry(key, value, namespace_id) for key, value in condition.items()])


def _check(value: Any) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"key {key!r} is no string")
            _check(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _check(item)
    elif not isinstance(value, str | int | float | None):
        raise TypeError(f"{type(value).__name__} value {value!r}")


def _flatten(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flatten(f"{prefix}.{key}" if prefix else key, item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _flatten(prefix, item)
    else:
        yield prefix, value


def _scalar(value: Any) -> tuple[str, Any]:
    if value is None:
        return "z", 0
    if isinstance(value, bool):
        return "b", int(value)
    if isinstance(value, int):
        return "n", value if -_INT64 <= value < _INT64 else _huge(value)
    if isinstance(value, float) and not math.isnan(value):
        return "n", value
    if isinstance(value, str):
        _check_unicode(value)
        return ("s", value) if len(value) < _LONG else ("l", _digest(value))
    raise FilterError(
        f"cannot compare with {type(value).__name__} {value!r}; use str, int, float, bool or None"
    )


def _entry(key: Any, value: Any, namespace_id: int) -> Clause:
    if not isinstance(key, str):
        raise FilterError(f"keys of a filter are strings, got {type(key).__name__} {key!r}")
    _check_unicode(key)
    if key in ("$and", "$or"):
        if not isinstance(value, list | tuple) or not value:
            raise FilterError(f"{key} takes a non-empty list of filters, got {value!r}")
        parts = [_filter(part, namespace_id) for part in value]
        return _all(parts) if key == "$and" else _any(parts)
    if key == "$not":
        return _not(_filter(value, namespace_id))
    if key.startswith("$"):
        raise _unknown(key)
    if isinstance(value, Mapping) and value:
        return _all([_operator(key, name, operand, namespace_id) for name, operand in value.items()])
    return _operator(key, "$eq", value, namespace_id)


def _operator(key: str, name: str, operand: Any, namespace_id: int) -> Clause:
    where = (namespace_id, key)
    if name in ("$eq", "$ne"):
        if isinstance(operand, list | tuple | Mapping):
            raise FilterError(f"{name} on {key!r} takes one value, got {operand!r}; use $in for several")
        equal = _equal(operand, where)
        return equal if name == "$eq" else _not(equal)
    if name in ("$in", "$nin"):
        if isinstance(operand, str | bytes) or not isinstance(operand, Sequence | set | frozenset):
            raise FilterError(f"{name} on {key!r} takes a list of values, got {operand!r}")
        found = _one_of(operand, where)
        return found if name == "$in" else _not(found)
    if name in _ORDER:
        if isinstance(operand, str):
            return _string(f"value {_ORDER[name]} ?", name, operand, where)
        kind, value = _scalar(operand)
        if kind != "n":
            raise FilterError(f"{name} on {key!r} takes a number or a string, got {operand!r}")
        return _postings(f"kind = 'n' AND value {_ORDER[name]} ?", (*where, value))
    if name == "$exists":
        if not isinstance(operand, bool):
            raise FilterError(f"$exists on {key!r} takes true or false, got {operand!r}")
        return _postings("1", where) if operand else _not(_postings("1", where))
    if name == "$contains":
        if isinstance(operand, str):
            return _string("instr(value, ?) > 0", name, operand, where)
        return _equal(operand, where)
    if name == "$not":
        return _not(_entry(key, operand, namespace_id))
    raise _unknown(name)


def _equal(value: Any, where: tuple[int, str]) -> Clause:
    kind, value = _scalar(value)
    if kind == "z":
        return _any([_postings("kind = 'z'", where), _not(_postings("1", where))])
    return _postings("kind = ? AND value = ?", (*where, kind, value))


def _one_of(values: Iterable[Any], where: tuple[int, str]) -> Clause:
    """Equal to any of the values, however many: one lookup per kind."""
    by_kind: dict[str, list[Any]] = {}
    for value in values:
        kind, operand = _scalar(value)
        by_kind.setdefault(kind, []).append(operand)
    parts = [_equal(None, where)] if by_kind.pop("z", None) else []
    for kind, operands in by_kind.items():
        chosen = "kind = ? AND value IN (SELECT value FROM json_each(?))"
        parts.append(_postings(chosen, (*where, kind, json.dumps(operands))))
    return _any(parts)


def _string(condition: str, name: str, operand: str, where: tuple[int, str]) -> Clause:
    """A condition on strings; long ones are not in the postings and are read from the document."""
    _check_unicode(operand)
    short = _postings(f"kind = 's' AND {condition}", (*where, operand))
    some_long = _postings("kind = 'l'", where)
    is_long = Clause(f"{LONG_STRING}(d.metadata, ?, ?, ?)", (where[1], name, operand))
    return _any([short, _all([some_long, is_long])])


def register_functions(connection: apsw.Connection) -> None:
    """Adds what compiled filters call to a connection."""
    connection.create_scalar_function(LONG_STRING, _long_string_matches, 4, deterministic=True)  # pyright: ignore[reportArgumentType]


def _long_string_matches(metadata: str, key: str, name: str, operand: str) -> bool:
    compare = _COMPARE[name]
    values = [value for found, value in _flatten("", json.loads(metadata)) if found == key]
    strings = [value for value in values if isinstance(value, str) and len(value) >= _LONG]
    return any(compare(value, operand) for value in strings)


def _huge(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        raise FilterError(f"a number of {value.bit_length()} bits cannot be compared") from None


def _check_unicode(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise FilterError(f"{text!r} holds a lone surrogate; it is no valid Unicode") from None


def _digest(value: str) -> str:
    return hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _postings(condition: str, parameters: tuple[Any, ...]) -> Clause:
    return Clause(
        f"d.document_rowid IN (SELECT document_rowid FROM metadata "
        f"WHERE namespace_id = ? AND key = ? AND {condition})",
        parameters,
    )


def _all(parts: list[Clause]) -> Clause:
    return _joined(parts, "AND", "1")


def _any(parts: list[Clause]) -> Clause:
    return _joined(parts, "OR", "0")


def _joined(parts: list[Clause], word: str, empty: str) -> Clause:
    """Joins clauses as a balanced tree: SQLite limits the depth of an expression, and its parameters."""
    if not parts:
        return Clause(empty, ())
    if len(parts) == 1:
        return parts[0]
    left, right = (
        _joined(half, word, empty) for half in (parts[: len(parts) // 2], parts[len(parts) // 2 :])
    )
    parameters = (*left.parameters, *right.parameters)
    if len(parameters) > _MOST_PARAMETERS:
        raise FilterError(f"the filter compares with more than {_MOST_PARAMETERS} values; use $in")
    return Clause(f"({left.sql}) {word} ({right.sql})", parameters)


def _not(part: Clause) -> Clause:
    return Clause(f"NOT ({part.sql})", part.parameters)


def _unknown(name: str) -> FilterError:
    return FilterError(f"unknown filter operator {name!r}; known: {' '.join(_OPERATORS)}")
