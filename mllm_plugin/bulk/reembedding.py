"""Moving a memory to another Encoder 1: every document is embedded anew, in a new folder."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mllm_plugin.documents.records import record_of
from mllm_plugin.encoders import EncoderLike, as_encoder
from mllm_plugin.errors import EncoderMismatchError
from mllm_plugin.hierarchy import Hierarchy
from mllm_plugin.memory import MemoryIndex
from mllm_plugin.memory.copies import check_target, mark_as_copy, masks_of
from mllm_plugin.memory.opening import DEFAULT
from mllm_plugin.protocols import TextEncoder
from mllm_plugin.reports import AddReport, BuildReport
from mllm_plugin.types import StoredDocument

_TOGETHER = 64  # documents read in one moment


def reembed(
    memory: MemoryIndex,
    path: str | Path,
    encoder: EncoderLike,
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
        progress: Show a progress bar, on a terminal.

    Returns:
        What was done and how long it took.

    Raises:
        InvalidInputError: `path` holds a memory that is not an unfinished copy of this one.
        EncoderMismatchError: The unfinished copy there was begun with another encoder.
    """
    started, folder, source = time.perf_counter(), Path(path), str(memory.path.resolve())
    given = as_encoder(encoder)
    check_target(folder, source)
    with _opened(folder, given, config=memory.config, hierarchy=hierarchy) as copy:
        mark_as_copy(copy, source)
        reports, changed = [], True
        while changed:
            reports.append(_pass(memory, copy, progress))
            changed = _drop_what_went(memory, copy) or bool(reports[-1].added or reports[-1].updated)
        mark_as_copy(copy, None)
    took = time.perf_counter() - started
    return replace(BuildReport.of(reports, took), unchanged=reports[0].unchanged)


def _opened(folder: Path, encoder: TextEncoder, **options: Any) -> MemoryIndex:
    try:
        return MemoryIndex.open(folder, encoder=encoder, **options)
    except EncoderMismatchError as error:
        raise EncoderMismatchError(
            f"the copy in {folder} was begun with another encoder; name that one, or choose another folder "
            f"({error})"
        ) from error


def _pass(memory: MemoryIndex, copy: MemoryIndex, progress: bool) -> AddReport:
    """Brings what the old memory holds into the copy."""
    rows, hidden = _documents(memory), None if progress else True
    with tqdm(rows, total=memory.stats().documents, unit=" documents", disable=hidden) as bar:
        return copy.import_records(map(record_of, bar))


def _documents(memory: MemoryIndex) -> Iterator[StoredDocument]:
    """All documents, some at a time: a pass takes hours, and a moment that is held keeps what is removed."""
    for namespace in memory.namespaces():
        ids = list(masks_of(memory, namespace))
        for start in range(0, len(ids), _TOGETHER):
            yield from memory.get(ids[start : start + _TOGETHER], namespace=namespace)


def _drop_what_went(memory: MemoryIndex, copy: MemoryIndex) -> bool:
    """Removes and unmasks in the copy what was removed and unmasked in the old memory since it was copied.

    Returns:
        Whether there was anything.
    """
    changed = False
    for namespace in copy.namespaces():
        old, new = masks_of(memory, namespace), masks_of(copy, namespace)
        if gone := new.keys() - old.keys():
            copy.remove(gone, namespace=namespace)
            changed = True
        lifted = defaultdict(list)
        for name in new.keys() & old.keys():
            for label in new[name] - old[name]:
                lifted[label].append(name)
        for label, names in lifted.items():
            copy.unmask(names, label=label, namespace=namespace)
            changed = True
    return changed
