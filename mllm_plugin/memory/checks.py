"""Checks of what callers of the facade pass, before anything is read or written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mllm_plugin import clock
from mllm_plugin.config import MemoryConfig
from mllm_plugin.errors import InvalidInputError, InvalidTypeError, NotFoundError
from mllm_plugin.hierarchy import as_reranker
from mllm_plugin.protocols import Reranker
from mllm_plugin.store.database import FILE_NAME
from mllm_plugin.store.documents import Which, check_selection
from mllm_plugin.store.filters import compile_filter, plain_filter
from mllm_plugin.store.listing import ORDERS, Listing
from mllm_plugin.store.namespaces import check_namespace
from mllm_plugin.store.times import EXPIRED, SUPERSEDED, When
from mllm_plugin.text.letters import text_flaw
from mllm_plugin.types import Namespace, SearchMode

_MODES = ("auto", "beam", "flat", "exact")
_MOST = 2**62  # documents; SQLite counts to twice as many
_LONGEST_WAIT = 1_000_000  # seconds


@dataclass(frozen=True)
class Scope:
    """The part of a memory that a call may see, checked.

    Attributes:
        namespace: Where to look.
        prefix: Look in every namespace below it too.
        filter: Metadata condition.
        exclude_labels: Documents with one of these labels are left out.
    """

    namespace: Namespace = ()
    prefix: bool = False
    filter: Mapping[str, Any] | None = None
    exclude_labels: tuple[str, ...] = ()


SCOPE: Mapping[str, Any] = {field.name: field.default for field in fields(Scope)}
"""The options that make a scope, with their defaults."""


# -- numbers and names


def positive(name: str, value: Any) -> int:
    """An int of at least 1."""
    return at_least(name, value, 1)


def at_least(name: str, value: Any, least: int) -> int:
    """An int that is not below `least`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidTypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < least:
        raise InvalidInputError(f"{name} must be at least {least}, got {value}")
    return value


def reranker_of(given: Any) -> Reranker | None:
    """What scores the best chunks anew; None for nothing."""
    if given is None:
        return None
    reranker = as_reranker(given)
    positive("the reranker's finalists", reranker.finalists)
    return reranker


def share(name: str, value: Any) -> float:
    """A number from 0 to 1."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InvalidTypeError(f"{name} must be a number, got {type(value).__name__}")
    if not 0 <= value <= 1:
        raise InvalidInputError(f"{name} must be from 0 to 1, got {value}")
    return float(value)


def seconds(name: str, value: Any) -> float:
    """A number of seconds that a wait can take."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InvalidTypeError(f"{name} must be a number of seconds, got {type(value).__name__}")
    if not 0 <= value <= _LONGEST_WAIT:
        raise InvalidInputError(f"{name} must be from 0 to {_LONGEST_WAIT} seconds, got {value}")
    return float(value)


def label_of(label: Any) -> str:
    """A label: any Unicode text."""
    if not isinstance(label, str):
        raise InvalidTypeError(f"a label is a string, got {type(label).__name__} {label!r}")
    if reason := text_flaw(label):
        raise InvalidInputError(f"label {label!r} {reason}")
    return label


def mask_of(label: Any) -> str:
    """The name of a mask that callers may put on documents."""
    if label_of(label) == EXPIRED:
        raise InvalidInputError(
            f"the mask {EXPIRED!r} is the memory's own, for what has expired; use another label, or give the "
            f"documents an expires_at"
        )
    return label


def labels_of(labels: Any, name: str = "exclude_labels") -> tuple[str, ...]:
    """Several labels."""
    if isinstance(labels, str) or not isinstance(labels, Iterable):
        raise InvalidTypeError(f"{name} takes a list of strings, got {labels!r}")
    found = tuple(labels)
    if not all(isinstance(label, str) for label in found):
        raise InvalidTypeError(f"{name} takes a list of strings, got {labels!r}")
    return tuple(label_of(label) for label in found)


def ids_of(ids: Any) -> list[str] | None:
    """Document ids as a list; None stays None."""
    if ids is None:
        return None
    if isinstance(ids, bytes) or not isinstance(ids, Iterable):
        raise InvalidTypeError(f"ids are strings, got {type(ids).__name__} {ids!r}")
    found = [ids] if isinstance(ids, str) else list(ids)
    for one in found:
        if not isinstance(one, str):
            raise InvalidTypeError(f"ids are strings, got {type(one).__name__} {one!r}")
    return found


