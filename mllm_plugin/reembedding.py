"""Moving a memory to another Encoder 1: every document is embedded anew, in a new folder."""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mllm_plugin.encoders import as_encoder
from mllm_plugin.errors import EncoderMismatchError, InvalidInputError
from mllm_plugin.hierarchy import Hierarchy
from mllm_plugin.memory import MemoryIndex
from mllm_plugin.memory.choice import DEFAULT
from mllm_plugin.protocols import TextEncoder
from mllm_plugin.records import record_of
from mllm_plugin.reports import totals
from mllm_plugin.store.database import FILE_NAME, Database
from mllm_plugin.store.documents import masks_of_all
from mllm_plugin.store.namespaces import find_namespace
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
        progress: Show a progress bar, on a terminal.

    Returns:
        What was done and how long it took.

    Raises:
        InvalidInputError: `path` holds a memory that is not an unfinished copy of this one.
        EncoderMismatchError: The unfinished copy there was begun with another encoder.
    """
    started, folder, source = time.perf_counter(), Path(path), str(memory.path.resolve())
    given = as_encoder(encoder)
    _check_target(folder, source)
    with _opened(folder, given, config=memory.config, hierarchy=hierarchy) as copy:
        with copy._database.write() as tx:
            mark_as_copy(tx, source)
        reports, changed = [], True
        while changed:
            reports.append(_pass(memory, copy, progress))
            changed = _drop_what_went(memory, copy) or bool(reports[-1].added or reports[-1].updated)
        with copy._database.write() as tx:
            mark_as_copy(tx, None)
    counts = totals(reports) | {"unchanged": reports[0].unchanged}
    return BuildReport(**counts, seconds=time.perf_counter() - started)


def _check_target(folder: Path, source: str) -> None:
    """Refuses a folder that holds anything but an unfinished copy of the source."""
    if str(folder.resolve()) == source:
        raise InvalidInputError(f"{folder} is the memory itself; copy it into another folder")
    if not (folder / FILE_NAME).exists():
        return
    database = Database(folder, create=False)
    try:
        with database.read() as tx:
            known, filled = copied_from(tx), tx.execute("SELECT 1 FROM documents LIMIT 1").get
    finally:
        database.close()
    if known is None and filled:
        raise InvalidInputError(f"{folder} holds a memory of its own; choose another folder for the copy")
    if known not in (None, source):
        raise InvalidInputError(
            f"{folder} holds an unfinished copy of {known}, and only that memory can go on with it; choose "
            f"another folder for the copy"
        )


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
    rows, hidden = memory.documents(prefix=True), None if progress else True
    with tqdm(rows, total=memory.stats().documents, unit=" documents", disable=hidden) as bar:
        return copy.import_records(map(record_of, bar))


def _drop_what_went(memory: MemoryIndex, copy: MemoryIndex) -> bool:
    """Removes and unmasks in the copy what was removed and unmasked in the old memory since it was copied.

    Returns:
        Whether there was anything.
    """
    changed = False
    for namespace in copy.namespaces():
        old, new = _masks(memory, namespace), _masks(copy, namespace)
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


def _masks(memory: MemoryIndex, namespace: Namespace) -> dict[str, set[str]]:
    """The masks of every document of a namespace, of one moment."""
    with memory._database.read() as tx:
        row = find_namespace(tx, namespace)
        return {} if row is None else masks_of_all(tx, row.namespace_id)
