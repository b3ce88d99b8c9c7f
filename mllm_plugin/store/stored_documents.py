"""Documents as they are given back: texts, metadata, labels, masks, times, live chunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apsw

from mllm_plugin.store.codec import WANTED, wanted
from mllm_plugin.store.failures import decoding
from mllm_plugin.store.namespaces import NamespaceRow
from mllm_plugin.store.times import EXPIRED, TIMES, read_times
from mllm_plugin.store.values import parsed_metadata
from mllm_plugin.types import StoredChunk, StoredDocument


def stored_documents(
    tx: apsw.Connection, row: NamespaceRow, rowids: Sequence[int], now: int
) -> Iterator[StoredDocument]:
    """Documents by row id, in the order asked; what has expired `now` is masked for it."""
    labels, masks = _names(tx, "labels", rowids), _names(tx, "masks", rowids)
    rows: Any = tx.execute(
        "SELECT d.document_rowid, d.id, d.text, d.metadata, d.split, "
        "(SELECT count(*) FROM chunks c WHERE c.document_rowid = d.document_rowid), "
        f"{TIMES} FROM {WANTED} documents d "
        "ON d.document_rowid = wanted.value AND d.namespace_id = ? "
        "LEFT JOIN times t USING (document_rowid)",
        (wanted(rowids), row.namespace_id),
    ).fetchall()
    found = {rowid: fields for rowid, *fields in rows}
    for rowid in filter(found.__contains__, rowids):
        document_id, text, metadata, split, chunks, *times = found[rowid]
        with decoding(f"document {document_id!r}"):
            document = StoredDocument(
                id=document_id,
                text=text.decode("utf-8"),
                metadata=parsed_metadata(metadata),
                namespace=row.namespace,
                labels=tuple(labels.get(rowid, ())),
                masks=_masks_of(masks.get(rowid, []), times[2], now),
                chunks=chunks,
                split=bool(split),
                **read_times(times).fields(),
            )
        yield document


def stored_chunks(
    tx: apsw.Connection, row: NamespaceRow, rowids: Sequence[int], live: str
) -> Iterator[StoredChunk]:
    """Chunks of documents by row id, in the order asked, where a condition on the document `d` holds."""
    rows: Any = tx.execute(
        'SELECT d.document_rowid, d.id, d.text, c.chunk_id, c.start, c."end" '
        f"FROM {WANTED} documents d ON d.document_rowid = wanted.value AND d.namespace_id = ? "
        f"JOIN chunks c USING (document_rowid) WHERE {live} "
        "ORDER BY wanted.key, c.start, c.chunk_id",
        (wanted(rowids), row.namespace_id),
    ).fetchall()
    texts = {rowid: text.decode("utf-8") for rowid, _, text, *_ in rows}
    for rowid, document_id, _, chunk_id, first, last in rows:
        text = texts[rowid][first:last]
        yield StoredChunk(chunk_id, document_id, text, first, last, row.namespace)


def stored_masks(tx: apsw.Connection, row: NamespaceRow) -> dict[str, set[str]]:
    """Names of the masks on each document of a namespace but that of its expiry, by its id."""
    rows: Any = tx.execute(
        "SELECT d.id, m.label FROM documents d LEFT JOIN times t USING (document_rowid) "
        "LEFT JOIN masks m ON m.document_rowid = d.document_rowid "
        "AND NOT (m.label = ?2 AND coalesce(t.hidden, 0)) "
        "WHERE d.namespace_id = ?1 ORDER BY d.document_rowid",
        (row.namespace_id, EXPIRED),
    )
    found: dict[str, set[str]] = {}
    for document_id, label in rows:
        found.setdefault(document_id, set()).update(() if label is None else (label,))
    return found


def _masks_of(stored: list[str], expires: int | None, now: int) -> tuple[str, ...]:
    """The masks of a document, that of its expiry too where it could not be written yet."""
    expired = expires is not None and expires <= now
    return tuple(sorted({*stored, EXPIRED}) if expired else stored)


def _names(tx: apsw.Connection, table: str, rowids: Iterable[int]) -> dict[int, list[str]]:
    """Labels or masks in order of their names, by row id of the document."""
    query = f"SELECT document_rowid, label FROM {WANTED} {table} ON document_rowid = value ORDER BY label"
    found: dict[int, list[str]] = {}
    for rowid, label in tx.execute(query, (wanted(rowids),)):
        found.setdefault(rowid, []).append(label)
    return found
