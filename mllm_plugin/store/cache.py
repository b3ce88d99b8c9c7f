"""Embeddings of texts that are not stored yet, on disk, so that an interrupted build need not repeat them.

Bytes in and bytes out: nothing is ever pickled or unpickled (CVE-2025-69872). Every entry carries a hash of
all that it stands for; one that does not fit is dropped. Entries go when their text is stored or removed;
deleting the folder costs time and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from functools import wraps
from pathlib import Path
from typing import TypeVar

import diskcache
import numpy as np
from diskcache.core import DBNAME

from mllm_plugin.store import cache_folder
from mllm_plugin.store.forks import watch_forks
from mllm_plugin.types import Namespace

FOLDER_NAME = "cache"
_SEAL_BYTES = 16
_REST = 60.0  # seconds without a cache that could not be used
_NOTHING = object()
_T = TypeVar("_T")


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
                if cache_folder.passes(error) or not self._discard():
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
        self._opened: cache_folder.OneConnection | None = None
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
            if not cache_folder.is_ours(self._folder, wait):
                return self._discard()
            with closing(sqlite3.connect(self._folder / DBNAME, wait, isolation_level=None)) as connection:
                connection.execute("DELETE FROM Cache")
                connection.execute("VACUUM")
                return not connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        except (sqlite3.Error, OSError, MemoryError) as error:
            return not cache_folder.passes(error) and self._discard()

    def nbytes(self) -> int:
        """Bytes on disk."""
        return cache_folder.nbytes(self._folder)

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
            cache_folder.discard(self._folder)
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

    def _cache(self) -> cache_folder.OneConnection:
        if self._opened is None:
            self._opened = cache_folder.open_cache(self._folder)
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
