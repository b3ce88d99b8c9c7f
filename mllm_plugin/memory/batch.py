"""Several edits as one: all of them are kept, or none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.calls.options import explain_calls
from mllm_plugin.documents.given import check_documents
from mllm_plugin.documents.ingest import Embedding, Job
from mllm_plugin.errors import InvalidInputError
from mllm_plugin.memory.checks import filter_of, id_of, label_of, mask_of, version_of, which_of
from mllm_plugin.memory.editing import KEEP, change_of
from mllm_plugin.memory.handle import Handle
from mllm_plugin.reports import AddReport, MaskReport, RemoveReport, UpdateReport
from mllm_plugin.store.cache import hash_text
from mllm_plugin.store.documents import Which
from mllm_plugin.store.edit import Edit
from mllm_plugin.store.namespaces import check_namespace
from mllm_plugin.store.writer import PreparedDocument
from mllm_plugin.types import Document, Moment, Namespace

Report = AddReport | MaskReport | RemoveReport | UpdateReport


@dataclass(frozen=True)
class _Step:
    """One edit: what must be embedded for it, and how it is written.

    Attributes:
        write: Gets the transaction, what was prepared, and gives the report.
        job: Documents to be cut and embedded; None where there are none.
    """

    write: Callable[[Edit, list[PreparedDocument]], Report]
    job: Job | None = None


@explain_calls
class Batch:
    """Edits of one memory, in any of its namespaces, that are written together when the block ends.

    Use it as `with memory.batch() as batch:`, or `async with`. Each call only notes what to do; texts are
    embedded, all in one go, before anything is written, and then everything is one transaction, in the order
    of the calls. Where the block or a step raises, nothing is written.

    Attributes:
        reports: What each step did, in order; there once the block has ended.
    """

    def __init__(self, memory: Handle) -> None:
        self._memory, self._steps = memory, list[_Step]()
        self._open = True
        self._known: dict[bytes, Embedding] = {}
        self.reports: list[Report] = []
        memory.database.check_writable()

    def embed(self, texts: Sequence[str], *, namespace: Namespace | str = ()) -> NDArray[np.float32]:
        """Vectors [n, d] of texts, at once; where this batch adds them, they are not embedded again.

        Args:
            texts: Each is embedded whole.
            namespace: Where they will be added.
        """
        where = check_namespace(namespace)
        self._known |= self._memory.ingest.embedded(texts, where)
        vectors = [self._known[hash_text(where, text)][0] for text in texts]
        return (
            np.stack(vectors).astype(np.float32)
            if vectors
            else np.zeros((0, self._memory.encoder.dim), np.float32)
        )

    def add(
        self,
        documents: Iterable[Document],
        *,
        namespace: Namespace | str = (),
        split: bool = True,
        new: bool = False,
        unless: Mapping[str, Any] | None = None,
    ) -> None:
        """As `MemoryIndex.add`.

        Args:
            documents, namespace, split: As there.
            new: An id that is there already when the batch is written is a `VersionConflictError`.
            unless: So is a document of the namespace that matches this filter then.
        """
        where, given = check_namespace(namespace), check_documents(documents).documents
        ids = tuple(one.id for one in given)
        taken = [Which(list(ids))] if new and ids else []
        taken += [] if unless is None else [Which(None, filter_of(unless))]

        def write(edit: Edit, prepared: list[PreparedDocument]) -> Report:
            for which in taken:
                edit.check_absent(where, which)
            put = edit.put(where, given, prepared, split=split, renew=True) if given else (0, 0, 0, 0)
            return AddReport(ids, *put, encoded=0)

        self._note(_Step(write, Job(given, where, split)))

    def update(
        self,
        id: str,
        *,
        metadata: Mapping[str, Any] | None = None,
        labels: Iterable[str] | None = None,
        expires_at: Moment | Literal["keep"] | None = KEEP,
        valid_from: Moment | Literal["keep"] | None = KEEP,
        valid_to: Moment | Literal["keep"] | None = KEEP,
        merge: bool = False,
        if_version: int | None = None,
        namespace: Namespace | str = (),
    ) -> None:
        """As `MemoryIndex.update`, but for the text, which `add` replaces."""
        times = {"expires_at": expires_at, "valid_from": valid_from, "valid_to": valid_to}
        change = change_of(None, metadata, labels, merge, **times)
        where, name, seen = check_namespace(namespace), id_of(id), version_of(if_version)

        def write(edit: Edit, prepared: list[PreparedDocument]) -> Report:
            return UpdateReport(*edit.update(where, name, change.applied, None, seen))

        self._note(_Step(write))

    def remove(
        self,
        ids: Iterable[str] | str | None = None,
        *,
        filter: Mapping[str, Any] | None = None,
        label: str | None = None,
        namespace: Namespace | str = (),
        prefix: bool = False,
    ) -> None:
        """As `MemoryIndex.remove`."""
        where, which = check_namespace(namespace), which_of(ids, filter, label)

        def write(edit: Edit, prepared: list[PreparedDocument]) -> Report:
            gone = edit.remove(where, which, prefix=prefix)
            return RemoveReport(gone.documents, gone.chunks, False, gone.missing, "", gone.weights)

        self._note(_Step(write))

    def mask(
        self,
        ids: Iterable[str] | str | None = None,
        *,
        filter: Mapping[str, Any] | None = None,
        label: str = "",
        namespace: Namespace | str = (),
        prefix: bool = False,
    ) -> None:
        """As `MemoryIndex.mask`."""
        where, label = check_namespace(namespace), mask_of(label)
        which = which_of(ids, filter, label if ids is None and filter is None else None)
        self._note(_Step(lambda edit, _: edit.mask(where, which, label, prefix=prefix)))

    def unmask(
        self,
        ids: Iterable[str] | str | None = None,
        *,
        filter: Mapping[str, Any] | None = None,
        label: str | None = None,
        namespace: Namespace | str = (),
        prefix: bool = False,
    ) -> None:
        """As `MemoryIndex.unmask`."""
        where, label = check_namespace(namespace), None if label is None else label_of(label)
        which = None if ids is None and filter is None else which_of(ids, filter)
        self._note(_Step(lambda edit, _: edit.unmask(where, which, label, prefix=prefix)))

    def _note(self, step: _Step) -> None:
        if not self._open:
            raise InvalidInputError("this batch has been written; begin another with memory.batch()")
        self._steps.append(step)

    # -- writing

    def _write(self) -> None:
        prepared, encoded = self._memory.ingest.prepare_all((step.job for step in self._steps), self._known)
        with self._memory.edit() as edit:
            reports = [step.write(edit, own) for step, own in zip(self._steps, prepared, strict=True)]
        self._memory.ingest.forget(document for own in prepared for document in own)
        reports = [
            replace(one, encoded=count) if isinstance(one, AddReport) else one
            for one, count in zip(reports, encoded, strict=True)
        ]
        if any(isinstance(report, RemoveReport) or getattr(report, "updated", 0) for report in reports):
            erased, reason = self._memory.erase(wait=0.0)
            reports = [_with_erasure(report, erased, reason) for report in reports]
        self.reports = reports

    def __enter__(self) -> Batch:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        self._open = False
        if kind is None and self._steps:
            self._write()

    async def __aenter__(self) -> Batch:
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        await asyncio.to_thread(self.__exit__, *exc_info)


def _with_erasure(report: Report, erased: bool, reason: str) -> Report:
    """The report of a step, with whether what it took away is gone."""
    took = isinstance(report, RemoveReport) or (isinstance(report, AddReport) and report.updated)
    return replace(report, erased=erased, reason=reason) if took else report  # type: ignore[call-arg]
