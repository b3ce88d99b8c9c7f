"""Copies of a memory that are still being made, as `reembed` makes them."""

from __future__ import annotations

from pathlib import Path

from mllm_plugin.errors import InvalidInputError
from mllm_plugin.memory.index import MemoryIndex
from mllm_plugin.store.database import FILE_NAME, Database
from mllm_plugin.types import Namespace


def check_target(folder: Path, source: str) -> None:
    """Sees to it that a folder holds nothing but an unfinished copy of the source.

    Raises:
        InvalidInputError: It holds something else.
    """
    if str(folder.resolve()) == source:
        raise InvalidInputError(f"{folder} is the memory itself; copy it into another folder")
    if not (folder / FILE_NAME).exists():
        return
    database = Database(folder, create=False)
    try:
        with database.snapshot() as snapshot:
            known, filled = snapshot.copied_from, snapshot.namespaces()
    finally:
        database.close()
    if known is None and filled:
        raise InvalidInputError(f"{folder} holds a memory of its own; choose another folder for the copy")
    if known not in (None, source):
        raise InvalidInputError(
            f"{folder} holds an unfinished copy of {known}, and only that memory can go on with it; choose "
            f"another folder for the copy"
        )


def mark_as_copy(memory: MemoryIndex, source: str | None) -> None:
    """Marks a memory as an unfinished copy of the one in the folder `source`; None when it is finished."""
    with memory._handle.edit() as edit:
        edit.mark_as_copy(source)


def masks_of(memory: MemoryIndex, namespace: Namespace) -> dict[str, set[str]]:
    """The masks of every document of a namespace, of one moment."""
    with memory.snapshot() as snapshot:
        row = snapshot.namespace(namespace)
        return {} if row is None else snapshot.masks(row)
