"""Forgetting and finding: an item takes its versions along, and everything that was made of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from mllm_plugin.agent.items import Forgotten
from mllm_plugin.agent.naming import FIELD, outer_namespaces, own
from mllm_plugin.errors import NotFoundError
from mllm_plugin.types import Namespace, RemoveReport, StoredDocument

if TYPE_CHECKING:
    from mllm_plugin.agent.shared import Shared

Chosen = dict[Namespace, dict[str, str]]  # by scope: ids of documents, and of the items that they belong to


def find(shared: Shared, namespace: Namespace, item_id: str, *, outer: bool = False) -> StoredDocument | None:
    """An item of a scope or of one below it; to be read only, with `outer`, also of those around it."""
    memory = shared.memory
    for place in (namespace, *(outer_namespaces(namespace, None) if outer else ())):
        if found := memory.get(item_id, namespace=place):
            return found[0]
    for place in memory.namespaces(namespace):
        if place != namespace and (found := memory.get(item_id, namespace=place)):
            return found[0]
    return None


def found(shared: Shared, namespace: Namespace, item_id: str, *, outer: bool = False) -> StoredDocument:
    """`find`.

    Raises:
        NotFoundError: It is not there.
    """
    document = find(shared, namespace, item_id, outer=outer)
    if document is None:
        raise NotFoundError(
            f"no item {item_id!r} in this scope ({'/'.join(namespace) or 'the whole memory'}); list() shows "
            f"what there is"
        )
    return document


def chosen(
    shared: Shared,
    namespace: Namespace,
    ids: Iterable[str] | None,
    condition: Mapping[str, Any] | None,
) -> tuple[Chosen, tuple[str, ...]]:
    """Which items a call means, by scope, and ids that are not there."""
    named: Chosen = {}
    missing: list[str] = []
    if ids is None:
        for document in shared.memory.documents(namespace=namespace, prefix=True, filter=condition):
            item_id = own(document.metadata).get("of", document.id)
            named.setdefault(document.namespace, {})[document.id] = item_id
        return named, ()
    for item_id in ids:
        document = find(shared, namespace, item_id)
        if document is None:
            missing.append(item_id)
        else:
            named.setdefault(document.namespace, {})[document.id] = item_id
    return named, tuple(missing)


def derived(shared: Shared, named: Chosen) -> Chosen:
    """Old versions of items, and whatever was made of these, however many steps away.

    Looks in their scope, below and above it, since a summary may lie above what it sums up; never beside it,
    where the same id is another item's.
    """
    known = {(place, name) for place, ids in named.items() for name in ids}
    more: Chosen = {}
    open_ids = {place: list(ids.values()) for place, ids in named.items()}
    while open_ids:
        following: dict[Namespace, list[str]] = {}
        for place, ids in open_ids.items():
            condition = {"$or": [{f"{FIELD}.{key}": {"$in": ids}} for key in ("of", "by", "derived_from")]}
            for document in shared.memory.documents(namespace=place[:1], prefix=True, filter=condition):
                if (document.namespace, document.id) in known or not _in_line(place, document.namespace):
                    continue
                known.add((document.namespace, document.id))
                more.setdefault(document.namespace, {})[document.id] = document.id
                following.setdefault(document.namespace, []).append(document.id)
        open_ids = following
    return more


def _in_line(one: Namespace, other: Namespace) -> bool:
    """Whether one of two scopes lies within the other."""
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]


def erase(shared: Shared, namespace: Namespace, named: Chosen, missing: tuple[str, ...]) -> Forgotten:
    """Removes items with all that is derived from them, and takes their ids out of the audit log."""
    more = derived(shared, named)
    together, gone = _together(named, more), _items_of(named)
    if not together:
        return Forgotten((), missing=missing)
    with shared.memory.batch() as batch:
        for place, ids in together.items():
            batch.remove(ids, namespace=place)
    erased = shared.memory.remove([], namespace=namespace)  # waits for readers of old pages, as remove does
    shared.likeness.forget()
    shared.turns.forget()
    kept = shared.audit.erase([*gone, *(name for ids in together.values() for name in ids)])
    shared.audit.note_count("forget", namespace, sum(map(len, together.values())))
    reports = tuple(one for one in batch.reports if isinstance(one, RemoveReport))
    reason = "; ".join(filter(None, (erased.reason, kept)))
    return Forgotten(gone, _names_in(more), erased.erased and not kept, missing, reason, reports)


def hide(
    shared: Shared, namespace: Namespace, named: Chosen, missing: tuple[str, ...], label: str
) -> Forgotten:
    """Masks items with all that is derived from them, in one transaction."""
    more = derived(shared, named)
    with shared.memory.batch() as batch:
        for place, ids in _together(named, more).items():
            batch.mask(ids, label=label, namespace=place)
    gone = _items_of(named)
    shared.audit.note("hide", namespace, gone)
    return Forgotten(gone, _names_in(more), False, missing, "hidden, not erased: restore() brings it back")


def restore(shared: Shared, namespace: Namespace, named: Chosen, label: str) -> tuple[str, ...]:
    """Lifts a mask of `hide`."""
    with shared.memory.batch() as batch:
        for place, ids in _together(named, derived(shared, named)).items():
            batch.unmask(ids, label=label, namespace=place)
    gone = _items_of(named)
    shared.audit.note("restore", namespace, gone)
    return gone


def _together(named: Chosen, more: Chosen) -> dict[Namespace, list[str]]:
    return {place: [*named.get(place, {}), *more.get(place, {})] for place in {**named, **more}}


def _items_of(named: Chosen) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for ids in named.values() for name in ids.values()))


def _names_in(more: Chosen) -> tuple[str, ...]:
    return tuple(name for ids in more.values() for name in ids)
