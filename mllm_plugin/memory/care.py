"""Statistics, verification, compaction, backup, moving in and out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mllm_plugin.errors import DamagedStoreError, InvalidInputError, NotFoundError
from mllm_plugin.memory.arguments import path_of, seconds
from mllm_plugin.memory.parts import MemoryParts
from mllm_plugin.records import export_records, import_records
from mllm_plugin.store.namespaces import (
    check_namespace,
    find_namespace,
    namespaces_below,
    select_namespaces,
)
from mllm_plugin.store.statistics import chunk_count, namespace_stats, text_bytes
from mllm_plugin.store.verify import verify_store
from mllm_plugin.types import AddReport, CompactReport, Namespace, Stats, VerifyReport

REGROUP_SHARE = 0.1  # of the chunks: a small addition to a large memory is not worth grouping all of it


class Care(MemoryParts):
    """Calls that look after the files."""

    def stats(self) -> Stats:
        """Counts, sizes and the shape of every tree."""
        with self._database.read() as tx:
            namespaces = tuple(namespace_stats(tx, row) for row in namespaces_below(tx, ()))
            texts = text_bytes(tx)
        chunks = sum(one.chunks for one in namespaces)
        size = self._file_bytes()
        return Stats(
            documents=sum(one.documents for one in namespaces),
            chunks=chunks,
            live_chunks=sum(one.live_chunks for one in namespaces),
            masked_documents=sum(one.masked_documents for one in namespaces),
            encoder=self.encoder.fingerprint,
            dim=self.dim,
            file_bytes=size,
            cache_bytes=self._cache.nbytes() if self._cache else 0,
            bytes_per_chunk_beyond_text=max(0.0, (size - texts) / chunks) if chunks else 0.0,
            namespaces=namespaces,
        )

    def verify(self) -> VerifyReport:
        """Checks every invariant; reads the whole file. What cannot be read is a problem in the report."""
        try:
            with self._database.read() as tx:
                return verify_store(
                    tx,
                    path=self._database.place,
                    config=self.config,
                    hierarchy_of=self._hierarchies.of,
                    dim=self.dim,
                )
        except DamagedStoreError as error:  # no transaction can even begin
            return VerifyReport(False, (str(error),), {})

    def compact(self, *, regroup: bool = False, wait: float = 5.0) -> CompactReport:
        """Gives free space back and lists rare words again.

        Args:
            regroup: Also group every tree anew; trees that a bulk build left provisional are regrouped
                anyway.
            wait: Seconds to wait for readers that still hold old pages.
        """
        wait, before, rebuilt = seconds("wait", wait), self._file_bytes(), 0
        with self._database.read() as tx:
            rows = namespaces_below(tx, ())
        for row in rows:
            rebuilt += self.regroup(row.namespace, min_share=0.0 if regroup else 1e-9)
        self._database.exclusive(lambda connection: connection.execute("PRAGMA incremental_vacuum").get)
        erased, reason = self._erase(wait)
        return CompactReport(before, self._file_bytes(), rebuilt, erased, reason)

    def regroup(self, namespace: Namespace | str = (), *, min_share: float = 0.0) -> bool:
        """Groups a namespace's tree anew and lists rare words again; True when it was regrouped.

        Args:
            namespace: Whose tree.
            min_share: Only where bulk builds have placed at least this share of the chunks since then.
        """
        with self._database.write() as tx:
            row = find_namespace(tx, check_namespace(namespace))
            if row is None:
                return False
            writer = self._writer(tx, row)
            needed = row.provisional >= min_share * max(1, chunk_count(tx, row.namespace_id))
            if needed:
                writer.regroup()
            if writer.relist_rare_terms() or needed:
                writer.finish()
            return needed

    def backup(self, path: str | Path) -> None:
        """Writes a consistent copy into a new file while others read and write.

        Raises:
            InvalidInputError: The file exists.
        """
        target = path_of(path)
        if target.exists():
            raise InvalidInputError(f"{target} exists; a backup never overwrites. Choose another name")
        if not target.parent.is_dir():
            raise NotFoundError(f"there is no folder {target.parent} for the backup")
        self._database.backup(target)

    def export(
        self, *, namespace: Namespace | str = (), prefix: bool = True, vectors: bool = True
    ) -> Iterator[dict]:
        """Documents as JSON-ready records; with vectors, `import_records` needs no encoder."""
        where = check_namespace(namespace)
        with self._database.read() as tx:
            for row in select_namespaces(tx, where, prefix=prefix):
                yield from export_records(tx, row, self.dim, self.encoder.fingerprint, vectors=vectors)

    def import_records(self, records: Iterable[Mapping[str, Any]]) -> AddReport:
        """Adds records of `export`; encodes only those without vectors of this encoder."""
        self._database.check_writable()
        touched: set[Namespace] = set()
        try:
            report = import_records(self._ingest, self.encoder, records, touched)
        except InvalidInputError:  # a bad record; what came before it is kept
            self._regroup_all(touched)
            raise
        self._regroup_all(touched)
        if report.updated:
            self._erase(wait=0.0)
        return report

    def _regroup_all(self, namespaces: Iterable[Namespace]) -> None:
        for namespace in sorted(namespaces):
            self.regroup(namespace, min_share=REGROUP_SHARE)
