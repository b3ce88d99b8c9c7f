"""Forgetting and finding: an item takes its versions along, and everything that was made of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from mllm_plugin import clock
from mllm_plugin.agent.items import Forgotten
from mllm_plugin.agent.naming import FIELD, is_version, outer_namespaces, own
from mllm_plugin.errors import NotFoundError, VersionConflictError
from mllm_plugin.memory.checks import id_of
from mllm_plugin.reports import RemoveReport
from mllm_plugin.types import Namespace, StoredDocument

if TYPE_CHECKING:
    from mllm_plugin.agent.shared import Shared

ATTEMPTS = 10  # at what somebody else changes meanwhile
Chosen = dict[Namespace, dict[str, str]]  # by scope: ids of documents, and of the items that they belong to


@dataclass(frozen=True)
class Here:
    """Where somebody forgets.

    Attributes:
        namespace: Of the scope.
        outermost: What it does not reach out of.
    """

    namespace: Namespace
    outermost: Namespace = ()


def find(
    shared: Shared, namespace: Namespace, item_id: str, *, within: Sequence[str] | None = ()
) -> StoredDocument | None:
    """An item of a scope or of one below it; to be read only, also of those `within` around it."""
    near = (namespace, *outer_namespaces(namespace, within))
    for place in chain(near, _below(shared, namespace, id_of(item_id))):
        if found := items_with(shared, place, [item_id]):
            return found[0]
    return None


def _below(shared: Shared, namespace: Namespace, item_id: str) -> Iterator[Namespace]:
    with shared.memory.snapshot() as snapshot:
        rows = snapshot.holding(namespace, item_id)
    yield from (row.namespace for row in rows if row.namespace != namespace)


def items_with(shared: Shared, namespace: Namespace, ids: Iterable[str]) -> list[StoredDocument]:
    """The items of a namespace that have these ids, each once; an old version is none."""
    found = shared.memory.get(list(dict.fromkeys(ids)), namespace=namespace)
    return [document for document in found if not is_version(document)]


def found(
    shared: Shared, namespace: Namespace, item_id: str, *, within: Sequence[str] | None = ()
) -> StoredDocument:
    """`find`.

    Raises:
        NotFoundError: It is not there.
    """
    document = find(shared, namespace, item_id, within=within)
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
    """Which items a call means, by scope, and ids that are not there.

    A filter looks at items as they are now; their old versions go with them.
    """
    named: Chosen = {}
    missing: list[str] = []
    if ids is None:
        now = None if condition is None else {"$and": [condition, {f"{FIELD}.of": {"$exists": False}}]}
        for document in shared.memory.documents(namespace=namespace, prefix=True, filter=now):
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


def derived(shared: Shared, named: Chosen, outermost: Namespace = ()) -> Chosen:
    """Old versions of items, and whatever was made of these, however many steps away.

    Looks in their scope, below and above it, since a summary may lie above what it sums up; never beside it,
    where the same id is another item's, nor out of the outermost scope.
    """
    known = {(place, name) for place, ids in named.items() for name in ids}
    more: Chosen = {}
    open_ids = {place: list(ids.values()) for place, ids in named.items()}
    while open_ids:
        following: dict[Namespace, list[str]] = {}
        for place, ids in open_ids.items():
            condition = {"$or": [{f"{FIELD}.{key}": {"$in": ids}} for key in ("of", "by", "derived_from")]}
            around = outermost or place[:1]
            for document in shared.memory.documents(namespace=around, prefix=True, filter=condition):
                if (document.namespace, document.id) in known or not _means(shared, document, place, ids):
                    continue
                known.add((document.namespace, document.id))
                more.setdefault(document.namespace, {})[document.id] = _shown(document)
                following.setdefault(document.namespace, []).append(document.id)
        open_ids = following
    return more


def _shown(document: StoredDocument) -> str:
    """What a report calls a document: "home@1" for the first version of "home"."""
    said = own(document.metadata)
    return f"{said['of']}@{said.get('version', 1)}" if is_version(document) else document.id


def _means(shared: Shared, document: StoredDocument, place: Namespace, ids: Sequence[str]) -> bool:
    """Whether a document that names ids means the items that have them at a place.

    A version lies with its item. What a summary in another scope names is first an item of that scope.
    """
    if document.namespace == place:
        return True
    shorter = min(len(place), len(document.namespace))
    if place[:shorter] != document.namespace[:shorter]:
        return False
    named = [name for name in own(document.metadata).get("derived_from", ()) if name in set(ids)]
    return len(items_with(shared, document.namespace, named)) < len(named)


def erase(shared: Shared, here: Here, named: Chosen, missing: tuple[str, ...]) -> Forgotten:
    """Removes items with all that is derived from them, and takes their ids out of the audit log."""
    more = derived(shared, named, here.outermost)
    together, gone = _together(named, more), _items_of(named)
    if not together:
        return Forgotten((), missing=missing)
    with shared.memory.batch() as batch:
        for place, ids in together.items():
            batch.remove(ids, namespace=place)
    erased = shared.memory.remove([], namespace=here.namespace)  # waits for readers of old pages
    shared.likeness.forget()
    shared.turns.forget()
    kept = shared.audit.erase([*gone, *(name for ids in together.values() for name in ids)])
    shared.audit.note_count("forget", here.namespace, sum(map(len, together.values())))
    reports = tuple(report for report in batch.reports if isinstance(report, RemoveReport))
    reason = "; ".join(filter(None, (erased.reason, kept)))
    return Forgotten(gone, _items_of(more), erased.erased and not kept, missing, reason, reports)


def sweep(shared: Shared, here: Here) -> RemoveReport:
    """Removes what has expired, with all that is derived from it, as if it were forgotten.

    Raises:
        VersionConflictError: Somebody gives what has expired more time again and again.
    """
    took, names = _swept(shared, here)
    report = shared.memory.remove([], namespace=here.namespace)  # waits for readers of old pages
    shared.likeness.forget()
    shared.turns.forget()
    kept = shared.audit.erase(name for _, name in names)
    shared.audit.note_count("expire", here.namespace, len(names))
    return replace(
        report,
        documents=sum(one.documents for one in took),
        chunks=sum(one.chunks for one in took),
        erased=report.erased and not kept,
        reason="; ".join(filter(None, (report.reason, kept))),
        weights=tuple(dict.fromkeys([*report.weights, *(name for one in took for name in one.weights)])),
        removed=tuple(names),
    )


def _swept(shared: Shared, here: Here) -> tuple[list[RemoveReport], list[tuple[Namespace, str]]]:
    """Removes in one transaction what is expired then; reports, and what was removed."""
    for attempt in range(ATTEMPTS):
        expired = _expired(shared, here.namespace)
        named = {place: {one.id: one.id for one in documents} for place, documents in expired.items()}
        together = _together(named, derived(shared, named, here.outermost))
        try:
            with shared.memory.batch() as batch:
                for place, documents in expired.items():
                    for one in documents:  # changes nothing, and is refused where somebody gave it more time
                        batch.update(one.id, if_version=one.version, namespace=place)
                for place, ids in together.items():
                    batch.remove(ids, namespace=place)
        except (VersionConflictError, NotFoundError):
            if attempt + 1 == ATTEMPTS:
                raise
        else:
            took = [one for one in batch.reports if isinstance(one, RemoveReport)]
            return took, [(place, name) for place, ids in together.items() for name in ids]
    raise AssertionError("the last attempt returns or raises")


def _expired(shared: Shared, namespace: Namespace) -> dict[Namespace, list[StoredDocument]]:
    found: dict[Namespace, list[StoredDocument]] = {}
    now = clock.now()
    for one in shared.memory.documents(namespace=namespace, prefix=True, masked=True, order="expires_at"):
        if one.expires_at is None or one.expires_at > now:
            break
        found.setdefault(one.namespace, []).append(one)
    return found


def hide(shared: Shared, here: Here, named: Chosen, missing: tuple[str, ...], label: str) -> Forgotten:
    """Masks items with all that is derived from them, in one transaction."""
    more = derived(shared, named, here.outermost)
    with shared.memory.batch() as batch:
        for place, ids in _together(named, more).items():
            batch.mask(ids, label=label, namespace=place)
    gone = _items_of(named)
    shared.audit.note("hide", here.namespace, gone)
    return Forgotten(gone, _items_of(more), False, missing, "hidden, not erased: restore() brings it back")


def restore(shared: Shared, here: Here, named: Chosen, label: str) -> tuple[str, ...]:
    """Lifts a mask of `hide`; ids of the items that had it."""
    named = {place: _masked(shared, place, ids, label) for place, ids in named.items()}
    with shared.memory.batch() as batch:
        for place, ids in _together(named, derived(shared, named, here.outermost)).items():
            batch.unmask(ids, label=label, namespace=place)
    gone = _items_of(named)
    shared.audit.note("restore", here.namespace, gone)
    return gone


def _masked(shared: Shared, place: Namespace, ids: Mapping[str, str], label: str) -> dict[str, str]:
    found = shared.memory.get(list(ids), namespace=place)
    return {one.id: ids[one.id] for one in found if label in one.masks}


def _together(named: Chosen, more: Chosen) -> dict[Namespace, list[str]]:
    return {place: [*named.get(place, {}), *more.get(place, {})] for place in {**named, **more}}


def _items_of(named: Chosen) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for ids in named.values() for name in ids.values()))
