"""Counts for `stats()`, read from the rows."""

from __future__ import annotations

import apsw
import numpy as np

from mllm_plugin.reports import LevelStats, NamespaceStats
from mllm_plugin.store.namespaces import NamespaceRow


def namespace_stats(tx: apsw.Connection, row: NamespaceRow) -> NamespaceStats:
    """Counts of one namespace and the shape of its tree."""
    documents, masked = tx.execute(
        "SELECT count(*), coalesce(sum(masked), 0) FROM documents WHERE namespace_id = ?", (row.namespace_id,)
    ).get
    levels = _levels(tx, row.namespace_id)
    return NamespaceStats(
        namespace=row.namespace,
        documents=documents,
        masked_documents=masked,
        chunks=levels[0].embeddings if levels else 0,
        live_chunks=row.live_chunks,
        levels=levels,
    )


def _levels(tx: apsw.Connection, namespace_id: int) -> tuple[LevelStats, ...]:
    rows = tx.execute(
        "SELECT n.level, length(b.ids) / 8 FROM nodes n JOIN blocks b USING (node_id) "
        "WHERE n.namespace_id = ?",
        (namespace_id,),
    )
    groups: dict[int, list[int]] = {}
    for level, size in rows:
        groups.setdefault(level - 1, []).append(size)
    return tuple(
        LevelStats(level, sum(sizes), len(sizes), float(np.mean(sizes)), max(sizes))
        for level, sizes in sorted(groups.items())
    )


def text_bytes(tx: apsw.Connection) -> int:
    """Bytes of all documents' texts."""
    return tx.execute("SELECT coalesce(sum(length(text)), 0) FROM documents").get


def chunk_count(tx: apsw.Connection, namespace_id: int) -> int:
    """Chunks of a namespace, masked ones included."""
    return tx.execute(
        "SELECT count(*) FROM chunks JOIN documents USING (document_rowid) WHERE namespace_id = ?",
        (namespace_id,),
    ).get
