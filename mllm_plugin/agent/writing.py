"""Remembering and updating: no language model, one encoder call for new text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from mllm_plugin import clock
from mllm_plugin.agent import forgetting
from mllm_plugin.agent.given import Given, check_name, check_text
from mllm_plugin.agent.items import Duplicate, Remembered
from mllm_plugin.agent.naming import (
    FIELD,
    MESSAGE,
    SUPERSEDED,
    Told,
    given_metadata,
    is_version,
    new_id,
    own,
    successors,
)
from mllm_plugin.errors import InvalidInputError, NotFoundError, VersionConflictError
from mllm_plugin.memory.batch import Batch
from mllm_plugin.memory.checks import version_of
from mllm_plugin.memory.editing import KEEP
from mllm_plugin.reports import AddReport
from mllm_plugin.store.times import EXPIRED
from mllm_plugin.types import Document, Moment, Namespace, StoredDocument

if TYPE_CHECKING:
    from mllm_plugin.agent.shared import Shared

_KEPT = ("version", "place", "said", "by")  # of an item that is told again


@dataclass(frozen=True)
class Change:
    """What becomes of an item; see `AgentScope.update`.

    Attributes:
        told: Where it is told anew by `remember`: all that is said of it then.
    """

    text: str | None = None
    metadata: Mapping[str, Any] | None = None
    merge: bool = False
    kind: str | None = None
    expires: Moment | Literal["keep"] | None = KEEP
    at: Moment | None = None
    if_version: int | None = None
    told: Given | None = None

    def check(self) -> None:
        """Raises where an argument is of another type, or names nothing."""
        if self.text is not None:
            check_text(self.text)
        check_name("kind", self.kind)
        given_metadata(self.metadata)
        version_of(self.if_version)
        clock.moment("at", self.at)
        if self.expires != KEEP:
            clock.moment("expires", self.expires)


def remember(
    shared: Shared, namespace: Namespace, items: Sequence[Given], duplicates: str, history: bool
) -> list[Remembered]:
    """Writes items, the new ones in one transaction, after a look for near-duplicates.

    An id that is there makes a new version of its item.
    """
    there = _there(shared, namespace, [item.id for item in items if item.id is not None])
    if there:
        return [
            _again(shared, namespace, item, history)
            if item.id in there
            else remember(shared, namespace, [item], duplicates, history)[0]
            for item in items
        ]
    try:
        return _remember_new(shared, namespace, items, duplicates, history)
    except VersionConflictError:  # somebody else was faster: the id is there now, or the place in the session
        shared.turns.forget()
        return remember(shared, namespace, items, duplicates, history)


def _remember_new(
    shared: Shared, namespace: Namespace, items: Sequence[Given], duplicates: str, history: bool
) -> list[Remembered]:
    told = [item.told() for item in items]
    gone = [_to_end(shared, namespace, item.supersedes) for item in items]
    with shared.memory.batch() as batch:
        alike = _alike(shared, namespace, items, duplicates, batch)
        documents = [
            None
            if found and duplicates == "merge" and one.id is None
            else _document(shared, namespace, one, said)
            for one, said, found in zip(items, told, alike, strict=True)
        ]
        written = [one for one in documents if one is not None]
        batch.add(written, namespace=namespace, new=True, unless=_places(written))
        for one, document, said, ended in zip(items, documents, told, gone, strict=True):
            if document is not None:
                _end(batch, ended, document.id, said.at, history)
                _mask(batch, namespace, document.id, one.mask)
    if any(gone) and not history:
        shared.likeness.forget()
    reports = [
        _refresh(shared, namespace, one, found)
        if document is None
        else Remembered(document.id, 1, found, superseded=tuple(old.id for old in ended))
        for one, document, found, ended in zip(items, documents, alike, gone, strict=True)
    ]
    shared.audit.note("remember", namespace, [report.id for report in reports])
    return reports


def _places(documents: Sequence[Document]) -> Mapping[str, Any] | None:
    """What no message may be at yet: two of a session would have one place."""
    places = [said["place"] for one in documents if "place" in (said := own(one.metadata))]
    return {f"{FIELD}.place": {"$in": places}} if places else None


def _there(shared: Shared, namespace: Namespace, ids: Sequence[str]) -> set[str]:
    """Which ids an item has already.

    Raises:
        InvalidInputError: An old version has one of them, as in memories of earlier releases.
    """
    found = shared.memory.get(ids, namespace=namespace) if ids else []
    for one in found:
        if is_version(one):
            raise InvalidInputError(
                f"the id {one.id!r} is taken by an old version of {own(one.metadata)['of']!r}; take another"
            )
    return {one.id for one in found}


def update(shared: Shared, namespace: Namespace, item_id: str, change: Change, history: bool) -> Remembered:
    """Makes a new version of an item; the old one is kept under the mask "superseded", or erased.

    Where somebody else changes the item meanwhile, that is done anew, unless the caller named a version.

    Raises:
        NotFoundError: It is not there.
        VersionConflictError: It has another version than the caller named.
    """
    change.check()
    for _ in range(forgetting.ATTEMPTS):
        document = forgetting.found(shared, namespace, item_id)
        version = own(document.metadata).get("version", 1)
        if change.if_version not in (None, version):
            break
        try:
            report = _renew(shared, document, change, history)
        except VersionConflictError:
            continue
        shared.audit.note("update", document.namespace, [document.id])
        return report
    raise VersionConflictError(
        f"item {item_id!r} has version {version}, expected {change.if_version or 'one that stays'}: somebody "
        f"changed it meanwhile. Get it again, and decide anew"
    )


def _renew(shared: Shared, document: StoredDocument, change: Change, history: bool) -> Remembered:
    """Writes a new version in place of the one that was read."""
    if document.valid_to is not None:
        raise InvalidInputError(
            f"item {document.id!r} has ended; update what took its place, or remember anew"
        )
    moment = _after(document, clock.at(clock.moment("at", change.at)) or clock.now())
    new, where, told = _changed(document, change, moment), document.namespace, change.told
    others = () if told is None else tuple(name for name in told.supersedes if name != document.id)
    ended = _to_end(shared, where, others)
    with shared.memory.batch() as batch:
        if history:
            old = _archived(document, moment)
            batch.add([old], namespace=where, split=document.split)
            for mask in {SUPERSEDED, *document.masks} - {EXPIRED}:
                batch.mask(old.id, label=mask, namespace=where)
        batch.update(document.id, valid_from=moment, namespace=where, if_version=document.version)
        batch.add([new], namespace=where, split=document.split)
        _end(batch, ended, document.id, moment, history)
        _mask(batch, where, document.id, None if told is None else told.mask)
    if change.text is not None:
        shared.likeness.forget()
    report = [one for one in batch.reports if isinstance(one, AddReport)][-1]
    version, names = new.metadata[FIELD]["version"], tuple(one.id for one in ended)
    erased = history or report.erased
    return Remembered(
        document.id, version, superseded=names, erased=erased, reason="" if erased else report.reason
    )


def _changed(document: StoredDocument, change: Change, moment: datetime) -> Document:
    """The new version of an item."""
    said = own(document.metadata)
    head = document.text[: said.get("head", 0)]
    before = {key: value for key, value in document.metadata.items() if key != FIELD}
    given = before if change.metadata is None else given_metadata(change.metadata)
    if change.told is not None:
        head, fields = _told_anew(change.told, said)
        said = {key: value for key, value in said.items() if key in _KEPT} | fields
    elif change.text is not None and said.get("kind") != MESSAGE:
        said["at"] = moment.isoformat()  # a message keeps its time: correcting it does not say it anew
    if change.kind is not None:
        said["kind"] = change.kind
    bare = document.text[own(document.metadata).get("head", 0) :]
    return Document(
        id=document.id,
        text=head + (bare if change.text is None else change.text),
        metadata={
            **(before | given if change.merge else given),
            FIELD: {**said, "version": said.get("version", 1) + 1},
        },
        labels=document.labels,
        expires_at=document.expires_at if change.expires == KEEP else change.expires,
        valid_from=moment,
        valid_to=document.valid_to,
    )


def _told_anew(given: Given, said: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Header and fields of an item that is told again; what is left out stays as it was."""
    kind = given.kind or said.get("kind")
    told = replace(
        given,
        kind=kind,
        at=given.at or (said.get("at") if kind == MESSAGE else None),
        speaker=given.speaker or said.get("speaker"),
        session=said.get("session") or given.session,
        source=said.get("source") if given.source is None else given.source,
        derived_from=given.derived_from or tuple(said.get("derived_from", ())),
    ).told()
    header = told.header()
    return header, _fields(told, header)


