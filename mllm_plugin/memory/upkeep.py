"""Statistics, verification, compaction, export."""

from __future__ import annotations

from collections.abc import Iterator

from mllm_plugin.documents.records import export_records
from mllm_plugin.errors import DamagedStoreError
from mllm_plugin.memory.checks import Scope
from mllm_plugin.memory.handle import Handle
from mllm_plugin.memory.searching import moment_of
from mllm_plugin.reports import CompactReport, Stats, VerifyReport
from mllm_plugin.store.edit import give_back_pages
from mllm_plugin.store.namespaces import namespaces_below
from mllm_plugin.store.statistics import namespace_stats, text_bytes
from mllm_plugin.store.verify import verify_store


def stats(memory: Handle) -> Stats:
    """Counts, sizes and the shape of every tree."""
    with memory.database.read() as tx:
        namespaces = tuple(namespace_stats(tx, row) for row in namespaces_below(tx, ()))
        texts = text_bytes(tx)
    chunks = sum(namespace.chunks for namespace in namespaces)
    size = memory.file_bytes()
    return Stats(
        documents=sum(namespace.documents for namespace in namespaces),
        chunks=chunks,
        live_chunks=sum(namespace.live_chunks for namespace in namespaces),
        masked_documents=sum(namespace.masked_documents for namespace in namespaces),
        encoder=memory.encoder.fingerprint,
        dim=memory.dim,
        file_bytes=size,
        cache_bytes=memory.cache.nbytes() if memory.cache else 0,
        image_bytes=memory.images.nbytes(),
        bytes_per_chunk_beyond_text=max(0.0, (size - texts) / chunks) if chunks else 0.0,
        namespaces=namespaces,
    )


def verify(memory: Handle) -> VerifyReport:
    """Checks every invariant."""
    try:
        with memory.database.read() as tx:
            return verify_store(
                tx,
                path=memory.database.place,
                config=memory.config,
                hierarchy_of=memory.hierarchies.of,
                dim=memory.dim,
            )
    except DamagedStoreError as error:  # no transaction can even begin
        return VerifyReport(False, (str(error),), {})


def compact(memory: Handle, *, regroup: bool, wait: float) -> CompactReport:
    """Regroups trees, lists rare words, gives free pages back, erases what is left of removals."""
    before, rebuilt = memory.file_bytes(), 0
    with memory.database.read() as tx:
        rows = namespaces_below(tx, ())
    for row in rows:
        with memory.edit() as edit:
            rebuilt += edit.regroup(row.namespace, 0.0 if regroup else 1e-9)
    give_back_pages(memory.database)
    erased, reason = memory.erase(wait)
    return CompactReport(before, memory.file_bytes(), rebuilt, erased, reason)


def export(memory: Handle, scope: Scope, *, vectors: bool) -> Iterator[dict]:
    """Documents as records."""
    with moment_of(memory) as snapshot:
        for row in snapshot.namespaces(scope.namespace, prefix=scope.prefix):
            yield from export_records(snapshot, row, memory.encoder.fingerprint, vectors=vectors)
