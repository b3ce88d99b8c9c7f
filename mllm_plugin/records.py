"""Documents with their vectors as JSON-ready records: how a memory moves without being embedded again.

A record: {id, text, metadata, labels, masks, namespace, split} and, with vectors, `encoder` and `chunks`,
each {start, end, embedding, windows}: the embedding a list of numbers, the windows base64 of the stored
bytes.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import apsw
import numpy as np

from mllm_plugin.chunking import Span
from mllm_plugin.config import MemoryConfig
from mllm_plugin.errors import InvalidInputError
from mllm_plugin.ingest import Ingest, check_documents, document_hash
from mllm_plugin.protocols import TextEncoder
from mllm_plugin.search.query import as_vectors
from mllm_plugin.store.cache import hash_text
from mllm_plugin.store.documents import read_documents
from mllm_plugin.store.namespaces import NamespaceRow, check_namespace
from mllm_plugin.store.nodes import load_children
from mllm_plugin.store.writer import PreparedDocument
from mllm_plugin.types import AddReport, Document, Namespace

_BATCH = 256


def export_records(
    tx: apsw.Connection, row: NamespaceRow, dim: int, encoder: str, *, vectors: bool
) -> Iterator[dict[str, Any]]:
    """Yields the records of one namespace."""
    ids = tx.execute(
        "SELECT document_rowid, split FROM documents WHERE namespace_id = ? ORDER BY document_rowid",
        (row.namespace_id,),
    )
    for rowid, split in list(ids):
        (document,) = read_documents(tx, row.namespace_id, row.namespace, [rowid])
        record: dict[str, Any] = {
            "id": document.id,
            "text": document.text,
            "metadata": document.metadata,
            "labels": list(document.labels),
            "masks": list(document.masks),
            "namespace": list(document.namespace),
            "split": bool(split),
        }
        if vectors:
            record |= {"encoder": encoder, "chunks": list(_chunks(tx, rowid, dim))}
        yield record


def import_records(
    ingest: Ingest, encoder: TextEncoder, records: Iterable[Mapping[str, Any]], config: MemoryConfig
) -> AddReport:
    """Adds records, a transaction for each run of up to 256 that go the same way."""
    reports = [
        _import_batch(ingest, encoder, batch, key, config)
        for key, batch in _runs(records, encoder.fingerprint)
    ]
    return AddReport(
        ids=tuple(name for report in reports for name in report.ids),
        **{
            name: sum(getattr(report, name) for report in reports)
            for name in ("added", "updated", "unchanged", "chunks", "encoded")
        },
    )


def _chunks(tx: apsw.Connection, rowid: int, dim: int) -> Iterator[dict[str, Any]]:
    rows = tx.execute(
        'SELECT c.chunk_id, c.start, c."end", c.node_id, w.data FROM chunks c LEFT JOIN windows w USING (chunk_id) '
        "WHERE c.document_rowid = ? ORDER BY c.start",
        (rowid,),
    )
    for chunk_id, start, end, node_id, windows in list(rows):
        block = load_children(tx, node_id, dim)
        vector = block.vectors[int(np.searchsorted(block.ids, chunk_id)), 0]
        packed = None if windows is None else base64.b64encode(windows).decode()
        yield {"start": start, "end": end, "embedding": vector.astype(float).tolist(), "windows": packed}


def _runs(
    records: Iterable[Mapping[str, Any]], fingerprint: str
) -> Iterator[tuple[tuple[Namespace, bool, bool], list[Mapping[str, Any]]]]:
    """Batches of neighbours that share namespace, splitting, and whether their vectors can be used."""
    from itertools import groupby

    def key(record: Mapping[str, Any]) -> tuple[Namespace, bool, bool]:
        if not isinstance(record, Mapping) or "text" not in record or "id" not in record:
            raise InvalidInputError(f"a record needs 'id' and 'text', got {str(record)[:80]!r}")
        namespace = check_namespace(tuple(record.get("namespace", ())))
        return (
            namespace,
            bool(record.get("split", True)),
            bool(record.get("chunks")) and record.get("encoder") == fingerprint,
        )

    for shared, run in groupby(records, key):
        while batch := list(islice(run, _BATCH)):
            yield shared, batch


def _import_batch(
    ingest: Ingest,
    encoder: TextEncoder,
    batch: list[Mapping[str, Any]],
    key: tuple[Namespace, bool, bool],
    config: MemoryConfig,
) -> AddReport:
    namespace, split, usable = key
    documents = check_documents(
        Document(
            id=one["id"],
            text=one["text"],
            metadata=one.get("metadata", {}),
            labels=tuple(one.get("labels", ())),
        )
        for one in batch
    )
    if usable:
        prepared, encoded = (
            [
                _prepared(document, record, namespace, split, encoder.dim, config)
                for document, record in zip(documents, batch, strict=True)
            ],
            0,
        )
    else:
        prepared, encoded = ingest.prepare(documents, namespace, split)
    masks = {one["id"]: tuple(one.get("masks", ())) for one in batch}
    prepared = [item.with_masks(masks[item.document.id]) for item in prepared]
    return ingest.write(documents, prepared, namespace, encoded=encoded)


def _prepared(
    document: Document,
    record: Mapping[str, Any],
    namespace: Namespace,
    split: bool,
    dim: int,
    config: MemoryConfig,
) -> PreparedDocument:
    chunks = record["chunks"]
    spans = [Span(int(chunk["start"]), int(chunk["end"])) for chunk in chunks]
    if any(not 0 <= span.start < span.end <= len(document.text) for span in spans):
        raise InvalidInputError(f"record {document.id!r}: chunk offsets lie outside of its text")
    windows = [base64.b64decode(chunk.get("windows") or "") for chunk in chunks]
    return PreparedDocument(
        document=document,
        text_hash=document_hash(document.text, split),
        split=split,
        spans=spans,
        pooled=as_vectors([chunk["embedding"] for chunk in chunks], dim).astype(np.float16),
        windows=windows if config.level0 else None,
        chunk_hashes=[hash_text(namespace, document.text[span.start : span.end]) for span in spans],
    )
