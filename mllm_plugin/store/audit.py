"""The audit log of an agent memory: what was written, recalled, masked, removed, when and where; no texts.

A small SQLite file beside the memory's. What is erased takes its id along: of it remains that something was.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import warnings
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from mllm_plugin import clock
from mllm_plugin.errors import StoreError
from mllm_plugin.store.forks import watch_forks
from mllm_plugin.types import Namespace

FILE_NAME = "audit.db"
_SCHEMA = """
    CREATE TABLE IF NOT EXISTS entries (
        entry INTEGER PRIMARY KEY, at INTEGER NOT NULL, action TEXT NOT NULL, scope TEXT NOT NULL,
        count INTEGER NOT NULL
    );
    CREATE TABLE IF NOT EXISTS items (id TEXT NOT NULL, entry INTEGER NOT NULL, place INTEGER NOT NULL);
    CREATE INDEX IF NOT EXISTS items_by_id ON items (id);
    CREATE INDEX IF NOT EXISTS items_by_entry ON items (entry);
"""


class Noted(NamedTuple):
    """One entry: what was done to how many items of a namespace, and the ids of those that are not erased."""

    at: datetime
    action: str
    namespace: Namespace
    ids: tuple[str, ...]
    count: int


class Audit:
    """The audit log of one memory; shared by threads and processes.

    Args:
        folder: Of the memory.
        enabled: False writes nothing; what is there can still be read.
    """

    def __init__(self, folder: Path, enabled: bool) -> None:
        self._path, self._enabled, self._lock = folder / FILE_NAME, enabled, threading.Lock()
        self._file: sqlite3.Connection | None = None
        self._opened: os.stat_result | None = None
        watch_forks(self)

    def note(self, action: str, namespace: Namespace, ids: Sequence[str]) -> None:
        """Writes one entry."""
        self._note(action, namespace, ids, len(ids))

    def note_count(self, action: str, namespace: Namespace, count: int) -> None:
        """Writes one entry about items whose ids are gone."""
        self._note(action, namespace, (), count)

    def _note(self, action: str, namespace: Namespace, ids: Sequence[str], count: int) -> None:
        if not self._enabled:
            return
        try:
            self._write(action, namespace, ids, count)
        except StoreError as error:  # what it tells of is done; that must not look undone
            warnings.warn(str(error), RuntimeWarning, stacklevel=4)

    def _write(self, action: str, namespace: Namespace, ids: Sequence[str], count: int) -> None:
        with self._transaction() as file:
            row = (clock.micros_now(), action, json.dumps(namespace), count)
            entry = file.execute(
                "INSERT INTO entries (at, action, scope, count) VALUES (?, ?, ?, ?)", row
            ).lastrowid
            items = [(name, entry, place) for place, name in enumerate(ids)]
            file.executemany("INSERT INTO items VALUES (?, ?, ?)", items)

    def erase(self, ids: Iterable[str]) -> str:
        """Takes ids out of every entry; why that could not be done, else empty."""
        if not self._path.exists():
            return ""
        try:
            with self._transaction() as file:
                file.executemany("DELETE FROM items WHERE id = ?", [(name,) for name in ids])
            with self._using() as file:
                file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except (StoreError, sqlite3.Error) as error:
            return str(error)
        return ""

    def entries(self, namespace: Namespace, limit: int) -> list[Noted]:
        """The last entries of a namespace and of those below it, the newest first."""
        if not self._path.exists():
            return []
        begins = json.dumps(namespace)[:-1]
        with self._using() as file:
            rows = file.execute(
                "SELECT entry, at, action, scope, count FROM entries "
                "WHERE substr(scope, 1, ?) = ? AND substr(scope, ?, 1) IN (']', ',', '\"') "
                "ORDER BY entry DESC LIMIT ?",
                (len(begins), begins, len(begins) + 1, limit),
            ).fetchall()
            return [self._entry(file, *row) for row in rows]

    @staticmethod
    def _entry(file: sqlite3.Connection, entry: int, at: int, action: str, scope: str, count: int) -> Noted:
        found = file.execute("SELECT id FROM items WHERE entry = ? ORDER BY place", (entry,))
        moment = clock.at(at)
        assert moment is not None
        ids = tuple(name for (name,) in found)
        return Noted(moment, action, tuple(json.loads(scope)), ids, count)

    def close(self) -> None:
        """Closes the file; a later entry opens it again."""
        with self._lock:
            self._drop()

    def before_fork(self) -> None:
        """See `HoldsFiles`."""
        self._lock.acquire()
        self._drop()

    def after_fork(self, *, child: bool) -> None:
        """See `HoldsFiles`."""
        if child:
            self._lock = threading.Lock()
        else:
            self._lock.release()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._using() as file, file:
                yield file
        except sqlite3.Error as error:
            raise StoreError(
                f"the audit log {self._path} cannot be written: {error}; the memory itself is as it should "
                f"be. Free the file, or open the agent memory with audit=False"
            ) from error

    @contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        """The open file. It stays open, since closing it waits for the disk."""
        with self._lock:
            if self._file is None or not self._is_there():
                self._drop()
                self._file = self._connection()
            try:
                yield self._file
            except sqlite3.Error:
                self._drop()
                raise

    def _is_there(self) -> bool:
        """Whether the path is still the file that was opened."""
        try:
            return self._opened is not None and os.path.samestat(self._opened, self._path.stat())
        except FileNotFoundError:
            return False

    def _connection(self) -> sqlite3.Connection:
        file = sqlite3.connect(self._path, timeout=30.0, check_same_thread=False)
        weakref.finalize(self, file.close)
        file.executescript(
            f"PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA secure_delete=ON; {_SCHEMA}"
        )
        self._opened = self._path.stat()
        return file

    def _drop(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
