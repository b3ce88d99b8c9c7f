"""What a disk can be trusted with: network file systems, what has reached it, drafts that become whole."""

from __future__ import annotations

import glob
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mllm_plugin.errors import StoreBusyError, UnsupportedFilesystemError

if sys.platform != "win32":
    import fcntl

_NETWORK = {
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "ncpfs",
    "afs",
    "9p",
    "fuse.sshfs",
    "glusterfs",
    "ceph",
    "lustre",
}
_MOUNTS = Path("/proc/self/mounts")
_DRAFT = ".draft"
_SHARED_FIRST, _SHARED_BYTES = 0x40000002, 510  # bytes on which each of SQLite's connections has a lock


def refuse_network_filesystem(folder: Path, mounts: Path = _MOUNTS) -> None:
    """Raises when the folder lies on a network file system; knows Linux mounts and Windows share paths.

    Raises:
        UnsupportedFilesystemError: It does.
    """
    kind = _share(folder) or _mount_type(folder.resolve(), mounts)
    if kind in _NETWORK:
        raise UnsupportedFilesystemError(
            f"{folder} lies on a network file system ({kind}); several machines writing there would damage "
            f"the memory. Use a folder on a local disk"
        )


def _share(folder: Path) -> str:
    return "smbfs" if sys.platform == "win32" and str(folder.resolve()).startswith("\\\\") else ""


def _mount_type(folder: Path, mounts: Path) -> str:
    if not mounts.exists():
        return ""
    best, kind = "", ""
    for line in mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        _, point, found = line.split(" ")[:3]
        point = point.replace("\\040", " ")
        if folder.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, found
    return kind


def sync(path: Path) -> None:
    """Waits until the disk has a file, or the names in a folder.

    Never a SQLite file that this process has open: closing it would drop SQLite's locks.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:
        if sys.platform == "win32":
            return  # folders cannot be opened there
        raise
    try:
        if sys.platform == "darwin":
            fcntl.fcntl(handle, fcntl.F_FULLFSYNC)  # its fsync does not reach the disk
        else:
            os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def held_alone(path: Path) -> Iterator[None]:
    """Keeps every other process's SQLite from a file, by its own lock, while it is read beside SQLite.

    Args:
        path: A file that this process has not open. One that cannot be written is not locked.

    Raises:
        StoreBusyError: Another process has it open.
    """
    handle = None
    try:
        if sys.platform != "win32":
            with suppress(OSError):
                handle = os.open(path, os.O_RDWR)
        if handle is not None:
            _lock_sqlite(handle, path)
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _lock_sqlite(handle: int, path: Path) -> None:
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, _SHARED_BYTES, _SHARED_FIRST)
    except (BlockingIOError, PermissionError):
        raise StoreBusyError(f"another process has {path} open; close it there first") from None
    except OSError:  # a file system without locks
        return


@contextmanager
def draft_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target` in which it is made under its own name, to be moved when it is complete.

    It is deleted at the end, and so are those of processes that were killed.
    """
    _sweep(target)
    folder, lock = _held_folder(target)
    try:
        yield folder
    finally:
        if sys.platform == "win32":
            os.close(lock)  # open files cannot be deleted there
        shutil.rmtree(folder, ignore_errors=True)
        if sys.platform != "win32":
            os.close(lock)


def swap_folders(fresh: Path, target: Path, old: Path) -> None:
    """Puts a folder in the place of another, which goes to `old`; when that fails, it is where it was.

    Args:
        fresh: The new one.
        target: Its place.
        old: Not in a draft folder: after a kill it may be the only one that is left.
    """
    try:
        if target.exists():
            target.rename(old)
        fresh.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    sync(target.parent)


def put(draft: Path, target: Path) -> None:
    """Gives a file its name, unless the name is taken.

    Raises:
        FileExistsError: It is.
    """
    try:
        os.link(draft, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without links, as on memory sticks
        if target.exists():
            raise FileExistsError(f"{target} exists") from None
        draft.rename(target)


def _held_folder(target: Path) -> tuple[Path, int]:
    while True:
        folder = target.with_name(f".{_stem(target)}.{uuid.uuid4().hex}{_DRAFT}")
        folder.mkdir()
        with suppress(FileNotFoundError):
            handle, is_free = _lock(folder)
            if is_free is not False and folder.exists():  # nobody swept it before it was locked
                return folder, handle
            os.close(handle)


def drafts_of(target: Path) -> Iterator[Path]:
    """The draft folders beside a file or folder."""
    return target.parent.glob(f".{glob.escape(_stem(target))}.*{_DRAFT}")


def _stem(target: Path) -> str:
    """As much of a target's name as leaves room for the rest of a draft's: a name has at most 255 bytes."""
    name = target.name
    while len(os.fsencode(name)) > 200:
        name = name[:-1]
    return name


def _sweep(target: Path) -> None:
    """Deletes drafts that no living process holds."""
    for folder in drafts_of(target):
        with suppress(OSError):
            handle, is_free = _lock(folder)
            try:
                if is_free:
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)


def _lock(folder: Path) -> tuple[int, bool | None]:
    """A handle that keeps others from a folder while it is open, and whether it is ours now.

    None where folders cannot be locked: then what killed processes left is not told from what is in use.
    """
    if sys.platform == "win32":
        return os.open(folder / ".lock", os.O_CREAT), None
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)  # a pipe would not be opened ever
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return handle, False
    except OSError:
        return handle, None
    return handle, True
