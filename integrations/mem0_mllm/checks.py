"""What callers of mem0's interface pass, checked as mem0 does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from datetime import date, datetime, time, timedelta, timezone
from typing import Any

from mllm_plugin.errors import InvalidInputError, InvalidTypeError

ENTITIES = {"user_id": "user", "agent_id": "agent", "run_id": "session"}  # and the keys of a scope
ANY = "*"  # in filters: whatever id there is
_ALIASES = {"limit": "top_k"}  # of releases before 2


def entity_ids(given: Mapping[str, Any], *, wildcard: bool = False) -> dict[str, str]:
    """The ids of user, agent and run that are given; numbers become text, blanks around them go.

    Args:
        given: Ids by name; others are passed over.
        wildcard: Leave out "*", which stands for any.

    Raises:
        InvalidInputError: One is empty or holds a blank, or there is none.
    """
    named = {name: given[name] for name in ENTITIES if given.get(name) is not None}
    for name, value in named.items():
        if isinstance(value, bool | Mapping | Sequence | Set) and not isinstance(value, str):
            raise InvalidInputError(f"Invalid {name}: {value!r}. Must be one id.")
    said = {name: str(value).strip() for name, value in named.items()}
    for name, value in said.items():
        if not value or any(letter.isspace() for letter in value):
            raise InvalidInputError(f"Invalid {name}: {value!r} is empty or contains whitespace")
    if not said:
        raise InvalidInputError(
            "at least one of user_id, agent_id and run_id is needed, as an argument or in filters: "
            "filters={'user_id': 'u1'}"
        )
    return {name: value for name, value in said.items() if not (wildcard and value == ANY)}


def one_of_each(ids: Mapping[str, str]) -> None:
    """Refuses ids that stand for everybody where one is meant.

    Raises:
        InvalidInputError: One does.
    """
    for name, value in ids.items():
        if value == ANY:
            raise InvalidInputError(
                f"Invalid {name}: {ANY!r} stands for any in filters; name one, or reset()"
            )


def query_filters(filters: Mapping[str, Any] | None, given: dict[str, Any]) -> dict[str, Any]:
    """Filters with the ids that older scripts pass as arguments, which are taken out of `given`.

    Raises:
        InvalidTypeError: `filters` is no dictionary, or an argument is unknown.
    """
    if filters is not None and not isinstance(filters, Mapping):
        raise InvalidTypeError(f"filters is a dictionary, got {type(filters).__name__}")
    ids = {name: value for name in ENTITIES if (value := given.pop(name, None)) is not None}
    if given:
        known = ", ".join(sorted({*ENTITIES, *_ALIASES}))
        raise InvalidTypeError(f"unknown argument {sorted(given)[0]!r}; expected one of {known}")
    return {**(filters or {}), **ids}


def top_k_of(top_k: Any, given: dict[str, Any]) -> int:
    """How many results, also under the name that it had before."""
    found = given.pop("limit", None)
    found = top_k if found is None else found
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise InvalidInputError(f"Invalid top_k: {found!r}. Must be a non-negative integer.")
    return found


def threshold_of(threshold: Any) -> float:
    """Least score."""
    found = 0.1 if threshold is None else threshold
    if not isinstance(found, int | float) or isinstance(found, bool) or not 0 <= found <= 1:
        raise InvalidInputError(f"Invalid threshold: {found!r}. Must be between 0 and 1 (inclusive).")
    return float(found)


def metadata_given(value: Any) -> dict[str, Any]:
    """What a caller says of an item."""
    if value is not None and not isinstance(value, Mapping):
        raise InvalidInputError(f"Invalid metadata: {value!r}. Must be a dictionary.")
    return dict(value or {})


def facts_of(found: Any) -> list[str]:
    """What a function of the caller made of messages."""
    if (
        isinstance(found, str)
        or not isinstance(found, Sequence)
        or not all(isinstance(x, str) for x in found)
    ):
        raise InvalidTypeError(f"extract must return a list of texts, got {found!r:.200}")
    return [text for text in found if text.strip()]


def text_of(name: str, value: Any) -> str:
    """A text that says something."""
    if not isinstance(value, str) or not value.strip():
        raise InvalidInputError(f"Invalid {name}: {value!r}. Must be a text that is not empty.")
    return value


def expiration_of(value: Any) -> str | None:
    """The last day of an item, as YYYY-MM-DD."""
    if value is None:
        return None
    if isinstance(value, datetime):
        return value.date().isoformat()
    try:
        found = value if isinstance(value, date) else date.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"expiration_date must be a date as YYYY-MM-DD, got {value!r}") from error
    return found.isoformat()


def expires_at(day: str | None) -> datetime | None:
    """The moment after an item's last day, in UTC."""
    if day is None:
        return None
    return datetime.combine(date.fromisoformat(day) + timedelta(days=1), time.min, timezone.utc)


def messages_of(messages: Any) -> list[dict[str, Any]]:
    """Messages that say something: role, content as text, and the speaker's name where there is one.

    Raises:
        InvalidInputError: It is no text, dictionary or list of dictionaries.
    """
    given = {"role": "user", "content": messages} if isinstance(messages, str) else messages
    given = [given] if isinstance(given, Mapping) else given
    if not isinstance(given, list) or not all(isinstance(one, Mapping) for one in given):
        raise InvalidInputError(f"messages must be str, dict or list[dict], got {type(messages).__name__}")
    said = [{**one, "content": _content(one.get("content"))} for one in given]
    return [one for one in said if one["content"].strip() and one.get("role") not in (None, "system")]


def _content(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") for part in parts if isinstance(part, Mapping)]
    return "\n".join(text for text in texts if isinstance(text, str))
