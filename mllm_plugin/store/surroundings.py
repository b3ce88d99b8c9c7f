"""The files that SQLite opens or obeys because they lie at a memory's place or beside it.

A folder that comes from somebody else may hold links to other places, pipes that nobody writes into, and a
rollback journal that names a file, which SQLite deletes. So they are looked at before SQLite is let near.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from mllm_plugin.errors import ReadOnlyStoreError, StoreError
from mllm_plugin.store.filesystem import drafts_of

_LOGS = ("-wal", "-shm")
_JOURNAL = "-journal"
_NAMES_ANOTHER = bytes.fromhex("d9d505f920a163d7")  # ends a journal, after the name of another


def check_surroundings(path: Path, *, writes: bool) -> None:
    """Raises when a file, or what lies beside it, is none that SQLite should open.

    Args:
        path: A file, which need not be there.
        writes: Whether it may be written: then it must have no other name, since SQLite keeps a log by each.

    Raises:
        StoreError: Something there is no file of its own, or is a journal that names another file.
        ReadOnlyStoreError: The file has another name, so that it can only be read.
    """
    if os.path.lexists(path):
        _check_file(path, writes)
    path = path.resolve()
    journal = path.with_name(f"{path.name}{_JOURNAL}")
    for beside in (*(path.with_name(f"{path.name}{ending}") for ending in _LOGS), journal):
        if os.path.lexists(beside) and not _is_own(beside):
            raise StoreError(
                f"{beside} is a link or no regular file, and SQLite would write into it; nothing was opened. "
                f"Delete it if you do not know where it comes from"
            )
    if _end(journal) == _NAMES_ANOTHER:
        raise StoreError(
            f"{journal} names another file, which SQLite would delete; nothing was opened. No release "
            f"of this package writes such a journal: delete it if you do not know where it comes from"
        )


def _check_file(path: Path, writes: bool) -> None:
    if not path.is_file():
        raise StoreError(f"{path} is a link to nothing or no regular file, and so no memory")
    if writes and (path.is_symlink() or _has_other_names(path)):
        raise ReadOnlyStoreError(
            f"{path} is a link, or the file has another name elsewhere; SQLite keeps a log by each name, and "
            f"writes by both would be lost. Put a copy there, link the whole folder, or open it with "
            f"read_only=True"
        )


def _has_other_names(path: Path) -> bool:
    """Whether there are hard links, but for those by which a new file gets its name."""
    if path.stat().st_nlink == 1:
        return False
    drafts = [folder / path.name for folder in drafts_of(path)]
    own = sum(one.exists() and one.samefile(path) for one in drafts)
    return path.stat().st_nlink > 1 + own


def _is_own(path: Path) -> bool:
    try:
        found = os.lstat(path)
    except FileNotFoundError:  # SQLite deletes logs that are folded in
        return True
    return stat.S_ISREG(found.st_mode) and found.st_nlink <= 1


def _end(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - len(_NAMES_ANOTHER)))
            return file.read()
    except FileNotFoundError:
        return b""