# -- which documents


def filter_of(condition: Any) -> Mapping[str, Any] | None:
    """A well-formed metadata filter."""
    if condition is None:
        return None
    plain = plain_filter(condition)
    compile_filter(plain, 0)
    return plain


def which_of(ids: Any, condition: Any, label: Any = None) -> Which:
    """The documents that a call means; it must say which."""
    which = Which(ids_of(ids), filter_of(condition), None if label is None else label_of(label))
    check_selection(**which._asdict())
    return which


def scope_of(namespace: Any, prefix: Any = False, filter: Any = None, exclude_labels: Any = ()) -> Scope:
    """Where a search looks, and at what."""
    return Scope(check_namespace(namespace), bool(prefix), filter_of(filter), labels_of(exclude_labels))


def listing_of(filter: Any, masked: Any, order: Any = None, limit: Any = None, offset: Any = 0) -> Listing:
    """Which documents to list, and in which order."""
    if masked is not None and not isinstance(masked, bool):
        raise InvalidTypeError(f"masked is True, False or None, got {masked!r}")
    if order is not None and order not in ORDERS:
        raise InvalidInputError(f"unknown order {order!r}; expected one of {', '.join(ORDERS)}")
    most = None if limit is None else min(_MOST, at_least("limit", limit, 0))
    return Listing(filter_of(filter), masked, order, most, min(_MOST, at_least("offset", offset, 0)))


def version_of(version: Any) -> int | None:
    """The version that a caller has seen of a document; None for any."""
    return None if version is None else at_least("if_version", version, 0)


def id_of(document_id: Any) -> str:
    """The id of one document."""
    if not isinstance(document_id, str):
        raise InvalidTypeError(f"an id is a string, got {type(document_id).__name__} {document_id!r}")
    return document_id


def when_of(as_of: Any, since: Any, include_masked: Any) -> When:
    """Which documents a search sees, by time and mask; what held then may have been superseded since."""
    moment = clock.moment("as_of", as_of)
    seen = labels_of(include_masked, "include_masked")
    if moment is not None:
        seen = (*seen, SUPERSEDED)
    return When(clock.moment("since", since), moment, tuple(sorted(set(seen))))


def mode_of(mode: Any, exact: bool, *, through_masks: bool = False) -> SearchMode:
    """The search mode; `exact=True` is another way to say mode "exact"."""
    if mode not in _MODES:
        raise InvalidInputError(f"unknown mode {mode!r}; expected one of {', '.join(_MODES)}")
    if exact and mode not in ("auto", "exact"):
        raise InvalidInputError(f"exact=True and mode={mode!r} contradict each other; leave one of them out")
    if mode == "beam" and through_masks:
        raise InvalidInputError("a walk (mode='beam') does not see what is masked; leave the mode out")
    return "exact" if exact else mode


# -- files


def path_of(path: Any) -> Path:
    """A path that the system can take."""
    try:
        name = os.fsencode(Path(path).expanduser())
    except TypeError:
        raise InvalidTypeError(f"path must be a string or a path, got {type(path).__name__}") from None
    except ValueError as error:
        raise InvalidInputError(f"{path!r} cannot be a path: {error}") from None
    if b"\0" in name:
        raise InvalidInputError(f"{path!r} cannot be a path: it holds a NUL")
    return Path(os.fsdecode(name))


def new_file(path: Any) -> Path:
    """A path in a folder that is there, and where nothing is yet."""
    target = path_of(path)
    if target.exists():
        raise InvalidInputError(f"{target} exists; a backup never overwrites. Choose another name")
    if not target.parent.is_dir():
        raise NotFoundError(f"there is no folder {target.parent} for the backup")
    return target


def check_opening(folder: Path, encoder: Any, config: Any, create: bool) -> None:
    """Raises when a memory cannot be opened so."""
    if config is not None and not isinstance(config, MemoryConfig):
        raise InvalidTypeError(f"config must be a MemoryConfig, got {type(config).__name__}")
    if encoder is None and not (folder / FILE_NAME).exists():
        raise (InvalidInputError if create else NotFoundError)(
            f"no memory at {folder}; a new one needs an encoder"
        )