def _again(shared: Shared, namespace: Namespace, given: Given, history: bool) -> Remembered:
    """A new version of an item that is there already."""
    assert given.id is not None
    change = Change(given.text, given.metadata or {}, expires=given.expires, at=given.at, told=given)
    return update(shared, namespace, given.id, change, history)


def _mask(batch: Batch, namespace: Namespace, item_id: str, mask: str | None) -> None:
    if mask is not None:
        batch.mask(item_id, label=mask, namespace=namespace)


def _fields(said: Told, header: str) -> dict[str, Any]:
    """What the memory says of an item."""
    fields = {
        "kind": said.kind,
        "head": len(header),
        "speaker": said.speaker,
        "session": said.session,
        "source": said.source,
        "derived_from": list(said.derived_from),
        "at": said.at.isoformat(),
    }
    return {key: value for key, value in fields.items() if value not in (None, [], 0)}


def _document(shared: Shared, namespace: Namespace, given: Given, said: Told) -> Document:
    """An item as it is stored."""
    header = said.header()
    fields = {"version": 1, **_fields(said, header)}
    if said.session is not None and said.kind == MESSAGE:
        fields["place"] = shared.turns.next(namespace, said.session)
    return Document(
        id=given.id or new_id(),
        text=header + given.text,
        metadata={**given_metadata(given.metadata), FIELD: fields},
        expires_at=given.expires,
        valid_from=said.at if given.at is not None else None,
    )


