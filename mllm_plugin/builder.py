"""Bulk building: streams documents in batches, can be resumed, groups the tree once at the end."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import islice

from tqdm import tqdm

from mllm_plugin.errors import InvalidInputError, InvalidTypeError
from mllm_plugin.memory import MemoryIndex
from mllm_plugin.memory.care import REGROUP_SHARE
from mllm_plugin.store.namespaces import check_namespace
from mllm_plugin.types import AddReport, BuildReport, Document, Namespace


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

    def build(self, documents: Iterable[Document]) -> BuildReport:
        """Adds documents; never holds more than a batch of them.

        Args:
            documents: With ids of their own, so that a second run knows them.

        Returns:
            What was done and how long it took.
        """
        if isinstance(documents, Document | str | bytes) or not isinstance(documents, Iterable):
            raise InvalidTypeError(f"expected an iterable of Document, got {type(documents).__name__}")
        started = time.perf_counter()
        reports = list(self._batches(documents))
        self._memory.regroup(self._namespace, min_share=REGROUP_SHARE)
        totals = {
            name: sum(getattr(report, name) for report in reports)
            for name in ("added", "updated", "unchanged", "chunks", "encoded")
        }
        return BuildReport(**totals, seconds=time.perf_counter() - started)

    def _batches(self, documents: Iterable[Document]) -> Iterator[AddReport]:
        total = len(documents) if hasattr(documents, "__len__") else None  # type: ignore[arg-type]
        stream = iter(documents)
        with tqdm(total=total, unit=" documents", disable=not self._progress) as bar:
            while batch := list(islice(stream, self._batch_size)):
                yield self._memory.add_provisionally(batch, namespace=self._namespace, split=self._split)
                bar.update(len(batch))
