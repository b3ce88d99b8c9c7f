"""Filters over metadata, compiled to SQL over its postings.

A filter is a dictionary as in LangGraph, Chroma or MongoDB: `{"year": {"$gte": 2020}, "lang": "en"}`.
Operators: $eq $ne $gt $gte $lt $lte $in $nin $exists $contains, and $and $or $not. Several entries mean
"and". A list in the metadata matches when any of its elements does; keys of nested objects are joined by
dots. $ne, $nin and $not match documents without the key too. `None` equals a null and a missing key. Numbers
compare exactly, integers of any size too. A datetime or date is compared, as the moment that it is, with
values that are ISO 8601 text with a time zone, or a date (midnight UTC). {"$eq": [...]} means a list of just
these values in this order. Dictionaries and lists may be nested 64 deep.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from functools import lru_cache
from typing import Any, NamedTuple

import apsw

from mllm_plugin import clock
from mllm_plugin.errors import FilterError
from mllm_plugin.store.values import (
    LONG,
    exact,
    flatten,
    lists_at,
    may_be_rounded,
    parsed_metadata,
    same,
    scalar,
    scalar_flaw,
)
from mllm_plugin.text.letters import text_flaw

_ORDER = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_COMPARE = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
    "$contains": operator.contains,
    "$eq": operator.eq,
    "$in": lambda value, wanted: value in wanted,
}
_OPERATORS = ("$eq", "$ne", *_ORDER, "$in", "$nin", "$exists", "$contains", "$and", "$or", "$not")
_MOST_PARAMETERS = 30_000
_MOST_CONDITIONS = 10_000
_DEEPEST = 64
_SAME = "same list"
READ_MOMENT = "moment_of"  # SQL function too
READ_VALUES = "values_match"  # SQL function, see `register_functions`


class Clause(NamedTuple):
    """A condition on `d.document_rowid` with its parameters."""

    sql: str
    parameters: tuple[Any, ...]


def compile_filter(condition: Mapping[str, Any] | None, namespace_id: int) -> Clause:
    """SQL for a filter.

    Raises:
        FilterError: An operator is unknown or has an unfit operand.
    """
    return Clause("1", ()) if condition is None else _filter(plain_filter(condition), namespace_id)


def plain_filter(condition: Any) -> dict[str, Any]:
    """A copy of plain dictionaries, lists and scalars: what is checked is what is searched with.

    Raises:
        FilterError: It is no dictionary, has a key twice, or is nested too deeply; one that holds itself is.
    """
    if not isinstance(condition, Mapping):
        raise FilterError(f"a filter is a dictionary, got {type(condition).__name__}")
    return _Copy().of(condition, 1)


class _Copy:
    """Counts while it copies, since a dictionary that comes in many places is copied for each of them."""

    def __init__(self) -> None:
        self._entries = 0

    def of(self, condition: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        if depth > _DEEPEST:
            raise FilterError(
                f"the filter is nested too deeply, dictionaries and lists more than {_DEEPEST} deep; "
                f"$and and $or take long lists"
            )
        copied: dict[str, Any] = {}
        for key, value in condition.items():
            self._entries += 1
            if self._entries > _MOST_CONDITIONS:
                raise FilterError(f"the filter has more than {_MOST_CONDITIONS} conditions; use $in")
            if not isinstance(key, str):
                raise FilterError(f"keys of a filter are strings, got {type(key).__name__} {key!r}")
            if exact(key) in copied:
                raise FilterError(f"the filter has the key {exact(key)!r} twice in one dictionary")
            copied[exact(key)] = self._value(value, depth)
        return copied

    def _value(self, value: Any, depth: int) -> Any:
        if isinstance(value, Mapping):
            return self.of(value, depth + 1)
        if isinstance(value, Sequence | set | frozenset) and not isinstance(value, str | bytes):
            return [self.of(item, depth + 2) if isinstance(item, Mapping) else exact(item) for item in value]
        return exact(value)


def _filter(condition: Any, namespace_id: int) -> Clause:
    if not isinstance(condition, dict):
        raise FilterError(f"a filter is a dictionary, got {type(condition).__name__}")
    return _all([_entry(key, value, namespace_id) for key, value in condition.items()])


def _entry(key: str, value: Any, namespace_id: int) -> Clause:
    _check_unicode(key)
    if key in ("$and", "$or"):
        if not isinstance(value, list) or not value:
            raise FilterError(f"{key} takes a non-empty list of filters, got {value!r}")
        parts = [_filter(part, namespace_id) for part in value]
        return _all(parts) if key == "$and" else _any(parts)
    if key == "$not":
        return _not(_filter(value, namespace_id))
    if key.startswith("$"):
        raise _unknown(key)
    if isinstance(value, dict) and value:
        return _all([_operator(key, name, operand, namespace_id) for name, operand in value.items()])
    return _operator(key, "$eq", value, namespace_id)


def _operator(key: str, name: str, operand: Any, namespace_id: int) -> Clause:
    where = (namespace_id, key)
    if name in ("$eq", "$ne"):
        if isinstance(operand, dict):
            raise FilterError(f"{name} on {key!r} takes a value or a list, got {operand!r}")
        equal = _list(operand, where) if isinstance(operand, list) else _equal(operand, where)
        return equal if name == "$eq" else _not(equal)
    if name in ("$in", "$nin"):
        if not isinstance(operand, list):
            raise FilterError(f"{name} on {key!r} takes a list of values, got {operand!r}")
        found = _one_of(operand, where)
        return found if name == "$in" else _not(found)
    if name in _ORDER:
        if isinstance(operand, str):
            return _string(f"value {_ORDER[name]} ?", name, operand, where)
        if isinstance(operand, date):
            return _moment(_ORDER[name], operand, where)
        return _number(name, operand, where)
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


def _list(values: list[Any], where: tuple[int, str]) -> Clause:
    """A list of just these values: postings lead to documents that have all of them somewhere."""
    plain = [value.isoformat() if isinstance(value, date) else value for value in values]
    each = [_equal(value, where) for value in plain if value is not None]
    return _all([*each, _read(_SAME, plain, where)])


def _equal(value: Any, where: tuple[int, str]) -> Clause:
    if isinstance(value, date):
        return _moment("=", value, where)
    kind, posted = _scalar(value, where[1])
    if kind == "z":
        return _any([_postings("kind = 'z'", where), _not(_postings("1", where))])
    found = _postings("kind = ? AND value = ?", (*where, kind, posted))
    return _all([found, _read("$eq", value, where)]) if _is_rounded(kind, posted) else found


def _one_of(values: Iterable[Any], where: tuple[int, str]) -> Clause:
    """Equal to any of the values, however many: one lookup per kind."""
    by_kind: dict[tuple[str, bool], dict[Any, Any]] = {}
    moments = []
    for value in values:
        if isinstance(value, date):
            moments.append(_moment("=", value, where))
            continue
        kind, posted = _scalar(value, where[1])
        by_kind.setdefault((kind, _is_rounded(kind, posted)), {})[value] = posted
    parts = [*moments, _equal(None, where)] if by_kind.pop(("z", False), None) else moments
    for (kind, rounded), operands in by_kind.items():
        chosen = "kind = ? AND value IN (SELECT value FROM json_each(?))"
        found = _postings(chosen, (*where, kind, json.dumps([*operands.values()])))
        parts.append(_all([found, _read("$in", [*operands], where)]) if rounded else found)
    return _any(parts)


def _string(condition: str, name: str, operand: str, where: tuple[int, str]) -> Clause:
    """A condition on strings; long ones are not in the postings and are read from the document."""
    _check_unicode(operand)
    short = _postings(f"kind = 's' AND {condition}", (*where, operand))
    some_long = _postings("kind = 'l'", where)
    return _any([short, _all([some_long, _read(name, operand, where)])])


def _number(name: str, operand: Any, where: tuple[int, str]) -> Clause:
    """An order of numbers; rounding keeps it, so only those posted as the operand's float must be read."""
    kind, posted = _scalar(operand, where[1])
    if kind != "n":
        raise FilterError(f"{name} on {where[1]!r} takes a number or a string, got {operand!r}")
    if not _is_rounded(kind, posted):
        return _postings(f"kind = 'n' AND value {_ORDER[name]} ?", (*where, posted))
    beyond = _postings(f"kind = 'n' AND value {_ORDER[name][0]} ?", (*where, posted))
    same = _postings("kind = 'n' AND value = ?", (*where, posted))
    return _any([beyond, _all([same, _read(name, operand, where)])])


