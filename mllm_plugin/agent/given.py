"""Items as callers give them, checked before anything is read or written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mllm_plugin import clock
from mllm_plugin.agent.naming import FACT, MESSAGE, Told, given_metadata, hiding_mask, names_in
from mllm_plugin.errors import InvalidDocumentError, InvalidInputError, InvalidTypeError
from mllm_plugin.text.letters import text_flaw
from mllm_plugin.types import Moment

_NAMES = ("id", "kind", "speaker", "session")
_LISTS = ("supersedes", "participants", "derived_from")


@dataclass(frozen=True)
class Given:
    """An item as a caller gives it; see `AgentScope.remember`."""

    text: str
    id: str | None = None
    kind: str | None = None
    metadata: Mapping[str, Any] | None = None
    at: Moment | None = None
    expires: Moment | None = None
    supersedes: tuple[str, ...] = ()
    source: Any = None
    speaker: str | None = None
    session: str | None = None
    participants: tuple[str, ...] = ()
    derived_from: tuple[str, ...] = ()
    mask: str | None = None

    def told(self) -> Told:
        """What is said of the item, with what follows from the rest."""
        moment = clock.at(clock.moment("at", self.at))
        kind = self.kind or (MESSAGE if self.speaker is not None else FACT)
        session = self.session if kind == MESSAGE else None
        dated = moment is not None or session is not None
        return Told(
            kind,
            self.speaker,
            self.session,
            self.participants,
            self.source,
            self.derived_from,
            moment or clock.now(),
            dated,
        )


def given_item(item: Any, defaults: Mapping[str, Any]) -> Given:
    """One of `remember_many`: a text, or a dictionary of the arguments of `remember`.

    Raises:
        InvalidTypeError: It is neither, or an argument is unknown or of another type.
        InvalidInputError: The text or a name is empty, or a moment is none.
    """
    fields = {"text": item} if isinstance(item, str) else item
    if not isinstance(fields, Mapping):
        raise InvalidTypeError(
            f"an item is a text or a dictionary of the arguments of remember(), got {type(item).__name__}"
        )
    if unknown := set(fields) - set(Given.__dataclass_fields__):
        expected = ", ".join(Given.__dataclass_fields__)
        raise InvalidTypeError(
            f"an item has the unknown argument {sorted(map(str, unknown))[0]!r}; expected {expected}"
        )
    check_text(fields.get("text"))
    said = {name: value for name, value in fields.items() if value is not None}
    return _checked(Given(**{**defaults, **said}))


def given_items(items: Any) -> list[Any]:
    """The items of a call.

    Raises:
        InvalidTypeError: It is one item, or none at all.
    """
    if isinstance(items, str | bytes | Mapping) or not isinstance(items, Iterable):
        raise InvalidTypeError(
            f"expected a list of texts or dictionaries, got {type(items).__name__}; remember() takes one"
        )
    return list(items)


def _checked(given: Given) -> Given:
    for name in _NAMES:
        check_name(name, getattr(given, name))
    clock.moment("at", given.at)
    clock.moment("expires", given.expires)
    given_metadata(given.metadata)
    lists = {name: names_in(name, getattr(given, name)) for name in _LISTS}
    return replace(given, mask=None if given.mask is None else hiding_mask(given.mask), **lists)


def check_name(name: str, value: Any) -> None:
    """Raises unless an argument is left out or a text that names something."""
    if value is not None and not isinstance(value, str):
        raise InvalidTypeError(f"{name} is a string, got {type(value).__name__} {value!r}")
    if value is not None and not value:
        raise InvalidInputError(f"{name} is empty; leave it out or name it")
    if value and (flaw := text_flaw(value)):
        raise InvalidInputError(f"{name} {value!r} {flaw}")


def check_text(text: Any) -> None:
    """Looks at a text before its header, which would make an empty one look full, is put above it.

    Raises:
        InvalidInputError: It is no text, or empty.
        InvalidDocumentError: It cannot be stored.
    """
    if not isinstance(text, str) or not text.strip():
        raise InvalidInputError(f"an item needs a text that is not empty, got {text!r}")
    if flaw := text_flaw(text):
        raise InvalidDocumentError(f"the text of an item {flaw}")
