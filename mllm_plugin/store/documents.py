"""Documents as rows: which ones a call means, and reading them back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import apsw

from mllm_plugin.errors import InvalidInputError
from mllm_plugin.store.metadata import compile_filter
from mllm_plugin.types import Namespace, StoredChunk, StoredDocument


class DocumentState(NamedTuple):
    """What tells whether a document changed."""

    rowid: int
    text_hash: bytes
    metadata: str
    labels: tuple[str, ...]
    masks: tuple[str, ...]


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
    return DocumentState(rowid, text_hash, metadata, _names(tx, "labels", rowid), _names(tx, "masks", rowid))


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
        if any(0xD800 <= ord(letter) < 0xE000 for letter in document_id):
            continue  # no stored id holds a lone surrogate
        if row := tx.execute(f"{sql} AND d.id = ?", (*parameters, document_id)).get:
            found[document_id] = row[0]
    return Selection(list(found.values()), tuple(name for name in wanted if name not in found))


def read_documents(
    tx: apsw.Connection, namespace_id: int, namespace: Namespace, rowids: Sequence[int]
) -> Iterator[StoredDocument]:
    """Documents by row id, in the order asked."""
    for rowid in rowids:
        row = tx.execute(
            "SELECT id, text, metadata, split, "
            "(SELECT count(*) FROM chunks c WHERE c.document_rowid = d.document_rowid) "
            "FROM documents d WHERE d.document_rowid = ? AND d.namespace_id = ?",
            (rowid, namespace_id),
        ).get
        if row:
            document_id, text, metadata, split, chunks = row
            yield StoredDocument(
                id=document_id,
                text=text.decode("utf-8"),
                metadata=json.loads(metadata),
                namespace=namespace,
                labels=_names(tx, "labels", rowid),
                masks=_names(tx, "masks", rowid),
                chunks=chunks,
                split=bool(split),
            )


def read_chunks(
    tx: apsw.Connection, namespace_id: int, namespace: Namespace, rowids: Sequence[int]
) -> Iterator[StoredChunk]:
    """Chunks of documents by row id, masked ones left out, in the order of the documents."""
    for rowid in rowids:
        row = tx.execute(
            "SELECT id, text FROM documents WHERE document_rowid = ? AND namespace_id = ? AND masked = 0",
            (rowid, namespace_id),
        ).get
        text = row[1].decode("utf-8") if row else ""
        query = 'SELECT chunk_id, start, "end" FROM chunks WHERE document_rowid = ? ORDER BY start, chunk_id'
        for chunk_id, start, end in tx.execute(query, (rowid,)) if row else ():
            yield StoredChunk(chunk_id, row[0], text[start:end], start, end, namespace)


def add_masks(tx: apsw.Connection, rowids: Iterable[int], label: str) -> list[int]:
    """Puts documents under a mask; returns those that were live before."""
    turned = []
    for rowid in rowids:
        if not tx.execute("SELECT masked FROM documents WHERE document_rowid = ?", (rowid,)).get:
            turned.append(rowid)
        tx.execute("INSERT OR IGNORE INTO masks VALUES (?, ?)", (rowid, label))
    return turned


def drop_masks(tx: apsw.Connection, rowids: Iterable[int], label: str | None) -> list[int]:
    """Takes documents from under one mask, or all; returns those that are live now and were not."""
    turned = []
    for rowid in rowids:
        tx.execute(
            "DELETE FROM masks WHERE document_rowid = ?1 AND (?2 IS NULL OR label = ?2)", (rowid, label)
        )
        masked = tx.execute("SELECT masked FROM documents WHERE document_rowid = ?", (rowid,)).get
        if masked and not _names(tx, "masks", rowid):
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


def masks_of_all(tx: apsw.Connection, namespace_id: int) -> dict[str, set[str]]:
    """Names of the masks on each document of a namespace, by its id; empty sets where there is none."""
    rows = tx.execute(
        "SELECT d.id, m.label FROM documents d LEFT JOIN masks m USING (document_rowid) "
        "WHERE d.namespace_id = ?",
        (namespace_id,),
    )
    found: dict[str, set[str]] = {}
    for document_id, label in rows:
        found.setdefault(document_id, set()).update(() if label is None else (label,))
    return found


def _names(tx: apsw.Connection, table: str, rowid: int) -> tuple[str, ...]:
    rows = tx.execute(f"SELECT label FROM {table} WHERE document_rowid = ? ORDER BY label", (rowid,))
    return tuple(label for (label,) in rows)


def missing_chunks(tx: apsw.Connection, chunk_ids: Iterable[int]) -> list[int]:
    """Those that are not stored (any more)."""
    query = "SELECT 1 FROM chunks WHERE chunk_id = ?"
    return [one for one in chunk_ids if not tx.execute(query, (one,)).get]
