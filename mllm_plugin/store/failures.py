"""SQLite's errors in our words."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from mllm_plugin.errors import (
    DamagedStoreError,
    DiskFullError,
    MLLMError,
    ReadOnlyStoreError,
    StoreBusyError,
    StoreError,
)

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
