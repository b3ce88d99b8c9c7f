"""Remembering and updating: no language model, one encoder call for new text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mllm_plugin import clock
from mllm_plugin.agent.items import Duplicate, Remembered
from mllm_plugin.agent.naming import (
    FACT,
    FIELD,
    MESSAGE,
    SUPERSEDED,
    Told,
    given_metadata,
    new_id,
    own,
)
from mllm_plugin.errors import (
    InvalidDocumentError,
    InvalidInputError,
    InvalidTypeError,
    NotFoundError,
    VersionConflictError,
)
from mllm_plugin.memory.batch import Batch
from mllm_plugin.memory.updating import KEEP
from mllm_plugin.text.unicode import text_flaw
from mllm_plugin.types import AddReport, Document, Namespace, StoredDocument

if TYPE_CHECKING:
    from mllm_plugin.agent.shared import Shared


@dataclass(frozen=True)
class Given:
    """An item as a caller gives it; see `AgentScope.remember`."""

    text: str
    id: str | None = None
    kind: str | None = None
    metadata: Mapping[str, Any] | None = None
    at: Any = None
    expires: Any = None
    supersedes: str | Sequence[str] | None = None
    source: Any = None
    speaker: str | None = None
    session: str | None = None
    participants: Sequence[str] = ()
    derived_from: Sequence[str] = ()
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
            tuple(self.participants),
            self.source,
            tuple(self.derived_from),
            moment or clock.now(),
            dated,
        )


def given_item(item: Any, defaults: Mapping[str, Any]) -> Given:
    """One of `remember_many`: a text, or a dictionary of the arguments of `remember`.

    Raises:
        InvalidTypeError: It is neither, or has an unknown argument.
    """
    fields = {"text": item} if isinstance(item, str) else item
    if not isinstance(fields, Mapping):
        raise InvalidTypeError(
            f"an item is a text or a dictionary of the arguments of remember(), got {type(item).__name__}"
        )
    if unknown := set(fields) - set(Given.__dataclass_fields__):
        expected = ", ".join(Given.__dataclass_fields__)
        raise InvalidTypeError(
            f"an item has the unknown argument {sorted(unknown)[0]!r}; expected {expected}"
        )
    _check_text(fields.get("text"))
    said = {name: value for name, value in fields.items() if value is not None}
    return Given(**{**defaults, **said})


def _check_text(text: Any) -> None:
    """Looks at a text before its header, which would make an empty one look full, is put above it.

    Raises:
        InvalidInputError: It is no text, or empty.
        InvalidDocumentError: It cannot be stored.
    """
    if not isinstance(text, str) or not text.strip():
        raise InvalidInputError(f"an item needs a text that is not empty, got {text!r}")
    if flaw := text_flaw(text):
        raise InvalidDocumentError(f"the text of an item {flaw}")


def remember(
    shared: Shared, namespace: Namespace, items: Sequence[Given], duplicates: str, history: bool
) -> list[Remembered]:
    """Writes items, the new ones in one transaction, after a look for near-duplicates.

    An id that is there makes a new version of its item.
    """
    ids = [one.id for one in items if one.id is not None]
    there = {one.id: one for one in shared.memory.get(ids, namespace=namespace)} if ids else {}
    if there:
        return [
            _again(shared, there[one.id], one, history)
            if one.id in there
            else remember(shared, namespace, [one], duplicates, history)[0]
            for one in items
        ]
    alike = _alike(shared, namespace, items, duplicates)
    merged = [
        bool(found) and duplicates == "merge" and one.id is None
        for one, found in zip(items, alike, strict=True)
    ]
    told = [one.told() for one in items]
    new = [not one for one in merged]
    documents = [
        _document(shared, namespace, one, said) if fresh else None
        for one, said, fresh in zip(items, told, new, strict=True)
    ]
    gone = [_to_end(shared, namespace, one) for one in items]
    written = [one for one in documents if one is not None]
    with shared.memory.batch() as batch:
        batch.add(written, namespace=namespace)
        for one, document, said, ended in zip(items, documents, told, gone, strict=True):
            if document is not None and ended:
                _end(batch, ended, document.id, said.at, history)
            if document is not None and one.mask is not None:
                batch.mask(document.id, label=one.mask, namespace=namespace)
    if any(gone) and not history:
        shared.likeness.forget()
    reports = [
        _refresh(shared, namespace, one, found)
        if document is None
        else Remembered(document.id, 1, found, superseded=tuple(old.id for old in ended))
        for one, document, found, ended in zip(items, documents, alike, gone, strict=True)
    ]
    shared.audit.note("remember", namespace, [one.id for one in reports])
    return reports


def update(
    shared: Shared,
    document: StoredDocument,
    *,
    text: str | None,
    metadata: Mapping[str, Any] | None,
    merge: bool,
    kind: str | None,
    expires: Any,
    at: Any,
    if_version: int | None,
    history: bool,
) -> Remembered:
    """Makes a new version of an item; the old one is kept under the mask "superseded", or erased."""
    if text is not None:
        _check_text(text)
    said = own(document.metadata)
    version = said.get("version", 1)
    if if_version not in (None, version):
        raise VersionConflictError(
            f"item {document.id!r} has version {version}, expected {if_version}: somebody changed it "
            f"meanwhile. Get it again, and decide anew"
        )
    moment = _after(document, clock.at(clock.moment("at", at)) or clock.now())
    before = {key: value for key, value in document.metadata.items() if key != FIELD}
    given = before if metadata is None else given_metadata(metadata)
    after = {**before, **given} if merge else given
    changed = {**said, "version": version + 1} | ({} if kind is None else {"kind": kind})
    where = document.namespace
    new = Document(
        id=document.id,
        text=document.text if text is None else document.text[: said.get("head", 0)] + text,
        metadata={**after, FIELD: changed},
        labels=document.labels,
        expires_at=document.expires_at if expires == KEEP else expires,
        valid_from=moment,
        valid_to=document.valid_to,
    )
    with shared.memory.batch() as batch:
        if history:
            batch.add([_archived(document, moment)], namespace=where, split=document.split)
            batch.mask(f"{document.id}@{version}", label=SUPERSEDED, namespace=where)
        batch.update(document.id, valid_from=moment, namespace=where, if_version=document.version)
        batch.add([new], namespace=where, split=document.split)
    if text is not None:
        shared.likeness.forget()
    report = batch.reports[-1]
    assert isinstance(report, AddReport)
    shared.audit.note("update", where, [document.id])
    return Remembered(document.id, version + 1, erased=history or report.erased, reason=report.reason)


def _again(shared: Shared, document: StoredDocument, given: Given, history: bool) -> Remembered:
    """A new version of an item that is there already."""
    return update(
        shared,
        document,
        text=given.text,
        metadata=given.metadata or {},
        merge=False,
        kind=given.kind,
        expires=given.expires,
        at=given.at,
        if_version=None,
        history=history,
    )


def _document(shared: Shared, namespace: Namespace, given: Given, said: Told) -> Document:
    """An item as it is stored."""
    header = said.header()
    fields: dict[str, Any] = {
        "kind": said.kind,
        "version": 1,
        "head": len(header),
        "speaker": said.speaker,
        "session": said.session,
        "source": said.source,
        "derived_from": list(said.derived_from),
        "at": said.at.isoformat(),
    }
    if said.session is not None and said.kind == MESSAGE:
        fields["place"] = shared.turns.next(namespace, said.session)
    stored = {key: value for key, value in fields.items() if value not in (None, [], 0)}
    return Document(
        id=given.id or new_id(),
        text=header + given.text,
        metadata={**given_metadata(given.metadata), FIELD: stored},
        expires_at=given.expires,
        valid_from=said.at if given.at is not None else None,
    )


def _alike(
    shared: Shared, namespace: Namespace, items: Sequence[Given], duplicates: str
) -> list[tuple[Duplicate, ...]]:
    """Near-duplicates of each item; messages repeat each other without being any."""
    asked = [
        place
        for place, one in enumerate(items)
        if duplicates != "keep" and one.told().kind != MESSAGE and one.supersedes is None
    ]
    found = shared.likeness.duplicates([items[place].text for place in asked], namespace)
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


def _to_end(shared: Shared, namespace: Namespace, given: Given) -> list[StoredDocument]:
    """The items that a new one takes the place of.

    Raises:
        NotFoundError: One is not there.
    """
    if given.supersedes is None:
        return []
    ids = [given.supersedes] if isinstance(given.supersedes, str) else list(given.supersedes)
    found = shared.memory.get(ids, namespace=namespace)
    if absent := sorted(set(ids) - {one.id for one in found}):
        raise NotFoundError(f"no item {absent[0]!r} in this scope to supersede; list() shows what there is")
    return found


def _end(batch: Batch, ended: Sequence[StoredDocument], by: str, moment: datetime, history: bool) -> None:
    """Ends items that a new one takes the place of."""
    for document in ended:
        if not history:
            batch.remove(document.id, namespace=document.namespace)
            continue
        metadata = {**document.metadata, FIELD: {**own(document.metadata), "by": by}}
        end = _after(document, moment)
        batch.update(document.id, metadata=metadata, valid_to=end, namespace=document.namespace)
        batch.mask(document.id, label=SUPERSEDED, namespace=document.namespace)


def _archived(document: StoredDocument, moment: datetime) -> Document:
    """A version that is kept, as a document of its own."""
    said = own(document.metadata)
    kept = {key: value for key, value in said.items() if key != "place"} | {"of": document.id}
    for name, value in (("created", document.created_at), ("updated", document.updated_at)):
        kept |= {} if value is None else {name: value.isoformat()}
    return Document(
        id=f"{document.id}@{said.get('version', 1)}",
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
