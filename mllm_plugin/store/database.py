"""The one SQLite file that is the truth: connections, transactions, and SQLite's errors in our words."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import apsw
import apsw.sqlite_extra

from mllm_plugin.errors import (
    ClosedError,
    DamagedStoreError,
    DiskFullError,
    FormatVersionError,
    NotFoundError,
    ReadOnlyStoreError,
    StoreBusyError,
    StoreError,
)
from mllm_plugin.store.filesystem import refuse_network_filesystem
from mllm_plugin.store.filters import register_functions
from mllm_plugin.store.schema import APPLICATION_ID, CHECKSUM_BYTES, FORMAT_VERSION, MIGRATIONS, PAGE_SIZE
from mllm_plugin.store.scrub import scrub_vfs
from mllm_plugin.store.snapshot import Snapshot

FILE_NAME = "memory.db"
_CHECKSUM_VFS = "cksmvfs"
_LONG_LOG = 1000  # pages
_vfs_lock = threading.Lock()
_T = TypeVar("_T")


class Database:
    """Opens or creates the file.

    One writer at a time (`BEGIN IMMEDIATE`, waiting up to `timeout` seconds), any number of readers, each
    with a consistent snapshot. Threads share it; so do processes.

    Args:
        folder: The memory's folder.
        create: Make the file when there is none.
        read_only: Never write; works on a folder without write permission.
        timeout: Seconds to wait for another writer.
        vfs: SQLite VFS to use, for fault injection.

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
        self._vfs = vfs or _checksum_vfs()
        self._scrub_vfs = scrub_vfs(self._vfs)
        self._readers: list[apsw.Connection] = []
        self._lock = threading.Lock()
        self._writing = threading.RLock()
        self._writer: apsw.Connection | None = None
        self._closed = False
        if folder.exists() and not folder.is_dir():
            raise StoreError(f"{folder} is a file; a memory is a folder")
        refuse_network_filesystem(folder)
        if not self.path.exists():
            self._create(create)
        else:
            self._check_format(create)
        self._file = _identity(self.place)

    # -- transactions
    # --------------------------------------------------------------------------------------------

    @contextmanager
    def read(self) -> Iterator[apsw.Connection]:
        """A consistent snapshot, whatever is written meanwhile."""
        with self._errors():
            connection = self._take_reader()
            try:
                connection.execute("BEGIN")
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
    def write(self) -> Iterator[apsw.Connection]:
        """A write transaction: all of it is kept, or nothing."""
        self.check_writable()
        if not self._writing.acquire(timeout=self.timeout):
            raise self._busy()
        try:
            with self._errors():
                connection = self._writer_connection()
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                    if _identity(self.place) != self._file:
                        raise self._gone()
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
        finally:
            self._writing.release()

    def exclusive(self, work: Callable[[apsw.Connection], _T], wait: float | None = None) -> _T:
        """Runs `work` on the writer's connection outside of a transaction (checkpoints, vacuum)."""
        self.check_writable()
        if not self._writing.acquire(timeout=self.timeout if wait is None else wait):
            raise self._busy()
        try:
            with self._errors():
                return work(self._writer_connection())
        finally:
            self._writing.release()

    def truncate_log(self, wait: float) -> bool:
        """Moves the write-ahead log into the file and empties it; False when a reader held it too long."""

        def checkpoint(connection: apsw.Connection) -> bool:
            connection.set_busy_timeout(int(wait * 1000))
            try:
                connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            except apsw.BusyError:
                return False
            finally:
                connection.set_busy_timeout(int(self.timeout * 1000))
            return True

        try:
            return self.exclusive(checkpoint, wait)
        except StoreBusyError:
            return False

    def backup(self, target: Path) -> None:
        """Copies a consistent snapshot into a new file, page by page, while others read and write."""
        self.check_open()
        with self._errors():
            flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
            destination = self._connect(target, flags, self._scrub_vfs)
            try:
                destination.reserve_bytes("main", CHECKSUM_BYTES)
                destination.pragma("page_size", PAGE_SIZE)
                # page checksums are computed from the first page on, and a long copy writes others before it
                destination.execute("CREATE TABLE first_page (x)")
                with self.read() as source, destination.backup("main", source, "main") as copy:
                    copy.step()
                destination.pragma("journal_mode", "delete")
            finally:
                destination.close()

    def close(self) -> None:
        """Closes every connection; running readers keep theirs until they finish."""
        if not self._closed and not self.read_only:
            self._fold_log()
        with self._lock:
            self._closed = True
            readers, self._readers = self._readers, []
        for connection in readers:
            _close(connection)
        with self._writing:
            if self._writer is not None:
                _close(self._writer)
                self._writer = None

    def _fold_log(self) -> None:
        """Leaves one file where nobody else uses the memory; readers never do, since they do not scrub."""
        log = self.path.with_name(f"{FILE_NAME}-wal")
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
            StoreError: The file was deleted, moved away, or replaced by another one.
        """
        if self._closed:
            raise ClosedError(f"the memory at {self.folder} is closed; open it again with MemoryIndex.open")
        if _identity(self.place) != self._file:
            raise self._gone()

    # -- connections
    # ---------------------------------------------------------------------------------------------

    def _connect(self, path: Path | str, flags: int, vfs: str | None = None) -> apsw.Connection:
        connection = apsw.Connection(str(path), flags=flags, vfs=vfs or self._vfs)
        connection.set_busy_timeout(int(self.timeout * 1000))
        register_functions(connection)
        return connection

    def _open_reader(self) -> apsw.Connection:
        flags = apsw.SQLITE_OPEN_READONLY
        if not self.read_only:
            connection = self._connect(self.place, apsw.SQLITE_OPEN_READWRITE)
            connection.pragma("query_only", True)
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)  # only the writer's VFS scrubs
            return connection
        try:
            connection = self._connect(self.place, flags)
            connection.pragma("user_version")
            return connection
        except apsw.CantOpenError:  # a folder without write permission has no place for the shared lock file
            log = self.path.with_name(f"{FILE_NAME}-wal")
            if log.exists() and log.stat().st_size:
                raise StoreError(
                    f"{self.folder} holds writes that are not in {FILE_NAME} yet; open it once for writing"
                ) from None
            uri = f"{self.path.resolve().as_uri()}?immutable=1"
            return self._connect(uri, flags | apsw.SQLITE_OPEN_URI)

    def _take_reader(self) -> apsw.Connection:
        with self._lock:
            self.check_open()
            if self._readers:
                return self._readers.pop()
        return self._open_reader()

    def _return_reader(self, connection: apsw.Connection) -> None:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        with self._lock:
            if not self._closed:
                self._readers.append(connection)
                return
        connection.close()

    def _writer_connection(self) -> apsw.Connection:
        self.check_open()
        if self._writer is None:
            connection = self._connect(self.place, apsw.SQLITE_OPEN_READWRITE, self._scrub_vfs)
            if connection.pragma("journal_mode") != "wal":  # a restored backup
                connection.pragma("journal_mode", "wal")
            connection.pragma("synchronous", "full")
            connection.pragma("secure_delete", True)
            connection.pragma("foreign_keys", True)
            connection.set_wal_hook(_fold_long_log)
            self._writer = connection
        return self._writer

    # -- the file
    # ------------------------------------------------------------------------------------------------

    def _create(self, create: bool) -> None:
        if not create or self.read_only:
            raise NotFoundError(f"no memory at {self.folder}: {FILE_NAME} is missing there")
        with self._errors():
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ReadOnlyStoreError(f"cannot make the folder {self.folder}: {error}") from error
            draft = self.folder / f".{FILE_NAME}.{uuid.uuid4().hex}"
            try:
                self._write_schema(draft)
                if self.path.exists() and not self.path.stat().st_size:
                    os.replace(draft, self.path)  # what a creation that was cut short left
                else:
                    os.link(draft, self.path)
            except FileExistsError:
                pass  # another process was first
            finally:
                draft.unlink(missing_ok=True)

    def _write_schema(self, path: Path) -> None:
        """Makes a complete file under another name, so that nobody ever opens half of one."""
        connection = self._connect(path, apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
        try:
            connection.reserve_bytes("main", CHECKSUM_BYTES)
            connection.pragma("page_size", PAGE_SIZE)
            connection.pragma("auto_vacuum", 2)
            connection.pragma("journal_mode", "wal")
            connection.execute("BEGIN IMMEDIATE")
            connection.pragma("application_id", APPLICATION_ID)
            connection.execute(MIGRATIONS[FORMAT_VERSION])
            connection.pragma("user_version", FORMAT_VERSION)
            connection.execute("COMMIT")
        finally:
            connection.close()

    def _check_format(self, create: bool) -> None:
        with self._errors():
            connection = self._open_reader()
            try:
                application, version = connection.pragma("application_id"), connection.pragma("user_version")
                empty = not connection.execute("SELECT count(*) FROM sqlite_schema").get
            finally:
                connection.close()
        if version == 0 and application == 0 and empty:
            return self._create(create)  # a creation that was cut short
        if application != APPLICATION_ID:
            raise DamagedStoreError(
                f"{self.path} is not a memory of this package, or its first page is damaged"
            )
        if version > FORMAT_VERSION:
            raise FormatVersionError(
                f"{self.path} has format version {version}, this release reads up to {FORMAT_VERSION}; "
                f"upgrade mllm-plugin"
            )

    # -- errors
    # --------------------------------------------------------------------------------------------------

    def _busy(self) -> StoreBusyError:
        return StoreBusyError(
            f"another writer held {self.path} for more than {self.timeout:g} s; nothing was written. Try "
            f"again, or open with a longer timeout="
        )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except apsw.BusyError as error:
            raise self._busy() from error
        except apsw.FullError as error:
            raise DiskFullError(f"no space left for {self.path}; nothing of this write was kept") from error
        except (apsw.ReadOnlyError, apsw.PermissionsError) as error:
            raise ReadOnlyStoreError(
                f"{self.path} cannot be written: {error}. Open it with read_only=True"
            ) from error
        except (apsw.CorruptError, apsw.NotADBError) as error:
            raise self._damaged(error) from error
        except apsw.CantOpenError as error:
            raise ReadOnlyStoreError(
                f"cannot open {self.path} for writing: {error}. Without write permission use read_only=True"
            ) from error
        except apsw.IOError as error:
            if getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_DATA:
                raise self._damaged(error) from error
            raise StoreError(f"reading or writing {self.path} failed: {error}") from error

    def _gone(self) -> StoreError:
        return StoreError(
            f"{self.path} was deleted or replaced since it was opened; nothing was read or written. Open the "
            f"memory again with MemoryIndex.open"
        )

    def _damaged(self, error: Exception) -> DamagedStoreError:
        return DamagedStoreError(
            f"{self.path} is damaged ({error}). Keep a copy, then restore a backup, or rebuild the memory "
            f"from its documents"
        )


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


def _close(connection: apsw.Connection) -> None:
    """Closes a connection, though tidying up fail (a read-only file, a full disk): the log has all of it."""
    try:
        connection.close()
    except apsw.Error:
        connection.close(True)


def _checksum_vfs() -> str:
    """Registers SQLite's checksum VFS once per process."""
    with _vfs_lock:
        if _CHECKSUM_VFS not in apsw.vfs_names():
            with apsw.Connection(":memory:") as loader:
                apsw.sqlite_extra.load(loader, "cksumvfs")
    return _CHECKSUM_VFS
