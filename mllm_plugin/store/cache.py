"""Embeddings of texts that are not stored yet, on disk, so that an interrupted build need not repeat them.

Bytes in and bytes out: nothing is ever pickled or unpickled (CVE-2025-69872). Every entry carries a hash of
all that it stands for; one that does not fit is dropped. Entries go when their text is stored or removed;
deleting the folder costs time and nothing else.

A memory that comes from somebody else may hold links to other places, and settings, triggers or names of
files that SQLite and diskcache would obey. So a folder is opened only when it is what we write, and made anew
when it is anything else.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import cache, wraps
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import diskcache
import numpy as np
from diskcache.core import DBNAME, MODE_RAW

from mllm_plugin.store.forks import watch_forks
from mllm_plugin.types import Namespace

FOLDER_NAME = "cache"
_SEAL_BYTES = 16
_REST = 60.0  # seconds without a cache that could not be used
_NOTHING = object()
_T = TypeVar("_T")

FILES = (DBNAME, f"{DBNAME}-wal", f"{DBNAME}-shm")
PATIENCE = 5.0  # seconds for another process that is writing

_JOURNAL = f"{DBNAME}-journal"  # never ours, since we write ahead; SQLite would delete a file that it names
_SETTINGS: dict[str, Any] = {
    "eviction_policy": "none",
    "cull_limit": 0,
    "size_limit": 1 << 62,
    "disk_min_file_size": 1 << 30,
    "sqlite_secure_delete": 1,
    "sqlite_mmap_size": 0,  # a mapped file that somebody cuts short ends the process
}
_PASSING = ("locked", "busy", "full", "disk I/O", "unable to open")


def _forgiving(method: Callable[..., _T]) -> Callable[..., _T | None]:
    """A cache that cannot be used is left aside for a while, a damaged one made anew: it only saves time."""

    @wraps(method)
    def guarded(self: EmbeddingCache, *arguments: object) -> _T | None:
        with self._lock:  # threads take turns
            if time.monotonic() < self._resting_until:
                return None
            try:
                return method(self, *arguments)
            except (sqlite3.Error, diskcache.Timeout, OSError, ValueError, TypeError, MemoryError) as error:
                if passes(error) or not self._discard():
                    self._resting_until = time.monotonic() + _REST
                return None

    return guarded


class EmbeddingCache:
    """A pooled vector (fp16) and further bytes by namespace, text and what made them.

    Args:
        folder: The memory's folder.
        fingerprint: Of the encoder.
        dim: Width of the embeddings.
    """

    def __init__(self, folder: Path, fingerprint: str, dim: int) -> None:
        self._folder, self._fingerprint, self._dim = folder / FOLDER_NAME, fingerprint, dim
        self._opened: OneConnection | None = None
        self._resting_until = 0.0
        self._lock = threading.RLock()
        watch_forks(self)

    @_forgiving
    def get(self, text_hash: bytes) -> tuple[np.ndarray, bytes] | None:
        """The pooled vector [d] and further bytes of a text, or None."""
        if not os.path.lexists(self._folder):
            return None
        key = self._key(text_hash)
        data = self._cache().get(key, default=_NOTHING)
        if data is _NOTHING:
            return None
        entry = self._entry(key, data)
        if entry is None:
            self._cache().delete(key)
        return entry

    @_forgiving
    def put(self, entries: Iterable[tuple[bytes, np.ndarray, bytes]]) -> None:
        """Keeps embeddings: (text hash, pooled vector [d], further bytes) each."""
        with self._cache().transact():
            for text_hash, pooled, further in entries:
                key, data = self._key(text_hash), pooled.astype("<f2").tobytes() + further
                self._cache().set(key, self._seal(key, data) + data)

    @_forgiving
    def drop(self, text_hashes: Iterable[bytes | None]) -> None:
        """Forgets texts."""
        if not os.path.lexists(self._folder):
            return
        with self._cache().transact():
            for text_hash in text_hashes:
                if text_hash is not None:
                    self._cache().delete(self._key(text_hash))

    def erase(self, wait: float) -> bool:
        """Forgets everything and rewrites its files; False when another process held them for `wait` s."""
        if not os.path.lexists(self._folder):
            return True
        try:
            if not is_ours(self._folder, wait):
                return self._discard()
            with closing(sqlite3.connect(self._folder / DBNAME, wait, isolation_level=None)) as connection:
                connection.execute("DELETE FROM Cache")
                connection.execute("VACUUM")
                return not connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        except (sqlite3.Error, OSError, MemoryError) as error:
            return not passes(error) and self._discard()

    def nbytes(self) -> int:
        """Bytes on disk."""
        return nbytes(self._folder)

    def close(self) -> None:
        """Closes the cache's files."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = None

    def _discard(self) -> bool:
        """Throws the cache away; False when that is not possible."""
        try:
            self.close()
            discard(self._folder)
        except (sqlite3.Error, OSError):
            return False
        return True

    def before_fork(self) -> None:
        """Closes its files; see `store.forks`."""
        self._lock.acquire()
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def after_fork(self, *, child: bool) -> None:
        """Goes on."""
        if child:
            self._lock = threading.RLock()
        else:
            self._lock.release()

    def _cache(self) -> OneConnection:
        if self._opened is None:
            self._opened = open_cache(self._folder)
        return self._opened

    def _key(self, text_hash: bytes) -> str:
        return f"{text_hash.hex()}:{self._fingerprint}"

    def _seal(self, key: str, data: bytes) -> bytes:
        return hashlib.blake2b(f"{key}:{self._dim}\n".encode() + data, digest_size=_SEAL_BYTES).digest()

    def _entry(self, key: str, stored: object) -> tuple[np.ndarray, bytes] | None:
        """What was put; None where it is something else."""
        if not isinstance(stored, bytes):
            return None
        seal, data, width = stored[:_SEAL_BYTES], stored[_SEAL_BYTES:], 2 * self._dim
        if len(data) < width or seal != self._seal(key, data):
            return None
        pooled = np.frombuffer(data[:width], dtype="<f2")
        return (pooled, data[width:]) if np.isfinite(pooled).all() else None


