"""Scopes as namespaces, and a scope's items as documents.

A document's text is the item's with a header above it: who speaks with whom, and when. The header is embedded
and ranked with the text, since a message leans on it; what the caller gets is the text alone.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from mllm_plugin import clock
from mllm_plugin.agent.items import Memory
from mllm_plugin.errors import InvalidInputError, InvalidTypeError
from mllm_plugin.memory.checks import mask_of
from mllm_plugin.types import Namespace, StoredDocument

KEYS = ("app", "user", "agent", "session")
"""What a scope may name, the widest first."""
FIELD = "item"  # of the metadata: everything that the agent memory says of an item
MESSAGE, FACT = "message", "fact"
SUPERSEDED, HIDDEN = "superseded", "hidden"
_LONG_AGO = datetime(1970, 1, 1, tzinfo=timezone.utc)  # of documents that an early release wrote


def namespace_of(names: Mapping[str, str]) -> Namespace:
    """The namespace of a scope, the widest part first."""
    return tuple(f"{key}:{names[key]}" for key in KEYS if key in names)


def names_of(namespace: Namespace) -> dict[str, str]:
    """The names of a scope by key."""
    parts = (part.partition(":") for part in namespace)
    return {key: name for key, colon, name in parts if colon}


def checked_names(bound: Mapping[str, str], given: Mapping[str, Any]) -> dict[str, str]:
    """The names of a narrower scope.

    Raises:
        InvalidTypeError: A name is no string.
        InvalidInputError: It is empty, or the scope is bound to another one.
    """
    names = dict(bound)
    for key, name in given.items():
        if name is None:
            continue
        if not isinstance(name, str):
            raise InvalidTypeError(f"{key} of a scope is a string, got {type(name).__name__} {name!r}")
        if not name:
            raise InvalidInputError(f"{key} of a scope is empty; leave it out or name it")
        if bound.get(key, name) != name:
            raise InvalidInputError(
                f"this scope is bound to {key}={bound[key]!r} and cannot become {key}={name!r}; "
                f"make a scope of the whole memory: memory.scope({key}={name!r})"
            )
        names[key] = name
    return names


def checked_keys(within: Any) -> tuple[str, ...]:
    """Keys of scopes; a string is one of them.

    Raises:
        InvalidTypeError: It is no list of strings.
        InvalidInputError: One is no key.
    """
    keys = names_in("within", within)
    if unknown := [key for key in keys if key not in KEYS]:
        raise InvalidInputError(f"within names the unknown key {unknown[0]!r}; expected {', '.join(KEYS)}")
    return keys


def names_in(name: str, value: Any) -> tuple[str, ...]:
    """Several names of an argument; a string is one of them.

    Raises:
        InvalidTypeError: It is no list of strings.
        InvalidInputError: One is empty.
    """
    if isinstance(value, bytes | Mapping) or not isinstance(value, Iterable):
        raise InvalidTypeError(f"{name} is a string or a list of them, got {type(value).__name__} {value!r}")
    found = (value,) if isinstance(value, str) else tuple(value)
    for one in found:
        if not isinstance(one, str):
            raise InvalidTypeError(f"{name} is a string or a list of them, got {one!r} in it")
        if not one:
            raise InvalidInputError(f"{name} holds an empty string; leave it out or name it")
    return found


def inner_keys(outermost: Namespace, within: Iterable[str] | None = None) -> tuple[str, ...] | None:
    """Keys of the scopes to look in, none of them further out than this one; None for all.

    Raises:
        InvalidInputError: `within` names others only.
    """
    if not outermost:
        return None if within is None else tuple(within)
    inner = KEYS[KEYS.index(outermost[-1].partition(":")[0]) :]
    asked = inner if within is None else tuple(within)
    if not set(asked) & set(inner):
        raise InvalidInputError(
            f"within={list(asked)!r} names nothing that is seen here; it may name {inner}"
        )
    return tuple(key for key in asked if key in inner)


def outer_namespaces(namespace: Namespace, within: Iterable[str] | None) -> list[Namespace]:
    """Namespaces around this one that a recall falls through to, the nearest first."""
    wanted = KEYS if within is None else tuple(within)
    around = [namespace[:end] for end in range(len(namespace) - 1, 0, -1)]
    return [one for one in around if one[-1].partition(":")[0] in wanted]


@dataclass(frozen=True)
class Told:
    """What the caller says of an item, beside its text; see `AgentScope.remember`."""

    kind: str
    speaker: str | None
    session: str | None
    participants: tuple[str, ...]
    source: Any
    derived_from: tuple[str, ...]
    at: datetime
    dated: bool

    def header(self) -> str:
        """What is embedded above the text; empty where nothing was told.

        What somebody said needs to be told by whom and when; a fact says so itself, and a header would only
        dilute it.
        """
        if self.kind != MESSAGE and self.speaker is None:
            return ""
        when = f"{self.at.day} {self.at:%B %Y, %H:%M}" if self.dated else ""
        above = ", ".join(filter(None, (" & ".join(self.participants), when)))
        return (f"{above}\n" if above else "") + (f"{self.speaker}: " if self.speaker else "")


def place_of(session: str, turn: int) -> int:
    """The place of a message: an integer that its neighbours in the session differ from by one."""
    digest = hashlib.blake2b(session.encode("utf-8"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 12) + turn  # below 2**53: floats hold it exactly


def hiding_mask(label: str | None) -> str:
    """The name of a mask that hides items.

    Raises:
        InvalidInputError: The memory itself masks under it.
    """
    if label == SUPERSEDED:
        raise InvalidInputError(
            f"the mask {label!r} is the agent memory's own, for old versions; use another label"
        )
    return mask_of(label or HIDDEN)


def is_version(document: StoredDocument) -> bool:
    """Whether a document is an old version of an item, which has an id of its own that nobody names."""
    return "of" in own(document.metadata)


def new_id() -> str:
    """An id that nothing else has."""
    return uuid.uuid4().hex


def own(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What the agent memory says of a document."""
    found = metadata.get(FIELD)
    return dict(found) if isinstance(found, Mapping) else {}