def _moment(comparison: str, operand: date, where: tuple[int, str]) -> Clause:
    """A comparison of moments with every text that names one."""
    if reason := clock.flaw(operand):
        raise FilterError(f"{where[1]!r} cannot be compared with {operand!r}, which {reason}")
    found = f"kind = 's' AND {READ_MOMENT}(value) {comparison} ?"
    return _postings(found, (*where, clock.micros(clock.aware(operand))))


def _read(name: str, operand: Any, where: tuple[int, str]) -> Clause:
    """A condition on the values as the document has them, where postings do not tell them apart."""
    return Clause(f"{READ_VALUES}(d.metadata, ?, ?, ?)", (where[1], name, json.dumps(operand)))


def register_functions(connection: apsw.Connection) -> None:
    """Adds what compiled filters call to a connection."""
    connection.create_scalar_function(READ_VALUES, _values_match, 4, deterministic=True)  # pyright: ignore[reportArgumentType]
    connection.create_scalar_function(READ_MOMENT, _moment_of, 1, deterministic=True)  # pyright: ignore[reportArgumentType]


def _moment_of(text: str) -> int | None:
    found = clock.parsed(text)
    return None if found is None else clock.micros(found)


def _values_match(metadata: str, key: str, name: str, operand: str) -> bool:
    """Whether a list, a long string, or a number, of the metadata compares as wanted; integers exactly."""
    if name == _SAME:
        wanted = json.loads(operand)
        return any(same(one, wanted) for one in lists_at(parsed_metadata(metadata), key))
    wanted, compare = _parsed(operand), _COMPARE[name]
    values = [value for found, value in flatten("", parsed_metadata(metadata)) if found == key]
    if isinstance(wanted, str):
        fit = [value for value in values if isinstance(value, str) and len(value) >= LONG]
    else:
        fit = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    return any(compare(value, wanted) for value in fit)


@lru_cache(maxsize=64)
def _parsed(operand: str) -> Any:
    found = json.loads(operand)
    return frozenset(found) if isinstance(found, list) else found


def _scalar(value: Any, key: str) -> tuple[str, Any]:
    """Kind and value to compare with, as postings have them; infinity may be compared with."""
    if reason := "" if isinstance(value, float) and math.isinf(value) else scalar_flaw(value):
        raise FilterError(f"{key!r} cannot be compared with a value that {reason}")
    return scalar(value)


def _is_rounded(kind: str, posted: Any) -> bool:
    return kind == "n" and may_be_rounded(posted)


def _check_unicode(text: str) -> None:
    if reason := text_flaw(text):
        raise FilterError(f"{text!r} {reason}")


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