def hash_text(namespace: Namespace, text: str) -> bytes:
    """Identifies a text within a namespace; the same text in another namespace has another hash."""
    digest = hashlib.blake2b(digest_size=16)
    for part in namespace:
        digest.update(len(part.encode()).to_bytes(4, "little") + part.encode())
    digest.update(b"\xff" + text.encode("utf-8"))
    return digest.digest()


# -- the folder


class BytesDisk(diskcache.Disk):
    """Stores bytes as they are, refuses to read anything else, and has no files beside the database."""

    def store(self, value: Any, read: bool, key: Any = diskcache.UNKNOWN) -> tuple:
        """The columns of a value."""
        if not isinstance(value, bytes):
            raise TypeError(f"the embedding cache holds bytes, got {type(value).__name__}")
        return super().store(value, read, key)

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> Any:
        """The value; None where the columns are not what `store` gave."""
        if mode != MODE_RAW or filename is not None or not isinstance(value, bytes):
            return None
        return value

    def get(self, key: Any, raw: bool) -> Any:
        """The key; a pickled one is an error."""
        if not raw:
            raise ValueError("a pickled key in the embedding cache: delete the cache folder")
        return super().get(key, raw)

    def remove(self, file_path: str) -> None:
        """Nothing: a row that names a file is not ours, and the file may lie anywhere."""


class OneConnection(diskcache.Cache):
    """A cache whose threads share one connection, by turns: closing it closes every file.

    diskcache has one for each thread and closes that of the caller.
    """

    _one: sqlite3.Connection | None = None

    @property
    def _con(self) -> sqlite3.Connection:
        if self._one is None:
            path = os.path.join(self.directory, DBNAME)
            self._one = sqlite3.connect(path, self.timeout, isolation_level=None, check_same_thread=False)
            for name, value in self._one.execute("SELECT key, value FROM Settings").fetchall():
                if name.startswith("sqlite_"):  # SQLite keeps these for a connection
                    self.reset(name, value, update=False)
        return self._one

    def close(self) -> None:
        """Closes the files."""
        if self._one is not None:
            self._one.close()
            self._one = None


class _Description(NamedTuple):
    schema: list[tuple]
    settings: list[tuple]


