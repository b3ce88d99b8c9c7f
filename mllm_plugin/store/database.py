"""The one SQLite file that is the truth: connections and transactions."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol, TypeVar
from weakref import WeakSet

import apsw

from mllm_plugin.errors import ClosedError, DamagedStoreError, NotFoundError, ReadOnlyStoreError, StoreError
from mllm_plugin.errors import StoreBusyError as _Busy
from mllm_plugin.store.connections import (
    READ_WRITE,
    busy,
    check_size,
    checksum_vfs,
    close,
    connect,
    consistent,
    enough_handles,
    forked,
    gone,
    translated,
)
from mllm_plugin.store.creation import check_file, copy_file, create_file
from mllm_plugin.store.filesystem import refuse_network_filesystem, sync
from mllm_plugin.store.forks import HoldsFiles, watch_forks
from mllm_plugin.store.log import log_of
from mllm_plugin.store.schema import is_older, migrate, stand_in
from mllm_plugin.store.scrub import scrub_vfs
from mllm_plugin.store.snapshot import Snapshot
from mllm_plugin.store.surroundings import check_surroundings

FILE_NAME = "memory.db"
_LONG_LOG = 1000  # pages
_T = TypeVar("_T")
_open: WeakSet[Database] = WeakSet()
_stranded: set[tuple[int, int] | None] = set()  # files with connections that this process inherited


class Watcher(Protocol):
    """What holds something of the file that a write may take away."""

    def written(self) -> None:
        """Called after every write through this very `Database`; must not raise."""
        ...


class Database:
    """Opens or creates the file.

    One writer at a time (`BEGIN IMMEDIATE`, waiting up to `timeout` seconds), any number of readers, each
    with a consistent snapshot. Threads share it; so do processes, forked ones too.

    Args:
        folder: The memory's folder.
        create: Make the file when there is none.
        read_only: Never write; works on a folder without write permission.
        timeout: Seconds to wait for another writer.
        vfs: SQLite VFS to use, for fault injection.

    Attributes:
        watchers: Told of every write, as long as somebody else holds them.

    Raises:
        NotFoundError: No memory there and `create` is False.
        StoreError: See `mllm_plugin.errors` for what can be wrong with the file.
    """

    def __init__(
        self,
        folder: Path,
        *,
        create: bool = True,
        read_only: bool = False,
        timeout: float = 30.0,
        vfs: str | None = None,
    ) -> None:
        self.folder, self.path = folder, folder / FILE_NAME
        self.place = self.path.absolute()  # the process may change its folder
        self.read_only, self.timeout = read_only, timeout
        self._vfs = vfs or checksum_vfs()
        self._scrub_vfs = scrub_vfs(self._vfs)
        self._readers: list[apsw.Connection] = []
        self._writer: apsw.Connection | None = None
        self._used: dict[apsw.Connection, int] = {}  # by which thread
        self._lock, self._writing = threading.Lock(), threading.RLock()
        self._closed, self._size = False, -1
        self.watchers: WeakSet[Watcher] = WeakSet()
        self.readers_of_its_own: list[HoldsFiles] = []  # read in threads of their own; paused before a fork
        self._old = False  # of an older format, and not to be written
        if folder.exists() and not folder.is_dir():
            raise StoreError(f"{folder} is a file; a memory is a folder")
        with enough_handles(self.path):
            refuse_network_filesystem(folder)
        if not os.path.lexists(self.path):
            self._create(create)
        check_surroundings(self.path, writes=not read_only)
        if self.path.is_symlink():
            self.place = self.path.resolve()  # its log lies beside the file itself
        if _identity(self.place) in _stranded:
            raise forked(self.path)
        self._file = _identity(self.place)
        watch_forks(self)
        _open.add(self)
        try:
            self._check_format()
        except BaseException:
            self._closed = True  # what is no memory is not tidied up
            self.close()
            raise

    # -- transactions
    # --------------------------------------------------------------------------------------------

    @contextmanager
    def read(self) -> Iterator[apsw.Connection]:
        """A consistent snapshot, whatever is written meanwhile."""
        with self._errors():
            connection = self._take_reader()
            try:
                connection.execute("BEGIN")
                self._size = check_size(connection, self.place, self._size)
                if self._old:
                    stand_in(connection)
                yield connection
            finally:
                self._return_reader(connection)

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """The same for those who read above the store; it ends with the block."""
        with self.read() as connection:
            snapshot = Snapshot(connection)
            try:
                yield snapshot
            finally:
                snapshot.end()

    @contextmanager
    def write(self, wait: float | None = None) -> Iterator[apsw.Connection]:
        """A write transaction: all of it is kept, or nothing.

        Args:
            wait: Seconds to wait for another writer; the memory's timeout when left out.
        """
        with self._committing(wait) as connection:
            yield connection
        for watcher in list(self.watchers):
            watcher.written()

    @contextmanager
    def _committing(self, wait: float | None) -> Iterator[apsw.Connection]:
        with self._exclusively(wait) as connection:
            self._begin(connection, wait)
            try:
                self._size = check_size(connection, self.place, self._size)
                yield connection
                if connection not in self._used:
                    raise forked(self.path)
                if _identity(self.place) != self._file:
                    raise gone(self.path)
                connection.execute("COMMIT")
            except BaseException:
                if connection in self._used and connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _begin(self, connection: apsw.Connection, wait: float | None) -> None:
        if wait is not None and connection.in_transaction:  # of this very thread
            raise busy(self.path, wait)
        connection.execute("BEGIN IMMEDIATE")

    def exclusive(self, work: Callable[[apsw.Connection], _T], wait: float | None = None) -> _T:
        """Runs `work` on the writer's connection outside of a transaction (checkpoints, vacuum)."""
        with self._exclusively(wait) as connection:
            return work(connection)

    @contextmanager
    def _exclusively(self, wait: float | None) -> Iterator[apsw.Connection]:
        self.check_writable()
        turn, wait = self._writing, self.timeout if wait is None else wait
        if not turn.acquire(timeout=wait):
            raise busy(self.path, wait)
        try:
            with self._errors():
                with self._lock:
                    connection = self._writer_connection()
                    connection.set_busy_timeout(int(wait * 1000))
                    nested = connection in self._used
                    self._used[connection] = threading.get_ident()
                try:
                    yield connection
                finally:
                    if not nested:
                        self._used.pop(connection, None)
        finally:
            turn.release()

    def truncate_log(self, wait: float) -> bool:
        """Moves the write-ahead log into the file and empties it; False when a reader held it too long."""

        def checkpoint(connection: apsw.Connection) -> bool:
            try:
                connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            except apsw.BusyError:
                return False
            with suppress(FileNotFoundError):
                # SQLite syncs the file but not that the log is empty: after a power failure its old frames,
                # with all that they hold, would be back. The log has no locks, so it may be opened here.
                sync(log_of(self.place))
            return True

        try:
            return self.exclusive(checkpoint, wait)
        except _Busy:
            return False

    def backup(self, target: Path) -> None:
        """Copies a consistent snapshot into a new file, page by page, while others read and write."""
        with self.read() as source:
            copy_file(source, target, self._scrub_vfs, self.timeout)

    def close(self) -> None:
        """Closes every connection; running readers keep theirs until they finish."""
        if not self._closed and not self.read_only:
            self._fold_log()
        with self._lock:
            self._closed = True
            readers, self._readers = self._readers, []
        for connection in readers:
            close(connection)
        with self._writing:
            if self._writer is not None:
                close(self._writer)
                self._writer = None

    def _fold_log(self) -> None:
        """Leaves one file where nobody else uses the memory; readers never do, since they do not scrub."""
        log = log_of(self.place)
        with suppress(StoreError, OSError):
            if log.exists() and log.stat().st_size:
                self.truncate_log(0.0)

    def check_writable(self) -> None:
        """Raises when nothing can be written, before any work is done for it.

        Raises:
            ReadOnlyStoreError: The memory was opened read-only.
        """
        self.check_open()
        if self.read_only:
            raise ReadOnlyStoreError(
                f"{self.folder} was opened read-only; open it without read_only=True to write"
            )

    def check_open(self) -> None:
        """Raises when the memory was closed, or its file is no longer there: what is written would be lost.

        Raises:
            ClosedError: It was closed.
            StoreError: The file was deleted, moved away, or replaced by another one; or this process was
                forked in the middle of a call.
        """
        if self._closed:
            raise ClosedError(f"the memory at {self.folder} is closed; open it again with MemoryIndex.open")
        if _stranded and self._file in _stranded:
            raise forked(self.path)
        if _identity(self.place) != self._file:
            raise gone(self.path)

    # -- connections
    # ---------------------------------------------------------------------------------------------

    def _open_reader(self) -> apsw.Connection:
        if not self.read_only:
            connection = connect(self.place, READ_WRITE, self._vfs, self.timeout)
            connection.pragma("query_only", True)
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)  # only the writer's VFS scrubs
            return connection
        flags = apsw.SQLITE_OPEN_READONLY
        try:
            connection = connect(self.place, flags, self._vfs, self.timeout)
            connection.pragma("user_version")
            return connection
        except apsw.CantOpenError:  # a folder without write permission has no place for the shared lock file
            log = log_of(self.place)
            if log.exists() and log.stat().st_size:
                raise StoreError(
                    f"{self.folder} holds writes that are not in {FILE_NAME} yet; open it once for writing"
                ) from None
            uri = f"{self.place.resolve().as_uri()}?immutable=1"
            return connect(uri, flags | apsw.SQLITE_OPEN_URI, self._vfs, self.timeout)

    def _take_reader(self) -> apsw.Connection:
        with self._lock:
            self.check_open()
            connection = self._readers.pop() if self._readers else self._open_reader()
            self._used[connection] = threading.get_ident()
        return connection

    def _return_reader(self, connection: apsw.Connection) -> None:
        if connection not in self._used:
            return  # of the process that this one was forked from
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        with self._lock:
            del self._used[connection]
            if not self._closed:
                self._readers.append(connection)
                return
        close(connection)

    def _writer_connection(self) -> apsw.Connection:
        self.check_open()
        if self._writer is None:
            connection = connect(self.place, READ_WRITE, self._scrub_vfs, self.timeout)
            if connection.pragma("journal_mode") != "wal":  # a restored backup
                connection.pragma("journal_mode", "wal")
            connection.pragma("synchronous", "full")
            connection.pragma("secure_delete", True)
            connection.pragma("foreign_keys", True)
            connection.set_wal_hook(_fold_long_log)
            self._writer = connection
        return self._writer

    # -- forks, see `store.forks`
    # ----------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Closes idle connections; until `after_fork` none is taken or given back."""
        for reader in self.readers_of_its_own:
            reader.before_fork()
        self._lock.acquire()
        if self._writer is not None and self._writer not in self._used:
            close(self._writer)
            self._writer = None
        while self._readers:
            close(self._readers.pop())

    def after_fork(self, *, child: bool) -> None:
        """Goes on; in a child, connections that were in use are never touched again, nor is their file."""
        if not child:
            self._lock.release()
            self._resume(child=False)
            return
        self._lock, self._writing = threading.Lock(), threading.RLock()
        self._writer = None
        if self._used:
            _stranded.add(self._file)
        for connection, thread in self._used.items():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))  # collected, it would be closed
            if thread == threading.get_ident():
                connection.set_progress_handler(lambda: True, 1)  # an iteration that goes on is interrupted
        self._used = {}
        self._resume(child=True)

    def _resume(self, *, child: bool) -> None:
        for reader in self.readers_of_its_own:
            reader.after_fork(child=child)

    # -- the file
    # ------------------------------------------------------------------------------------------------

    def _create(self, create: bool) -> None:
        if not create or self.read_only:
            raise NotFoundError(f"no memory at {self.folder}: {FILE_NAME} is missing there")
        with self._errors():
            create_file(self.path, self._vfs, self.timeout)

    def _check_format(self) -> None:
        if not self.path.stat().st_size:
            raise DamagedStoreError(
                f"{self.path} is empty: what should have been copied there was not. Restore a backup with "
                f"`mllm restore`, or delete the file to begin a new memory"
            )
        with self.read() as tx:
            old = check_file(tx, self.path, read_only=self.read_only)
            self._old = self.read_only and is_older(tx)
        if old:
            self.exclusive(migrate)
            with self.read() as tx:
                check_file(tx, self.path, read_only=self.read_only)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        with translated(self.path, self.timeout), enough_handles(self.path), consistent(self.path):
            yield


def is_open_here(path: Path) -> bool:
    """Whether this process has a file open; opening and closing it otherwise would drop its locks."""
    return any(database._file == _identity(path) and not database._closed for database in _open)


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file is there; None when there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _fold_long_log(connection: apsw.Connection, name: str, pages: int) -> int:
    """Moves a long log into the file after a commit, which stands where that fails."""
    if pages >= _LONG_LOG:
        with suppress(apsw.Error):
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    return apsw.SQLITE_OK
