"""Bulk building: streams documents in batches, can be resumed, groups the tree once at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice

from tqdm import tqdm

from mllm_plugin.calls.options import explain_calls
from mllm_plugin.documents.given import Seen, check_iterable, skips
from mllm_plugin.errors import (
    InvalidDocumentError,
    InvalidInputError,
    InvalidTypeError,
    MLLMError,
    StoreError,
)
from mllm_plugin.memory import MemoryIndex
from mllm_plugin.memory.editing import REGROUP_SHARE, still_provisional
from mllm_plugin.reports import AddReport, BuildReport
from mllm_plugin.store.namespaces import check_namespace
from mllm_plugin.types import Document, Namespace, OnInvalid


@explain_calls
class IndexBuilder:
    """Adds many documents to a memory; same content and same exact results as `add`.

    Every batch is kept as soon as it is written. After an interruption call `build` with the same documents
    (and the same ids): what is stored already is skipped.

    Args:
        memory: Where to.
        batch_size: Documents per transaction.
        progress: Show a progress bar.
        namespace: Where the documents go.
        split: False keeps each document as one chunk.
    """

    def __init__(
        self,
        memory: MemoryIndex,
        *,
        batch_size: int = 64,
        progress: bool = True,
        namespace: Namespace | str = (),
        split: bool = True,
    ) -> None:
        if not isinstance(batch_size, int) or batch_size < 1:
            raise InvalidInputError(f"batch_size must be an int of at least 1, got {batch_size!r}")
        self._memory, self._batch_size, self._progress = memory, batch_size, progress
        self._namespace, self._split = check_namespace(namespace), split

    def build(self, documents: Iterable[Document], *, on_invalid: OnInvalid = "raise") -> BuildReport:
        """Adds documents; never holds more than a batch of them.

        Args:
            documents: With ids of their own, all different, so that a second run knows them.
            on_invalid: "skip" leaves out documents that cannot be stored and names them in the report.

        Returns:
            What was done and how long it took.

        Raises:
            InvalidDocumentError: A document cannot be stored; the message says which, and how many were
                written before.
        """
        check_iterable(documents)
        skips(on_invalid)
        started = time.perf_counter()
        reports: list[AddReport] = []
        written = 0
        try:
            for report in self._batches(documents, on_invalid):
                written += len(report.ids)
                reports.append(replace(report, ids=()))
        except Exception as error:
            words = _kept(error, written)
            if isinstance(error, MLLMError):
                raise type(error)(f"{error}. {words}") from error
            if sys.version_info >= (3, 11):
                error.add_note(words)
            raise
        reason = self._regroup(bool(reports))
        built = BuildReport.of(reports, time.perf_counter() - started)
        return replace(built, reason="; ".join(filter(None, (built.reason, reason))))

    def _regroup(self, written: bool) -> str:
        """Groups the tree; once all is written, what fails is reported."""
        try:
            self._memory.regroup(self._namespace, min_share=REGROUP_SHARE)
        except StoreError as error:
            if not written:
                raise
            return still_provisional(error)
        return ""

    def _batches(self, documents: Iterable[Document], on_invalid: OnInvalid) -> Iterator[AddReport]:
        total = len(documents) if hasattr(documents, "__len__") else None  # type: ignore[arg-type]
        stream, first = iter(documents), 0
        options = {
            "namespace": self._namespace,
            "split": self._split,
            "on_invalid": on_invalid,
            "seen": Seen(),
        }
        with tqdm(total=total, unit=" documents", disable=not self._progress) as bar:
            while batch := list(islice(stream, self._batch_size)):
                yield self._memory.add_provisionally(batch, first=first, **options)
                first += len(batch)
                bar.update(len(batch))


def _kept(error: Exception, count: int) -> str:
    words = f"{count:,} documents before it are kept; build again with the same ids to go on"
    invalid = isinstance(error, InvalidDocumentError | InvalidTypeError)
    return f"{words}, or leave such documents out with on_invalid='skip'" if invalid else words