def open_cache(folder: Path) -> OneConnection:
    """Opens the cache in a folder; what is not ours there is thrown away first.

    Raises:
        OSError: The folder cannot be used.
        sqlite3.OperationalError: Another process holds it; see `passes`.
    """
    if os.path.expandvars(os.path.expanduser(folder)) != str(folder):
        raise OSError(f"diskcache would take {folder} for another folder")
    if not is_ours(folder):
        discard(folder)
        _create(folder)
        if not is_ours(folder):
            raise OSError(f"{folder} is changed by somebody else")
    return OneConnection(str(folder), timeout=PATIENCE, disk=BytesDisk, **_SETTINGS)  # type: ignore[arg-type]


def is_ours(folder: Path, wait: float = PATIENCE) -> bool:
    """Whether a folder holds a cache that nobody else has made or changed, and that can be written.

    Raises:
        sqlite3.OperationalError: Another process holds it for `wait` seconds.
    """
    if not _is_plain(folder):
        return False
    try:
        with closing(sqlite3.connect(folder / DBNAME, wait, isolation_level=None)) as connection:
            same = _schema(connection) == _template()[1].schema
            same = same and _settings(connection) == _template()[1].settings
            if same:
                connection.execute("BEGIN IMMEDIATE")  # diskcache would wait a minute for it
                connection.execute("ROLLBACK")
            return same
    except sqlite3.Error as error:
        if passes(error):
            raise
        return False


def passes(error: BaseException) -> bool:
    """Whether an error says nothing of the cache, only of the moment."""
    if isinstance(error, sqlite3.OperationalError):
        return any(words in str(error) for words in _PASSING)
    return isinstance(error, diskcache.Timeout | OSError)


def discard(folder: Path) -> None:
    """Removes the cache's files, and whatever else is there under their names; links are not followed.

    Raises:
        OSError: Something cannot be removed.
    """
    if _mode(folder) is not None and not stat.S_ISDIR(_mode(folder) or 0):
        folder.unlink(missing_ok=True)
    for path in (folder / name for name in (_JOURNAL, *reversed(FILES))):
        if stat.S_ISDIR(_mode(path) or 0):
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def nbytes(folder: Path) -> int:
    """Bytes of the cache's files."""
    return sum(found.st_size for found in _files(folder))


def _create(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    try:
        with (folder / DBNAME).open("xb") as file:
            file.write(_template()[0])
    except FileExistsError:  # another process was quicker
        pass


def _is_plain(folder: Path) -> bool:
    """A folder with files of its own: no links to elsewhere, pipes or devices under the names we open."""
    return (
        stat.S_ISDIR(_mode(folder) or 0)
        and _mode(folder / DBNAME) is not None
        and _mode(folder / _JOURNAL) is None
        and all(stat.S_ISREG(found.st_mode) and found.st_nlink == 1 for found in _files(folder))
    )


def _files(folder: Path) -> Iterator[os.stat_result]:
    for name in FILES:
        try:
            yield os.lstat(folder / name)
        except (FileNotFoundError, NotADirectoryError):
            continue


def _mode(path: Path) -> int | None:
    try:
        return os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


@cache
def _template() -> tuple[bytes, _Description]:
    """An empty cache: its file, and what a cache of ours must look like."""
    with tempfile.TemporaryDirectory(prefix="mllm-cache-") as folder:
        diskcache.Cache(folder, disk=BytesDisk, **_SETTINGS).close()  # type: ignore[arg-type]
        path = Path(folder) / DBNAME
        with closing(sqlite3.connect(path)) as connection:
            described = _Description(_schema(connection), _settings(connection))
        return path.read_bytes(), described


def _schema(connection: sqlite3.Connection) -> list[tuple]:
    rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master LIMIT 100").fetchall()
    return sorted(rows, key=repr)


def _settings(connection: sqlite3.Connection) -> list[tuple]:
    """The rows that diskcache reads, the values of its counters aside; only where the schema is ours."""
    rows = connection.execute(
        "SELECT key, typeof(value), CASE WHEN key IN ('count', 'size', 'hits', 'misses') THEN NULL "
        "ELSE value END FROM Settings NOT INDEXED LIMIT 100"
    ).fetchall()
    return sorted(rows, key=repr)
