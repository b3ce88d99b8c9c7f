"""When documents were written, until when they are kept, and from when to when what they say holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import apsw

from mllm_plugin import clock
from mllm_plugin.errors import InvalidDocumentError, InvalidInputError
from mllm_plugin.types import Document

EXPIRED = "expired"  # the mask of what has expired
_COLUMNS = "created, updated, expires, valid_from, valid_to, version, hidden"
TIMES = ", ".join(f"t.{name}" for name in _COLUMNS.split(", "))
SUPERSEDED = "superseded"  # the mask of what was said once and no longer holds
_BEGIN = "coalesce(t.valid_from, t.created)"
_GIVEN = ("expires_at", "valid_from", "valid_to")


class Times(NamedTuple):
    """Moments of a document in microseconds since 1970; None where nothing is known.

    Attributes:
        created, updated: When it was first and last written.
        expires: When it is hidden.
        valid_from, valid_to: When what it says holds.
        version: Number of the write that last changed it; 0 where that was by an older release.
        hidden: 1 where it has expired and is masked for that.
    """

    created: int | None = None
    updated: int | None = None
    expires: int | None = None
    valid_from: int | None = None
    valid_to: int | None = None
    version: int = 0
    hidden: int = 0

    @property
    def given(self) -> tuple[int | None, ...]:
        """Those that the caller chooses."""
        return self.expires, self.valid_from, self.valid_to

    def fields(self) -> dict:
        """As a `StoredDocument` has them."""
        return {
            "created_at": clock.at(self.created),
            "updated_at": clock.at(self.updated),
            "expires_at": clock.at(self.expires),
            "valid_from": clock.at(self.valid_from),
            "valid_to": clock.at(self.valid_to),
            "version": self.version,
        }


class When(NamedTuple):
    """Which documents a search sees, by time and mask.

    Attributes:
        since: Those whose validity, or else existence, began then or later.
        as_of: Those that were valid then.
        include_masked: Masks that it looks through.
    """

    since: int | None = None
    as_of: int | None = None
    include_masked: tuple[str, ...] = ()

    def restricts(self) -> bool:
        """Whether it is anything else than what every search sees."""
        return self != ALWAYS

    def condition(self, live: str, overdue: int | None) -> tuple[str, tuple]:
        """SQL on a document `d` with times `t`, and its parameters.

        Args:
            live: What `d` must fulfil without it.
            overdue: The latest expiry that no mask tells of yet.
        """
        parts: list[str] = [live]
        parameters: list[Any] = []
        if self.include_masked:
            masked = (
                "NOT EXISTS (SELECT 1 FROM masks m WHERE m.document_rowid = d.document_rowid "
                "AND m.label NOT IN (SELECT value FROM json_each(?)))"
            )
            parts = [masked]
            parameters.append(json.dumps(self.include_masked))
            if overdue is not None and EXPIRED not in self.include_masked:
                parts.append(f"(t.expires IS NULL OR t.expires > {overdue})")
        if self.since is not None:
            parts.append(f"{_BEGIN} >= ?")
            parameters.append(self.since)
        if self.as_of is not None:
            parts.append(f"({_BEGIN} IS NULL OR {_BEGIN} <= ?) AND (t.valid_to IS NULL OR t.valid_to > ?)")
            parameters += [self.as_of, self.as_of]
        return " AND ".join(parts), tuple(parameters)


ALWAYS = When()


def given_times(document: Document) -> tuple[int | None, int | None, int | None]:
    """Expiry, begin and end of validity as the file keeps them.

    Raises:
        InvalidTypeError: One is no datetime, date or text.
        InvalidDocumentError: One names no moment, or the end does not come after the begin.
    """
    try:
        expires, begin, end = (clock.moment(name, getattr(document, name)) for name in _GIVEN)
    except InvalidInputError as error:
        raise InvalidDocumentError(str(error)) from None
    if begin is not None and end is not None and end < begin:
        raise InvalidDocumentError(
            f"valid_to ({document.valid_to}) comes before valid_from ({document.valid_from})"
        )
    return expires, begin, end


def read_times(columns: Sequence[Any]) -> Times:
    """The `TIMES` of a document as a left join gives them."""
    return Times() if columns[-1] is None else Times(*columns)


def load_times(tx: apsw.Connection, rowid: int) -> Times:
    """The times of a document."""
    row = tx.execute(f"SELECT {_COLUMNS} FROM times WHERE document_rowid = ?", (rowid,)).get
    return Times(*row) if row else Times()


def save_times(tx: apsw.Connection, rowid: int, times: Times) -> None:
    """Writes the times of a document."""
    tx.execute("INSERT OR REPLACE INTO times VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (rowid, *times))


def stamped(document: Document, write: int, now: int, before: Times | None, kept: Times | None) -> Times:
    """The times of a document that is being written.

    Args:
        document: As it is from now on.
        write: Number of this write.
        now: Its moment.
        before: Of what it replaces; None for a new one.
        kept: Of the same document in the memory that it comes from.
    """
    kept = kept or Times()
    created = now if before is None else before.created
    known = before.version if before else 0
    same = before is not None and kept.version == known and kept.updated == before.updated
    version = kept.version if kept.version > known or same else max(write, known + 1)
    expires, begin, end = given_times(document)
    return Times(
        created if kept.created is None else kept.created,
        now if kept.updated is None else kept.updated,
        expires,
        begin,
        end,
        version,
    )


def overdue(tx: apsw.Connection, now: int, most: int) -> dict[int, list[int]]:
    """Documents that have expired and are not masked for it yet, at most so many, by namespace id."""
    rows = tx.execute(
        "SELECT d.namespace_id, d.document_rowid FROM times t CROSS JOIN documents d USING (document_rowid) "
        "WHERE t.hidden = 0 AND t.expires <= ? ORDER BY t.expires LIMIT ?",
        (now, most),
    )
    found: dict[int, list[int]] = {}
    for namespace_id, rowid in rows:
        found.setdefault(namespace_id, []).append(rowid)
    return found


def expired_ids(tx: apsw.Connection, namespace_id: int, now: int) -> list[str]:
    """Documents of a namespace that have expired, masked for it or not, in the order they were added."""
    rows = tx.execute(
        "SELECT d.id FROM documents d JOIN times t USING (document_rowid) "
        "WHERE d.namespace_id = ? AND t.expires <= ? ORDER BY d.document_rowid",
        (namespace_id, now),
    )
    return [name for (name,) in rows]


def set_hidden(tx: apsw.Connection, rowids: list[int]) -> None:
    """Notes that documents are masked because they have expired."""
    tx.executemany("UPDATE times SET hidden = 1 WHERE document_rowid = ?", ((rowid,) for rowid in rowids))


def last_overdue(tx: apsw.Connection, now: int) -> int | None:
    """The latest expiry, not after now, of a document that is not masked for it yet; None without one."""
    return tx.execute("SELECT max(expires) FROM times WHERE hidden = 0 AND expires <= ?", (now,)).get
