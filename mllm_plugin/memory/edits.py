"""Adding, removing, masking."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mllm_plugin.errors import NotFoundError
from mllm_plugin.memory.arguments import ids_of
from mllm_plugin.memory.parts import MemoryParts
from mllm_plugin.store.documents import add_masks, drop_masks, masked_documents, select_documents
from mllm_plugin.store.namespaces import NamespaceRow, check_namespace, find_namespace
from mllm_plugin.types import AddReport, Document, MaskReport, Namespace, RemoveReport


class Edits(MemoryParts):
    """Calls that write; each is one transaction."""

    def add(
        self,
        documents: Iterable[Document],
        *,
        namespace: Namespace | str = (),
        embeddings: Sequence[Any] | None = None,
        split: bool = True,
    ) -> AddReport:
        """Adds documents, or replaces those whose id is there; unchanged ones cost nothing.

        Args:
            documents: Their ids must differ from each other.
            namespace: Where they go; a plain string is a one-part namespace.
            embeddings: One vector [dim] per document, which is then one chunk; saves the encoder call.
            split: False keeps each document as one chunk that is never cut.

        Raises:
            InvalidDocumentError: A document cannot be stored; nothing was added.
            DimensionMismatchError: An embedding has another width than the memory.
        """
        self._database.check_open()
        return self._ingest.add(documents, check_namespace(namespace), embeddings=embeddings, split=split)

    def add_provisionally(
        self, documents: Iterable[Document], *, namespace: Namespace | str = (), split: bool = True
    ) -> AddReport:
        """`add` for bulk builds: places whole groups quickly; `regroup` must follow for the best routing."""
        self._database.check_open()
        return self._ingest.add(documents, check_namespace(namespace), split=split, provisional=True)

    def remove(
        self,
        ids: Iterable[str] | str | None = None,
        *,
        filter: Mapping[str, Any] | None = None,
        label: str | None = None,
        namespace: Namespace | str = (),
        wait: float = 5.0,
    ) -> RemoveReport:
        """Removes documents for good: no row, vector, word, cache entry or ancestor keeps anything of them.

        Args:
            ids: Documents by id; unknown ones are reported as missing.
            filter: Documents by metadata.
            label: Documents that carry a label.
            namespace: Where they are.
            wait: Seconds to wait for readers that still hold old pages, before `erased` is reported as False.
        """
        with self._database.write() as tx:
            row = find_namespace(tx, check_namespace(namespace))
            if row is None:
                missing = tuple(ids_of(ids) or ())
                return RemoveReport(0, 0, True, missing)
            chosen = select_documents(tx, row.namespace_id, ids=ids_of(ids), condition=filter, label=label)
            hashes = [
                text_hash
                for rowid in chosen.rowids
                for (text_hash,) in tx.execute(
                    "SELECT text_hash FROM chunks WHERE document_rowid = ?", (rowid,)
                )
            ]
            chunks = 0
            if chosen.rowids:
                writer = self._writer(tx, row)
                chunks = writer.remove(chosen.rowids)
                writer.finish()
        erased, reason = self._erase(hashes, wait)
        return RemoveReport(len(chosen.rowids), chunks, erased, chosen.missing, reason)

    def mask(
        self,
        ids: Iterable[str] | str | None = None,
        *,
        filter: Mapping[str, Any] | None = None,
        label: str = "",
        namespace: Namespace | str = (),
    ) -> MaskReport:
        """Takes documents out of every result and every ancestor until they are unmasked.

        Args:
            ids: Documents by id.
            filter: Documents by metadata.
            label: Name of this mask, for `unmask(label=…)`; with neither ids nor filter, the documents that
                carry the label are masked.
            namespace: Where they are.

        Raises:
            NotFoundError: An id is not there; nothing was masked.
        """
        with self._database.write() as tx:
            row = find_namespace(tx, check_namespace(namespace))
            tagged = label if ids is None and filter is None else None
            rowids = self._select(tx, row, ids, filter, tagged, namespace)
            turned = add_masks(tx, rowids, label)
            return self._turn(tx, row, turned, masked=True)

    def unmask(
        self,
        ids: Iterable[str] | str | None = None,
        *,
        filter: Mapping[str, Any] | None = None,
        label: str | None = None,
        namespace: Namespace | str = (),
    ) -> MaskReport:
        """Lifts masks; a document is live again when none is left on it.

        Args:
            ids: Documents by id.
            filter: Documents by metadata.
            label: Only this mask; all masks when left out.
            namespace: Where they are.

        Raises:
            NotFoundError: An id is not there; nothing was unmasked.
        """
        with self._database.write() as tx:
            row = find_namespace(tx, check_namespace(namespace))
            if ids is None and filter is None and row is not None:
                rowids = masked_documents(tx, row.namespace_id, label)
            else:
                rowids = self._select(tx, row, ids, filter, None, namespace)
            turned = drop_masks(tx, rowids, label)
            return self._turn(tx, row, turned, masked=False)

    def _select(
        self,
        tx: Any,
        row: NamespaceRow | None,
        ids: Iterable[str] | str | None,
        condition: Mapping[str, Any] | None,
        label: str | None,
        namespace: Namespace | str,
    ) -> list[int]:
        if row is None:
            if ids is None:
                return []
            raise NotFoundError(
                f"no document {', '.join(map(repr, ids_of(ids) or ()))}: namespace {namespace!r} is empty"
            )
        chosen = select_documents(tx, row.namespace_id, ids=ids_of(ids), condition=condition, label=label)
        if chosen.missing:
            raise NotFoundError(
                f"no document {', '.join(map(repr, chosen.missing))} in namespace {row.namespace!r}"
            )
        return chosen.rowids

    def _turn(self, tx: Any, row: NamespaceRow | None, rowids: list[int], *, masked: bool) -> MaskReport:
        if row is None or not rowids:
            return MaskReport(0, 0)
        writer = self._writer(tx, row)
        chunks = writer.set_masked(rowids, masked)
        writer.finish()
        return MaskReport(len(rowids), chunks)

    def _erase(self, text_hashes: Sequence[bytes | None], wait: float) -> tuple[bool, str]:
        """Empties the logs, so that no file holds what was removed; says why where that was not possible."""
        if self._cache is not None:
            self._cache.drop(text_hashes)
            if not self._cache.erase_log():
                return False, "another process is using the embedding cache; call compact() later"
        if self._database.truncate_log(wait):
            return True, ""
        return False, f"a reader held old pages for more than {wait:g} s; call compact() when it is done"
