"""A disk that fails when told to: a VFS between SQLite and the one that checks pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import apsw

from mllm_plugin.store import connections, database

NAME = "faulty"
_BASE = connections.checksum_vfs()
_vfs: list[FaultyVFS] = []


class _FaultyFile(apsw.VFSFile):
    def __init__(self, name, flags) -> None:
        super().__init__(_BASE, name, flags)
        self._is_main = bool(flags[0] & apsw.SQLITE_OPEN_MAIN_DB)

    def xWrite(self, data, offset) -> None:
        self._fail("write")
        super().xWrite(data, offset)

    def xTruncate(self, size) -> None:
        self._fail("truncate")
        super().xTruncate(size)

    def xSync(self, flags) -> None:
        self._fail("sync")
        super().xSync(flags)

    def _fail(self, what: str) -> None:
        if fault := _vfs[0].fault:
            fault(what, self._is_main)


class FaultyVFS(apsw.VFS):
    """Calls `fault(what, is_main_file)`, which may raise, before every write, truncation and sync."""

    def __init__(self) -> None:
        super().__init__(NAME, _BASE)
        self.fault: Callable[[str, bool], None] | None = None

    def xOpen(self, name, flags) -> apsw.VFSFile:
        return _FaultyFile(name, flags)


@contextmanager
def faulty_disk(monkeypatch) -> Iterator[FaultyVFS]:
    """Memories opened within lie on a disk whose faults the VFS given tells."""
    if not _vfs:
        _vfs.append(FaultyVFS())
    monkeypatch.setattr(database, "checksum_vfs", lambda: NAME)
    try:
        yield _vfs[0]
    finally:
        _vfs[0].fault = None


def full(what: str, is_main: bool) -> None:
    """The file has no room; the log has."""
    if is_main and what == "write":
        raise apsw.FullError("database or disk is full")


def broken(what: str, is_main: bool) -> None:
    """The file cannot be synced or cut."""
    if is_main and what != "write":
        raise apsw.IOError("disk I/O error")
