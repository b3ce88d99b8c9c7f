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

from mllm_plugin.errors import UnsupportedFilesystemError

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
def draft_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target` in which it is made under its own name, to be moved when it is complete.

    It is deleted at the end, and so are those of processes that were killed.
    """
    _sweep(target)
    folder, lock = _held_folder(target)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
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


def _held_folder(target: Path) -> tuple[Path, int]:
    while True:
        folder = target.with_name(f".{target.name}.{uuid.uuid4().hex}{_DRAFT}")
        folder.mkdir()
        lock = _lock(folder)
        if lock is not None and folder.exists():  # nobody swept it before it was locked
            return folder, lock


def _sweep(target: Path) -> None:
    """Deletes drafts that no living process holds."""
    for folder in target.parent.glob(f".{glob.escape(target.name)}.*{_DRAFT}"):
        with suppress(OSError):
            if (lock := _lock(folder)) is not None:
                try:
                    shutil.rmtree(folder, ignore_errors=True)
                finally:
                    os.close(lock)


def _lock(folder: Path) -> int | None:
    """A handle that keeps others from the folder as long as it is open; None when another has it."""
    if sys.platform == "win32":  # open files cannot be deleted there, and no folder can be locked
        name = folder / ".lock"
        return None if name.exists() else os.open(name, os.O_CREAT)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle
