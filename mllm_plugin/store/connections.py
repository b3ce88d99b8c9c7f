"""Connections to the file: checked pages, nothing outside of the folder, and no program of a stranger."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import apsw
import apsw.sqlite_extra

from mllm_plugin.store.filters import register_functions
from mllm_plugin.store.surroundings import check_surroundings

READ_WRITE = apsw.SQLITE_OPEN_READWRITE
CREATE = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
_CHECKSUM_VFS = "cksmvfs"
_GUARDS = {  # a memory may come from a stranger: what its schema would run is not run
    apsw.SQLITE_DBCONFIG_DEFENSIVE: 1,
    apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA: 0,
    apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER: 0,
    apsw.SQLITE_DBCONFIG_ENABLE_VIEW: 0,
}
_IN_MEMORY = 2
_CACHE = 8 * 1024  # KiB of pages per connection, as far as they are read; what is read again is checked again
_vfs_lock = threading.Lock()


def connect(path: Path | str, flags: int, vfs: str, timeout: float) -> apsw.Connection:
    """Opens a file.

    Args:
        path: The file, or a URI if the flags say so.
        flags: SQLite's.
        vfs: Name of the VFS.
        timeout: Seconds to wait for another writer.

    Raises:
        StoreError: The file, or one beside it, is none that SQLite should open.
    """
    if not flags & apsw.SQLITE_OPEN_URI:
        check_surroundings(Path(path), writes=not flags & apsw.SQLITE_OPEN_READONLY)
        path = os.path.realpath(path)  # a VFS in Python takes no folder that is a link
    connection = apsw.Connection(str(path), flags=flags, vfs=vfs)
    connection.set_busy_timeout(int(timeout * 1000))
    for option, value in _GUARDS.items():
        connection.config(option, value)
    connection.limit(apsw.SQLITE_LIMIT_ATTACHED, 0)
    # Statement journals and sorters hold texts; in files they would lie outside of the folder, not encrypted
    # nor erased with it. In memory they are bounded by what one statement changes or sorts.
    connection.pragma("temp_store", _IN_MEMORY)
    connection.pragma("cell_size_check", True)
    connection.pragma("cache_size", -_CACHE)
    register_functions(connection)
    return connection


def close(connection: apsw.Connection) -> None:
    """Closes a connection, though its last checkpoint or its lock for tidying up be refused.

    What was committed is in the log then, and the next opening finds it there.
    """
    try:
        connection.close()
    except apsw.Error:
        connection.close(True)


def checksum_vfs() -> str:
    """Name of SQLite's checksum VFS, registered once per process."""
    with _vfs_lock:
        if _CHECKSUM_VFS not in apsw.vfs_names():
            with apsw.Connection(":memory:") as loader:
                apsw.sqlite_extra.load(loader, "cksumvfs")
    return _CHECKSUM_VFS
