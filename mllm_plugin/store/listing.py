"""Which documents of some namespaces there are, in an order of the caller's, and how many."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import apsw

from mllm_plugin.store.filters import compile_filter
from mllm_plugin.store.namespaces import NamespaceRow

Order = Literal[
    "id",
    "-id",
    "created_at",
    "-created_at",
    "updated_at",
    "-updated_at",
    "expires_at",
    "-expires_at",
    "valid_from",
    "-valid_from",
    "valid_to",
    "-valid_to",
]
_COLUMNS = {
    "id": "d.id",
    "created_at": "t.created",
    "updated_at": "t.updated",
    "expires_at": "t.expires",
    "valid_from": "t.valid_from",
    "valid_to": "t.valid_to",
}
# A namespace's rows through a list of their ids: read in the order of the table, which visits a page once.
_IN_ORDER = "d.document_rowid IN (SELECT document_rowid FROM documents WHERE namespace_id = ?)"
ORDERS = tuple(sign + name for name in _COLUMNS for sign in ("", "-"))


class Listing(NamedTuple):
    """What is listed.

    Attributes:
        condition: Metadata filter.
        masked: True for what is masked or has expired, False for what is not, None for both.
        order: A field, with "-" before it the other way round; None for the order they were added.
        limit: At most so many.
        offset: Less so many at the beginning.
    """

    condition: Mapping[str, Any] | None = None
    masked: bool | None = None
    order: str | None = None
    limit: int | None = None
    offset: int = 0


def listed_documents(
    tx: apsw.Connection, rows: Sequence[NamespaceRow], listing: Listing, live: str
) -> Iterator[tuple[NamespaceRow, int]]:
    """Namespace and row id of documents.

    What has no value to be ordered by comes last; equals are in the order they were added, or the other way
    round too.

    Args:
        tx: A read transaction.
        rows: The namespaces.
        listing: Which documents, in which order.
        live: The condition on a document `d` that is not masked.
    """
    down = (listing.order or "").startswith("-")
    way = "DESC" if down else "ASC"
    column = _COLUMNS[listing.order.lstrip("-")] if listing.order else "NULL"
    most = -1 if listing.limit is None else listing.offset + listing.limit
    found: list[tuple[Any, NamespaceRow, int]] = []
    for row in rows:
        if listing.order is None and most >= 0 and len(found) >= most:
            break
        clause, parameters = _which(row, listing, live)
        query = (
            f"SELECT {column}, d.document_rowid FROM documents d LEFT JOIN times t USING (document_rowid) "
            f"WHERE {clause} ORDER BY {column} IS NULL, {column} {way}, d.document_rowid {way} LIMIT ?"
        )
        found += [(key, row, rowid) for key, rowid in tx.execute(query, (*parameters, most))]
    if listing.order and len(rows) > 1:
        found.sort(key=lambda one: one[2], reverse=down)
        known = sorted(
            (entry for entry in found if entry[0] is not None), key=lambda one: one[0], reverse=down
        )
        found = known + [entry for entry in found if entry[0] is None]
    last = None if most < 0 else most
    return ((row, rowid) for _, row, rowid in found[listing.offset : last])


def count_documents(tx: apsw.Connection, rows: Sequence[NamespaceRow], listing: Listing, live: str) -> int:
    """How many documents there are; order, limit and offset are left aside."""
    total = 0
    for row in rows:
        clause, parameters = _which(row, listing, live)
        total += tx.execute(f"SELECT count(*) FROM documents d WHERE {clause}", parameters).get
    return total


def _which(row: NamespaceRow, listing: Listing, live: str) -> tuple[str, tuple[Any, ...]]:
    clause = compile_filter(listing.condition, row.namespace_id)
    masked = {None: "1", False: live, True: f"NOT ({live})"}[listing.masked]
    every_row_is_read = listing.condition is None and listing.masked is not None
    here = _IN_ORDER if every_row_is_read else "d.namespace_id = ?"
    return f"{here} AND {masked} AND ({clause.sql})", (row.namespace_id, *clause.parameters)
