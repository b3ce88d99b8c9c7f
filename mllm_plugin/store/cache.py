"""Embeddings of texts that are not stored yet, on disk, so that an interrupted build need not repeat them.

Bytes in and bytes out: nothing is ever pickled or unpickled (CVE-2025-69872). Entries go when their text is
stored or removed; deleting the folder costs time and nothing else.
"""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterable
from contextlib import closing
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import diskcache
import numpy as np
from diskcache.core import DBNAME, MODE_RAW

from mllm_plugin.store.forks import watch_forks
from mllm_plugin.types import Namespace

FOLDER_NAME = "cache"
_T = TypeVar("_T")


class _BytesDisk(diskcache.Disk):
    """Stores bytes as they are and refuses to read anything else."""

    def store(self, value: Any, read: bool, key: Any = diskcache.UNKNOWN) -> tuple:
        if not isinstance(value, bytes):
            raise TypeError(f"the embedding cache holds bytes, got {type(value).__name__}")
        return super().store(value, read, key)

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> Any:
        if mode != MODE_RAW or filename is not None or not isinstance(value, bytes):
            return None
        return value

    def get(self, key: Any, raw: bool) -> Any:
        if not raw:
            raise ValueError("a pickled key in the embedding cache: delete the cache folder")
        return super().get(key, raw)


def _forgiving(method: Callable[..., _T]) -> Callable[..., _T | None]:
    """A cache that cannot be read or written is left aside (and made anew if damaged): it only saves time."""

    @wraps(method)
    def guarded(self: EmbeddingCache, *arguments: Any) -> _T | None:
        try:
            return method(self, *arguments)
        except (sqlite3.OperationalError, diskcache.Timeout, OSError):
            return None
        except (sqlite3.DatabaseError, ValueError):
            self.close()
            shutil.rmtree(self._folder, ignore_errors=True)
            return None

    return guarded


class EmbeddingCache:
    """A pooled vector (fp16) and packed windows by namespace, text and encoder.

    Args:
        folder: The memory's folder.
        fingerprint: Of the encoder.
        dim: Width of the embeddings.
    """

    def __init__(self, folder: Path, fingerprint: str, dim: int) -> None:
        self._folder, self._fingerprint, self._bytes = folder / FOLDER_NAME, fingerprint, 2 * dim
        self._opened: diskcache.Cache | None = None
        self._lock = threading.Lock()
        watch_forks(self)

    @_forgiving
    def get(self, text_hash: bytes) -> tuple[np.ndarray, bytes] | None:
        """The pooled vector [d] and packed windows of a text, or None."""
        if not self._folder.exists():
            return None
        data = self._cache().get(self._key(text_hash))
        if not isinstance(data, bytes) or len(data) < self._bytes:
            return None
        return np.frombuffer(data[: self._bytes], dtype="<f2"), data[self._bytes :]

    @_forgiving
    def put(self, entries: Iterable[tuple[bytes, np.ndarray, bytes]]) -> None:
        """Keeps embeddings: (text hash, pooled vector [d], packed windows) each."""
        with self._cache().transact():
            for text_hash, pooled, windows in entries:
                self._cache().set(self._key(text_hash), pooled.astype("<f2").tobytes() + windows)

    @_forgiving
    def drop(self, text_hashes: Iterable[bytes | None]) -> None:
        """Forgets texts."""
        if not self._folder.exists():
            return
        with self._cache().transact():
            for text_hash in text_hashes:
                if text_hash is not None:
                    self._cache().delete(self._key(text_hash))

    @_forgiving
    def erase(self, wait: float) -> bool | None:
        """Forgets everything and rewrites its files; None when another process held them for `wait` s."""
        if not (self._folder / DBNAME).exists():
            return True
        with closing(sqlite3.connect(self._folder / DBNAME, wait, isolation_level=None)) as connection:
            connection.execute("DELETE FROM Cache")
            connection.execute("VACUUM")
            busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        return None if busy else True

    def nbytes(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self._folder.glob("*") if path.is_file())

    def close(self) -> None:
        """Closes the cache's files."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = None

    def before_fork(self) -> None:
        """Closes its files; see `store.forks`."""
        self._lock.acquire()
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def after_fork(self, *, child: bool) -> None:
        """Goes on."""
        if child:
            self._lock = threading.Lock()
        else:
            self._lock.release()

    def _cache(self) -> diskcache.Cache:
        with self._lock:
            if self._opened is None:
                self._opened = diskcache.Cache(
                    str(self._folder),
                    disk=_BytesDisk,
                    eviction_policy="none",
                    cull_limit=0,
                    size_limit=1 << 62,
                    disk_min_file_size=1 << 30,
                    sqlite_secure_delete=1,
                )
            return self._opened

    def _key(self, text_hash: bytes) -> str:
        return f"{text_hash.hex()}:{self._fingerprint}"


def hash_text(namespace: Namespace, text: str) -> bytes:
    """Identifies a text within a namespace; the same text in another namespace has another hash."""
    digest = hashlib.blake2b(digest_size=16)
    for part in namespace:
        digest.update(len(part.encode()).to_bytes(4, "little") + part.encode())
    digest.update(b"\xff" + text.encode("utf-8"))
    return digest.digest()