def _alike(
    shared: Shared, namespace: Namespace, items: Sequence[Given], duplicates: str, batch: Batch
) -> list[tuple[Duplicate, ...]]:
    """Near-duplicates of each item; messages repeat each other without being any."""
    asked = [
        place
        for place, one in enumerate(items)
        if duplicates != "keep" and one.told().kind != MESSAGE and not one.supersedes
    ]
    found = shared.likeness.duplicates([items[place].text for place in asked], namespace, batch)
    alike: list[tuple[Duplicate, ...]] = [()] * len(items)
    for place, own_found in zip(asked, found, strict=True):
        alike[place] = tuple(one for one in own_found if one.id != items[place].id)
    return alike


def _refresh(shared: Shared, namespace: Namespace, given: Given, found: Sequence[Duplicate]) -> Remembered:
    """Notes on the nearest duplicate that it was said again."""
    (there,) = shared.memory.get(found[0].id, namespace=namespace)
    said = own(there.metadata)
    said["said"] = said.get("said", 1) + 1
    metadata = {**there.metadata, **given_metadata(given.metadata), FIELD: said}
    expires = KEEP if given.expires is None else given.expires
    shared.memory.update(there.id, metadata=metadata, expires_at=expires, namespace=namespace)
    return Remembered(there.id, said.get("version", 1), tuple(found), merged=True)


def _to_end(shared: Shared, namespace: Namespace, ids: Sequence[str]) -> list[StoredDocument]:
    """The items that another one takes the place of.

    Raises:
        NotFoundError: One is not there.
    """
    found = forgetting.items_with(shared, namespace, ids) if ids else []
    if absent := sorted(set(ids) - {one.id for one in found}):
        raise NotFoundError(f"no item {absent[0]!r} in this scope to supersede; list() shows what there is")
    return found


def _end(batch: Batch, ended: Sequence[StoredDocument], by: str, moment: datetime, history: bool) -> None:
    """Ends items that a new one takes the place of; what has ended keeps its end, and names both."""
    for document in ended:
        if not history:
            batch.remove(document.id, namespace=document.namespace)
            batch.remove(filter={f"{FIELD}.of": document.id}, namespace=document.namespace)
            continue
        said = own(document.metadata)
        names = list(dict.fromkeys([*successors(said), by]))
        metadata = {**document.metadata, FIELD: {**said, "by": names}}
        end = document.valid_to or _after(document, moment)
        batch.update(document.id, metadata=metadata, valid_to=end, namespace=document.namespace)
        batch.mask(document.id, label=SUPERSEDED, namespace=document.namespace)


def _archived(document: StoredDocument, moment: datetime) -> Document:
    """A version that is kept, as a document of its own."""
    said = own(document.metadata)
    kept = {key: value for key, value in said.items() if key != "place"} | {"of": document.id}
    for name, value in (("created", document.created_at), ("updated", document.updated_at)):
        kept |= {} if value is None else {name: value.isoformat()}
    return Document(
        id=new_id(),  # no name that could be another item's
        text=document.text,
        metadata={**document.metadata, FIELD: kept},
        labels=document.labels,
        expires_at=document.expires_at,
        valid_from=document.valid_from or document.created_at,
        valid_to=moment,
    )


def _after(document: StoredDocument, moment: datetime) -> datetime:
    """The end of a validity: never before its begin."""
    return max(moment, document.valid_from or document.created_at or moment)
