"""The audit log: what was written, recalled, masked and removed, when and in which scope; never a text.

A small SQLite file beside the memory's. What is erased takes its id along: of it remains that something was.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from mllm_plugin import clock
from mllm_plugin.agent.items import AuditEntry
from mllm_plugin.agent.naming import names_of
from mllm_plugin.errors import StoreError
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


class Audit:
    """The audit log of one memory; shared by threads and processes.

    Args:
        folder: Of the memory.
        enabled: False writes nothing; what is there can still be read.
    """

    def __init__(self, folder: Path, enabled: bool) -> None:
        self._path, self._enabled, self._lock = folder / FILE_NAME, enabled, threading.Lock()

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
            with self._lock, closing(self._connection()) as file:
                file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except (StoreError, sqlite3.Error) as error:
            return str(error)
        return ""

    def entries(self, namespace: Namespace, limit: int) -> list[AuditEntry]:
        """The last entries of a scope and of those below it, the newest first."""
        if not self._path.exists():
            return []
        begins = json.dumps(namespace)[:-1]
        with self._lock, closing(self._connection()) as file:
            rows = file.execute(
                "SELECT entry, at, action, scope, count FROM entries "
                "WHERE substr(scope, 1, ?) = ? AND substr(scope, ?, 1) IN (']', ',', '\"') "
                "ORDER BY entry DESC LIMIT ?",
                (len(begins), begins, len(begins) + 1, limit),
            ).fetchall()
            return [self._entry(file, *row) for row in rows]

    @staticmethod
    def _entry(
        file: sqlite3.Connection, entry: int, at: int, action: str, scope: str, count: int
    ) -> AuditEntry:
        found = file.execute("SELECT id FROM items WHERE entry = ? ORDER BY place", (entry,))
        moment = clock.at(at)
        assert moment is not None
        ids = tuple(name for (name,) in found)
        return AuditEntry(moment, action, names_of(tuple(json.loads(scope))), ids, count)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._lock, closing(self._connection()) as file, file:
                yield file
        except sqlite3.Error as error:
            raise StoreError(
                f"the audit log {self._path} cannot be written: {error}; the memory itself is as it should "
                f"be. Free the file, or open the agent memory with audit=False"
            ) from error

    def _connection(self) -> sqlite3.Connection:
        file = sqlite3.connect(self._path, timeout=30.0)
        file.executescript(
            f"PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA secure_delete=ON; {_SCHEMA}"
        )
        return file
