"""Moving a memory to another Encoder 1: every document is embedded anew, in a new folder."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mllm_plugin.errors import InvalidInputError
from mllm_plugin.hierarchy import Hierarchy
from mllm_plugin.memory import MemoryIndex
from mllm_plugin.memory.choice import DEFAULT
from mllm_plugin.records import record_of
from mllm_plugin.store.settings import copied_from, mark_as_copy
from mllm_plugin.types import AddReport, BuildReport, Namespace


def reembed(
    memory: MemoryIndex,
    path: str | Path,
    encoder: Any,
    *,
    hierarchy: str | Path | Hierarchy = DEFAULT,
    progress: bool = True,
) -> BuildReport:
    """Copies a memory into a new one of another encoder; the old one stays as it is.

    Texts, metadata, labels, masks, namespaces and settings are kept; chunks are cut and embedded anew, also
    those whose embeddings came from the caller. After an interruption call it again: what is copied already
    is not embedded a second time. Passes are repeated until one finds nothing to do, so that what others
    add, change, mask and remove in the old memory meanwhile reaches the copy too.

    Args:
        memory: The old one; it may be open without an encoder.
        path: Folder of the new one.
        encoder: As for `MemoryIndex.open`.
        hierarchy: As for `MemoryIndex.open`; weights trained for the old encoder do not fit the new one.
        progress: Show a progress bar.

    Returns:
        What was done and how long it took.

    Raises:
        InvalidInputError: `path` holds a memory that is not an unfinished copy of this one.
        EncoderMismatchError: The unfinished copy there was begun with another encoder.
    """
    started, folder = time.perf_counter(), Path(path)
    if folder.resolve() == memory.path.resolve():
        raise InvalidInputError(f"{folder} is the memory itself; copy it into another folder")
    with MemoryIndex.open(folder, encoder=encoder, config=memory.config, hierarchy=hierarchy) as copy:
        _begin(copy, str(memory.path.resolve()))
        reports = [_pass(memory, copy, progress)]
        while reports[-1].added or reports[-1].updated:
            reports.append(_pass(memory, copy, progress))
        with copy._database.write() as tx:
            mark_as_copy(tx, None)
    totals = {
        name: sum(getattr(one, name) for one in reports) for name in ("added", "updated", "chunks", "encoded")
    }
    return BuildReport(**totals, unchanged=reports[0].unchanged, seconds=time.perf_counter() - started)


def _pass(memory: MemoryIndex, copy: MemoryIndex, progress: bool) -> AddReport:
    """Brings the copy to where the old memory is when the pass begins."""
    rows = memory.documents(prefix=True)
    with tqdm(rows, total=memory.stats().documents, unit=" documents", disable=not progress) as bar:
        report = copy.import_records(map(record_of, bar))
    _drop_what_went(memory, copy)
    return report


def _begin(copy: MemoryIndex, source: str) -> None:
    """Marks a new memory as an unfinished copy; refuses one that holds something else."""
    with copy._database.write() as tx:
        known = copied_from(tx)
        if known is None and not tx.execute("SELECT 1 FROM documents LIMIT 1").get:
            mark_as_copy(tx, source)
        elif known != source:
            what = "a memory of its own" if known is None else f"an unfinished copy of {known}"
            raise InvalidInputError(f"{copy.path} holds {what}; choose another folder for the copy")


def _drop_what_went(memory: MemoryIndex, copy: MemoryIndex) -> None:
    """Removes and unmasks in the copy what was removed and unmasked in the old memory since it was copied."""
    for namespace in copy.namespaces():
        old, new = _masks(memory, namespace), _masks(copy, namespace)
        if gone := new.keys() - old.keys():
            copy.remove(gone, namespace=namespace)
        lifted = defaultdict(list)
        for name in new.keys() & old.keys():
            for label in new[name] - old[name]:
                lifted[label].append(name)
        for label, names in lifted.items():
            copy.unmask(names, label=label, namespace=namespace)


def _masks(memory: MemoryIndex, namespace: Namespace) -> dict[str, set[str]]:
    rows: Iterator[Any] = memory.documents(namespace=namespace)
    return {document.id: set(document.masks) for document in rows}
