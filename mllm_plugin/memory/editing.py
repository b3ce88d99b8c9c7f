"""Adding, changing, removing, installing: a transaction each, and what follows its commit."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from mllm_plugin import clock
from mllm_plugin.documents.given import check_documents
from mllm_plugin.documents.records import Record, import_records
from mllm_plugin.errors import InvalidInputError, InvalidTypeError, StoreError
from mllm_plugin.hierarchy import Hierarchy
from mllm_plugin.memory.handle import Handle
from mllm_plugin.reports import AddReport, InstallReport, RemoveReport, UpdateReport
from mllm_plugin.store.documents import Which
from mllm_plugin.store.edit import Removed
from mllm_plugin.types import Document, Namespace, StoredDocument

REGROUP_SHARE = 0.1  # of the chunks: a small addition to a large memory is not worth grouping all of it
KEEP: Literal["keep"] = "keep"


def add(memory: Handle, documents: Iterable[Document], namespace: Namespace, **options: Any) -> AddReport:
    """Adds documents; the texts that they replace are erased."""
    return _erased(memory, memory.ingest.add(documents, namespace, **options))


def add_records(memory: Handle, records: Iterable[Mapping[str, Any] | Record]) -> AddReport:
    """Adds records of an export; what came before a bad one is kept."""
    memory.database.check_writable()
    touched: set[Namespace] = set()
    try:
        report = import_records(memory.ingest, memory.encoder, records, touched)
    except InvalidInputError:
        regroup_written(memory, touched)
        raise
    reason = regroup_written(memory, touched)
    return _erased(memory, replace(report, reason=reason))


def _erased(memory: Handle, report: AddReport) -> AddReport:
    """The report, with whether the texts that were replaced are gone: what a reader holds goes later."""
    if not report.updated:
        return report
    erased, reason = memory.erase(wait=0.0)
    return replace(report, erased=erased, reason="; ".join(filter(None, (report.reason, reason))))


def regroup_written(memory: Handle, namespaces: Iterable[Namespace]) -> str:
    """Groups trees anew that bulk writes left provisional; why it could not be done, else empty."""
    try:
        for namespace in sorted(namespaces):
            with memory.edit() as edit:
                edit.regroup(namespace, REGROUP_SHARE)
    except StoreError as error:
        return still_provisional(error)
    return ""


def still_provisional(error: StoreError) -> str:
    """What to report of trees that could not be grouped after everything was written."""
    cause = error.__cause__ or error
    return f"everything is written, but trees are still provisional ({cause}); call compact() later"


@dataclass(frozen=True)
class Change:
    """What becomes of a document, as `MemoryIndex.update` takes it."""

    text: str | None
    metadata: Mapping[str, Any] | None
    labels: Iterable[str] | None
    times: Mapping[str, Any]
    merge: bool

    def applied(self, stored: StoredDocument) -> Document:
        """The document as it is from then on, checked."""
        metadata = stored.metadata if self.metadata is None else self.metadata
        if self.merge and self.metadata is not None:
            metadata = {**stored.metadata, **self.metadata}
        times = {
            name: getattr(stored, name) if given == KEEP else given for name, given in self.times.items()
        }
        document = Document(
            text=stored.text if self.text is None else self.text,
            id=stored.id,
            metadata=metadata,
            labels=stored.labels if self.labels is None else tuple(self.labels),
            **times,
        )
        return check_documents([document]).documents[0]


def change_of(text: Any, metadata: Any, labels: Any, merge: Any, **times: Any) -> Change:
    """What a caller wants changed; its fields are checked with the document that they make."""
    if isinstance(labels, str):
        raise InvalidTypeError(f"labels must be a tuple of non-empty strings, got {labels!r}")
    for name, given in times.items():
        if given != KEEP:
            clock.moment(name, given)
    return Change(text, metadata, labels, times, bool(merge))


def _updated(
    memory: Handle, namespace: Namespace, document_id: str, change: Change, if_version: int | None
) -> UpdateReport:
    """Changes a document as it is when it is written."""

    def attempt() -> UpdateReport:
        prepared, encoded = memory.ingest.prepare_update(document_id, change.text, namespace)
        with memory.edit() as edit:
            after, changed = edit.update(namespace, document_id, change.applied, prepared, if_version)
        memory.ingest.forget([] if prepared is None else [prepared])
        return UpdateReport(after, changed, encoded)

    memory.database.check_writable()
    return memory.ingest.retried(attempt)


def update(
    memory: Handle, namespace: Namespace, document_id: str, change: Change, if_version: int | None
) -> UpdateReport:
    """Changes a document; the text that is replaced is erased."""
    report = _updated(memory, namespace, document_id, change, if_version)
    if not report.changed or change.text is None:
        return report
    erased, reason = memory.erase(wait=0.0)
    return replace(report, erased=erased, reason=reason)


def remove(memory: Handle, namespace: Namespace, which: Which, wait: float, *, prefix: bool) -> RemoveReport:
    """Removes documents and everything that holds something of them."""
    with memory.edit() as edit:
        removed = edit.remove(namespace, which, prefix=prefix)
    return _removed(memory, removed, wait)


def sweep(memory: Handle, namespace: Namespace, wait: float, *, prefix: bool) -> RemoveReport:
    """Removes what has expired."""
    with memory.edit() as edit:
        removed, names = edit.sweep(namespace, prefix=prefix)
    return _removed(memory, removed, wait, tuple(names))


def _removed(
    memory: Handle, removed: Removed, wait: float, names: tuple[tuple[Namespace, str], ...] = ()
) -> RemoveReport:
    erased, reason = memory.erase(wait)
    counts = removed.documents, removed.chunks
    return RemoveReport(*counts, erased, removed.missing, reason, removed.weights, names)


def install(memory: Handle, hierarchy: Hierarchy) -> InstallReport:
    """Puts a hierarchy in place; the weights before, which may have seen what was removed, are erased."""
    started = time.perf_counter()
    with memory.edit() as edit:
        before, nodes = edit.install(hierarchy)
    erased, reason = (True, "") if before == hierarchy.fingerprint else memory.erase(wait=0.0)
    took = time.perf_counter() - started
    return InstallReport(hierarchy.fingerprint, before, nodes, took, erased, reason)
