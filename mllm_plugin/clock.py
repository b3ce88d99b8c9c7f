"""What time it is, and moments as callers give them and as the file keeps them.

A moment is an aware datetime; the file keeps microseconds since 1970, UTC.
"""

from __future__ import annotations

from datetime import date, datetime, time, timedelta, timezone
from typing import Any

from mllm_plugin.errors import InvalidInputError, InvalidTypeError

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_TICK = timedelta(microseconds=1)
_SHORTEST, _LONGEST = len("2024-05-01"), len("2024-05-01T12:00:00.000000+00:00:00.000000")


def now() -> datetime:
    """This moment. Everything asks here what time it is, so a test can put another clock in its place."""
    return datetime.now(timezone.utc)


def micros_now() -> int:
    """This moment, as the file keeps it."""
    return micros(now())


def micros(moment: datetime) -> int:
    """A moment as the file keeps it."""
    return (moment - _EPOCH) // _TICK


FIRST = micros(datetime.min.replace(tzinfo=timezone.utc))
LAST = micros(datetime.max.replace(tzinfo=timezone.utc))


def at(stored: int | None) -> datetime | None:
    """A moment that the file keeps, in UTC; None stays None."""
    return None if stored is None else _EPOCH + stored * _TICK


def moment(name: str, value: Any) -> int | None:
    """A moment as a caller may give it, as the file keeps it; None stays None.

    Args:
        name: Of the argument, for errors.
        value: An aware datetime, a date (midnight UTC), or ISO 8601 text of one of these.

    Raises:
        InvalidTypeError: It is none of these.
        InvalidInputError: It does not say in which time zone it is, or the text is no ISO 8601.
    """
    if value is None:
        return None
    found = value
    if isinstance(value, str) and (found := parsed(value)) is None:
        raise InvalidInputError(
            f"{name}: {value!r} is not ISO 8601 with a time zone, such as '2024-05-01T12:00:00+02:00' or "
            f"'2024-05-01'"
        )
    if not isinstance(found, date):
        raise InvalidTypeError(
            f"{name} is a datetime, a date or ISO 8601 text, got {type(value).__name__} {value!r}"
        )
    if reason := flaw(found):
        raise InvalidInputError(f"{name}: {value!r} {reason}")
    return micros(aware(found))


def aware(value: date) -> datetime:
    """A datetime with a time zone as it is, a date as its midnight in UTC."""
    return value if isinstance(value, datetime) else datetime.combine(value, time.min, timezone.utc)


def flaw(value: date) -> str:
    """Why it names no moment; empty when it does."""
    if isinstance(value, datetime) and value.utcoffset() is None:
        return "has no time zone: use value.astimezone(), or value.replace(tzinfo=timezone.utc)"
    try:
        aware(value).astimezone(timezone.utc)
    except OverflowError:
        return "lies outside of the years 1 to 9999 in UTC"
    return ""


def parsed(text: str) -> datetime | None:
    """The moment that ISO 8601 text names; None where it names none, or has no time zone."""
    if not _SHORTEST <= len(text) <= _LONGEST or text[4] != "-" or text[7] != "-":
        return None
    try:
        found = datetime.fromisoformat(f"{text[:-1]}+00:00" if text[-1] in "Zz" else text)
    except ValueError:
        return None
    found = found.replace(tzinfo=timezone.utc) if len(text) == _SHORTEST else found
    return None if flaw(found) else found
