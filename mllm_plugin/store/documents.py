"""Documents as rows: which ones a call means, the masks on them, and how they are given back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import apsw

from mllm_plugin.errors import InvalidInputError
from mllm_plugin.store.codec import WANTED, text_digest, wanted
from mllm_plugin.store.connections import decoding
from mllm_plugin.store.filters import compile_filter
from mllm_plugin.store.namespaces import NamespaceRow
from mllm_plugin.store.times import EXPIRED, TIMES, Times, given_times, load_times, read_times
from mllm_plugin.store.values import metadata_json, parsed_metadata
from mllm_plugin.text.letters import text_flaw
from mllm_plugin.types import Document, StoredChunk, StoredDocument


class DocumentState(NamedTuple):
    """What tells whether a document changed."""

    rowid: int
    text_hash: bytes
    metadata: str
    labels: tuple[str, ...]
    masks: tuple[str, ...]
    times: Times = Times()

    def masks_kept(self) -> tuple[str, ...]:
        """The masks that what replaces it has too; whether that has expired is found anew."""
        return tuple(name for name in self.masks if name != EXPIRED or not self.times.hidden)


class Which(NamedTuple):
    """Which documents a call means; what is given must all hold."""

    ids: list[str] | None = None
    condition: Mapping[str, Any] | None = None
    label: str | None = None


class Selection(NamedTuple):
    """Row ids of the documents that a call means, and the ids that were not there."""

    rowids: list[int]
    missing: tuple[str, ...]


def document_state(tx: apsw.Connection, namespace_id: int, document_id: str) -> DocumentState | None:
    """The stored state of a document, or None."""
    row = tx.execute(
        "SELECT document_rowid, text_hash, metadata FROM documents WHERE namespace_id = ? AND id = ?",
        (namespace_id, document_id),
    ).get
    if row is None:
        return None
    rowid, text_hash, metadata = row
    labels, masks = (tuple(_names(tx, table, [rowid]).get(rowid, ())) for table in ("labels", "masks"))
    return DocumentState(rowid, text_hash, metadata, labels, masks, load_times(tx, rowid))


def document_hash(text: str, split: bool) -> bytes:
    """Identifies a text and whether it may be cut."""
    return text_digest(text.encode("utf-8"), split)


def same_text(state: DocumentState | None, document: Document, split: bool) -> bool:
    """Whether the stored chunks are those of the document."""
    return state is not None and state.text_hash == document_hash(document.text, split)


def same_fields(state: DocumentState, document: Document) -> bool:
    """Whether metadata, labels and times are stored as the document has them."""
    labels = tuple(sorted(set(document.labels)))
    same = state.metadata == metadata_json(document.metadata) and state.labels == labels
    return same and state.times.given == given_times(document)


def check_selection(*, ids: Any, condition: Any, label: Any) -> None:
    """Raises when a call does not say which documents it means.

    Raises:
        InvalidInputError: Neither ids, filter nor label is given.
    """
    if ids is None and condition is None and not label:
        raise InvalidInputError("say which documents: ids=, filter= or label= (filter={} means all)")


def select_documents(
    tx: apsw.Connection,
    namespace_id: int,
    *,
    ids: Iterable[str] | None,
    condition: Mapping[str, Any] | None,
    label: str | None,
) -> Selection:
    """Finds documents by id, metadata filter and label; what is given must all hold.

    Raises:
        InvalidInputError: Neither ids, filter nor label is given.
    """
    check_selection(ids=ids, condition=condition, label=label)
    clause = compile_filter(condition, namespace_id)
    sql = f"SELECT d.document_rowid, d.id FROM documents d WHERE d.namespace_id = ? AND ({clause.sql})"
    parameters: tuple[Any, ...] = (namespace_id, *clause.parameters)
    if label:
        sql += " AND d.document_rowid IN (SELECT document_rowid FROM labels WHERE label = ?)"
        parameters += (label,)
    if ids is None:
        rows = tx.execute(f"{sql} ORDER BY d.document_rowid", parameters)
        return Selection([rowid for rowid, _ in rows], ())
    wanted = list(dict.fromkeys(ids))
    found = {}
    for document_id in wanted:
        if text_flaw(document_id):
            continue  # no stored id is no Unicode
        if row := tx.execute(f"{sql} AND d.id = ?", (*parameters, document_id)).get:
            found[document_id] = row[0]
    return Selection(list(found.values()), tuple(name for name in wanted if name not in found))


def add_masks(tx: apsw.Connection, rowids: Iterable[int], label: str) -> list[int]:
    """Puts documents under a mask; returns those that were live before."""
    turned = []
    for rowid in rowids:
        if not tx.execute("SELECT masked FROM documents WHERE document_rowid = ?", (rowid,)).get:
            turned.append(rowid)
        tx.execute("INSERT OR IGNORE INTO masks VALUES (?, ?)", (rowid, label))
    return turned


def drop_masks(tx: apsw.Connection, rowids: Iterable[int], label: str | None) -> list[int]:
    """Takes documents from under one mask, or all; returns those that are live now and were not.

    What has expired stays masked for that, see `NamespaceWriter.renew`.
    """
    turned = []
    for rowid in rowids:
        tx.execute(
            "DELETE FROM masks WHERE document_rowid = ?1 AND (?2 IS NULL OR label = ?2) AND NOT (label = ?3 "
            "AND EXISTS (SELECT 1 FROM times t WHERE t.document_rowid = ?1 AND t.hidden = 1))",
            (rowid, label, EXPIRED),
        )
        masked = tx.execute("SELECT masked FROM documents WHERE document_rowid = ?", (rowid,)).get
        if masked and not _names(tx, "masks", [rowid]):
            turned.append(rowid)
    return turned


def masked_documents(tx: apsw.Connection, namespace_id: int, label: str | None) -> list[int]:
    """Row ids of documents under a mask, or under any."""
    rows = tx.execute(
        "SELECT d.document_rowid FROM documents d WHERE d.namespace_id = ?1 AND d.masked = 1 AND "
        "(?2 IS NULL OR EXISTS "
        "(SELECT 1 FROM masks m WHERE m.document_rowid = d.document_rowid AND m.label = ?2))",
        (namespace_id, label),
    )
    return [rowid for (rowid,) in rows]


def missing_chunks(tx: apsw.Connection, chunk_ids: Iterable[int]) -> list[int]:
    """Those that are not stored (any more)."""
    query = "SELECT 1 FROM chunks WHERE chunk_id = ?"
    return [chunk_id for chunk_id in chunk_ids if not tx.execute(query, (chunk_id,)).get]


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
