"""Connections to the file: checked pages, nothing outside of the folder, no program of a stranger;
and SQLite's errors in our words.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import apsw.sqlite_extra

from mllm_plugin.errors import (
    DamagedStoreError,
    DiskFullError,
    MLLMError,
    ReadOnlyStoreError,
    StoreBusyError,
    StoreError,
)
from mllm_plugin.store.filters import register_functions
from mllm_plugin.store.log import log_of, read_log
from mllm_plugin.store.schema import PAGE_SIZE
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
_LITTLE_SPACE = 1 << 16  # less is not enough for the shared lock file
_SURPRISES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
_NO_ROOM = (apsw.SQLITE_IOERR_SHMSIZE, apsw.SQLITE_IOERR_SHMMAP)  # for the shared lock file
_NO_HANDLES = (errno.EMFILE, errno.ENFILE)


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


def check_size(connection: apsw.Connection, path: Path, known: int = -1) -> int:
    """Raises when the end of the file is missing: SQLite would read it as zeros, past its page checksum.

    Args:
        connection: In a read transaction, so that no checkpoint changes the size meanwhile.
        path: The file.
        known: A size that was found right before; while the file has it, nothing was cut off.

    Returns:
        The size, which is right.

    Raises:
        DamagedStoreError: Pages are neither in the file nor in the log.
    """
    pages, size = connection.execute("PRAGMA page_count").get, path.stat().st_size
    if size >= pages * PAGE_SIZE or size == known or connection.pragma("page_size") != PAGE_SIZE:
        return size
    in_log = read_log(log_of(path)).places
    size = path.stat().st_size  # what left the log meanwhile is in the file now
    there = size // PAGE_SIZE
    if missing := [page for page in range(there + 1, pages + 1) if page not in in_log]:
        raise damaged(path, f"the file is cut short: {len(missing)} of {pages} pages are missing")
    return size


# -- errors


@contextmanager
def translated(path: Path, timeout: float) -> Iterator[None]:
    """Raises our errors in place of SQLite's.

    Args:
        path: The file that is read or written.
        timeout: Seconds that another writer was waited for.
    """
    try:
        yield
    except apsw.Error as error:
        raise _translation(error, path, timeout) from error


@contextmanager
def enough_handles(path: Path) -> Iterator[None]:
    """Says that there are no file handles left where the system says so; other errors of it pass.

    Raises:
        StoreError: There are none.
    """
    try:
        yield
    except MLLMError:
        raise
    except OSError as error:
        if error.errno in _NO_HANDLES:
            raise _no_handles(path) from error
        raise


@contextmanager
def making(path: Path, timeout: float) -> Iterator[None]:
    """`translated`, and the system's errors too, for a new file."""
    try:
        with translated(path, timeout), enough_handles(path):
            yield
    except MLLMError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(f"no space left for {path}; nothing of it was kept") from error
        raise ReadOnlyStoreError(f"cannot make {path}: {error}") from error


def _translation(error: apsw.Error, path: Path, timeout: float) -> StoreError:
    if isinstance(error, apsw.BusyError | apsw.LockedError):
        return busy(path, timeout)
    if isinstance(error, apsw.FullError):
        return DiskFullError(f"no space left for {path}; nothing of this write was kept")
    if isinstance(error, apsw.ReadOnlyError | apsw.PermissionsError):
        return ReadOnlyStoreError(f"{path} cannot be written: {error}. Open it with read_only=True")
    if is_damage(error) or isinstance(error, apsw.ConstraintError | apsw.MismatchError):
        return damaged(path, error)
    if isinstance(error, apsw.CantOpenError | apsw.IOError):
        return _unreachable(error, path)
    if isinstance(error, apsw.InterruptError):
        return forked(path)
    return StoreError(f"reading or writing {path} failed: {error}")


def is_damage(error: apsw.Error) -> bool:
    """Whether what was read does not check out."""
    checksum = getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_DATA
    return checksum or isinstance(error, apsw.CorruptError | apsw.NotADBError)


def _unreachable(error: apsw.Error, path: Path) -> StoreError:
    """What kept a file from being opened, read or written: SQLite has one error for many reasons."""
    if not _handles_left():
        return _no_handles(path)
    full = getattr(error, "extendedresult", 0) in _NO_ROOM
    if full or (path.parent.exists() and shutil.disk_usage(path.parent).free < _LITTLE_SPACE):
        return DiskFullError(f"no space left for {path}; nothing of this write was kept")
    if isinstance(error, apsw.CantOpenError):
        return ReadOnlyStoreError(
            f"cannot open {path} for writing: {error}. Without write permission use read_only=True"
        )
    return StoreError(f"reading or writing {path} failed: {error}")


def _no_handles(path: Path) -> StoreError:
    return StoreError(
        f"cannot open {path}: this process has no file handles left. Close files or other memories, or raise "
        f"the limit (ulimit -n)"
    )


def _handles_left() -> bool:
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno not in _NO_HANDLES
    return True


@contextmanager
def consistent(path: Path) -> Iterator[None]:
    """Says that what is stored does not fit together where our own code fails on it.

    Arguments are checked before a transaction begins, so that in it only the file can surprise; errors of
    what a caller plugged in, such as a ranker, are passed on.

    Raises:
        DamagedStoreError: An error of Python arose in this package.
    """
    try:
        yield
    except MLLMError:
        raise
    except _SURPRISES as error:
        if not _is_ours(error):
            raise
        raise damaged(
            path, f"what is stored does not fit together: {type(error).__name__}: {error}"
        ) from error


def _is_ours(error: Exception) -> bool:
    """Whether the code that failed, but for the libraries that it called, is this package's."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    names = [str(frame.f_globals.get("__name__", "")).partition(".")[0] for frame in frames]
    libraries = sys.stdlib_module_names | {"numpy", "apsw", ""}  # frames of apsw's C code have no name
    known = [name for name in names if name not in libraries]
    return known[-1:] == ["mllm_plugin"]


@contextmanager
def decoding(what: str) -> Iterator[None]:
    """Says what is inconsistent where stored values are not what belongs there, though their page is sound.

    Args:
        what: Names what is read, in words.

    Raises:
        DamagedStoreError: It cannot be decoded.
    """
    try:
        yield
    except MLLMError:
        raise
    except _SURPRISES as error:
        raise DamagedStoreError(
            f"{what} is missing or not what belongs there ({error}); `mllm verify` lists what is wrong, "
            f"`mllm repair` keeps every document that can be read"
        ) from error


def busy(path: Path, timeout: float) -> StoreBusyError:
    """Another writer took too long."""
    return StoreBusyError(
        f"another writer held {path} for more than {timeout:g} s; nothing was written. Try again, or open "
        f"with a longer timeout="
    )


def damaged(path: Path, error: Exception | str) -> DamagedStoreError:
    """Something in the file does not check out."""
    return DamagedStoreError(
        f"{path} is damaged ({error}). Keep a copy, then restore a backup, or run `mllm repair`, which keeps "
        f"every document that can be read"
    )


def gone(path: Path) -> StoreError:
    """The file is not the one that was opened."""
    return StoreError(
        f"{path} was deleted or replaced since it was opened; nothing was read or written. Open the memory "
        f"again with MemoryIndex.open"
    )


def forked(path: Path) -> StoreError:
    """The file cannot be used in this process."""
    return StoreError(
        f"this process was forked while another thread, or an unfinished iteration, used {path}; SQLite "
        f"cannot be used in it. Fork while no call is running, or start processes by 'spawn'"
    )
