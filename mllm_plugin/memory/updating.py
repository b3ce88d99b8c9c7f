"""Changing one document in place: only new text is embedded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mllm_plugin import clock
from mllm_plugin.documents import check_documents
from mllm_plugin.errors import InvalidTypeError
from mllm_plugin.memory.handle import Handle
from mllm_plugin.types import Document, Namespace, StoredDocument, UpdateReport

KEEP: Literal["keep"] = "keep"
_TIMES = ("expires_at", "valid_from", "valid_to")


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


def update(
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