def successors(said: Mapping[str, Any]) -> list[str]:
    """The items that took the place of one; early releases kept the last of them alone."""
    found = said.get("by", [])
    return [found] if isinstance(found, str) else list(found)


def given_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """The caller's metadata, checked.

    Raises:
        InvalidTypeError: It is no dictionary.
        InvalidInputError: It uses the reserved name.
    """
    if metadata is not None and not isinstance(metadata, Mapping):
        raise InvalidTypeError(f"metadata is a dictionary, got {type(metadata).__name__} {metadata!r}")
    if metadata is not None and FIELD in metadata:
        raise InvalidInputError(
            f"the metadata field {FIELD!r} is the agent memory's own; use another name, or pass kind=, "
            f"speaker=, session= and source= as arguments"
        )
    return dict(metadata or {})


def memory_of(document: StoredDocument, **found: Any) -> Memory:
    """A document as an item, with what a recall found of it."""
    said = own(document.metadata)
    created = moment_of(said.get("created")) or document.created_at or _LONG_AGO
    return Memory(
        id=said.get("of", document.id),
        text=document.text[said.get("head", 0) :],
        kind=said.get("kind", FACT),
        metadata={key: value for key, value in document.metadata.items() if key != FIELD},
        scope=names_of(document.namespace),
        session=said.get("session"),
        speaker=said.get("speaker"),
        source=said.get("source"),
        derived_from=tuple(said.get("derived_from", ())),
        at=moment_of(said.get("at")) or created,
        created_at=created,
        updated_at=moment_of(said.get("updated")) or document.updated_at or created,
        expires_at=document.expires_at,
        valid_from=document.valid_from,
        valid_to=document.valid_to,
        version=said.get("version", 1),
        masks=document.masks,
        **found,
    )


def moment_of(stored: str | None) -> datetime | None:
    """A moment of an item's metadata."""
    return None if stored is None else clock.parsed(stored)
