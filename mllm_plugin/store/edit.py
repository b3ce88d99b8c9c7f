"""The door for writing: all that one transaction changes goes through an `Edit`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import apsw

from mllm_plugin.config import MemoryConfig
from mllm_plugin.errors import NotFoundError
from mllm_plugin.hierarchy import Hierarchy
from mllm_plugin.store.database import Database
from mllm_plugin.store.documents import (
    Which,
    add_masks,
    document_state,
    drop_masks,
    masked_documents,
    same_fields,
    same_text,
    select_documents,
)
from mllm_plugin.store.hierarchies import (
    HierarchyInUse,
    note_adapter,
    save_hierarchy,
    stored_fingerprint,
    weights_that_saw,
)
from mllm_plugin.store.namespaces import NamespaceRow, create_namespace, find_namespace, namespaces_below
from mllm_plugin.store.settings import mark_as_copy
from mllm_plugin.store.statistics import chunk_count
from mllm_plugin.store.writer import NamespaceWriter, PreparedDocument
from mllm_plugin.types import Document, MaskReport, Namespace


class StaleError(Exception):
    """Another writer changed a document between the look and the write."""


class Put(NamedTuple):
    """Documents by what became of them, and the chunks written."""

    added: int
    updated: int
    unchanged: int
    chunks: int


class Removed(NamedTuple):
    """Documents and chunks that went, ids that were not there, and weights that had seen what went."""

    documents: int
    chunks: int
    missing: tuple[str, ...]
    weights: tuple[str, ...] = ()


@contextmanager
def editing(
    database: Database, config: MemoryConfig, hierarchies: HierarchyInUse, dim: int
) -> Iterator[Edit]:
    """A write transaction: all that is done to the edit is kept, or nothing.

    Raises:
        StoreError: It cannot be written; nothing was.
    """
    with database.write() as tx:
        yield Edit(tx, config, hierarchies, dim)


class Edit:
    """What a memory can change, within one transaction; see `editing`."""

    def __init__(
        self, tx: apsw.Connection, config: MemoryConfig, hierarchies: HierarchyInUse, dim: int
    ) -> None:
        self._tx, self._config, self._hierarchies, self._dim = tx, config, hierarchies, dim

    # -- documents

    def put(
        self,
        namespace: Namespace,
        documents: Sequence[Document],
        prepared: Sequence[PreparedDocument],
        *,
        split: bool = True,
        provisional: bool = False,
    ) -> Put:
        """Adds prepared documents, or replaces those of their ids, and renews the fields of the others.

        Args:
            namespace: Where to; it is made when it is new.
            documents: All of them, in order.
            prepared: Those whose text is new or changed.
            split: How the others were cut when they were looked at.
            provisional: Place whole groups quickly; `regroup` must follow.

        Raises:
            StaleError: A document that is not prepared is no longer stored with this text.
        """
        row = create_namespace(self._tx, namespace)
        fresh = {item.document.id: item for item in prepared}
        replaced: list[int] = []
        inserts: list[PreparedDocument] = []
        renewed: list[tuple[int, Document]] = []
        for document in documents:
            state = document_state(self._tx, row.namespace_id, document.id)
            if item := fresh.get(document.id):
                inserts.append(item if state is None else item.with_masks(state.masks))
                replaced += [] if state is None else [state.rowid]
            elif state is None or not same_text(state, document, split):
                raise StaleError
            elif not same_fields(state, document):
                renewed.append((state.rowid, document))
        updated, chunks = len(replaced) + len(renewed), 0
        added = len(inserts) - len(replaced)
        if added or updated:
            writer = self._writer(row)
            for rowid, document in renewed:
                writer.set_metadata(rowid, document)
            writer.remove(replaced)
            chunks = writer.add(inserts, provisional=provisional)
            writer.finish()
        return Put(added, updated, len(documents) - added - updated, chunks)

    def remove(self, namespace: Namespace, which: Which) -> Removed:
        """Deletes documents and everything derived from them."""
        row = find_namespace(self._tx, namespace)
        if row is None:
            return Removed(0, 0, tuple(dict.fromkeys(which.ids or ())))
        rowids, missing = select_documents(self._tx, row.namespace_id, **which._asdict())
        if not rowids:
            return Removed(0, 0, missing)
        weights = weights_that_saw(self._tx, namespace, rowids)
        writer = self._writer(row)
        chunks = writer.remove(rowids)
        writer.finish()
        return Removed(len(rowids), chunks, missing, weights)

    # -- masks

    def mask(self, namespace: Namespace, which: Which, label: str) -> MaskReport:
        """Puts documents under a mask.

        Raises:
            NotFoundError: An id is not there.
        """
        row = find_namespace(self._tx, namespace)
        turned = add_masks(self._tx, self._all_of(row, namespace, which), label)
        return self._turn(row, turned, masked=True)

    def unmask(self, namespace: Namespace, which: Which | None, label: str | None) -> MaskReport:
        """Lifts one mask, or all, from documents, or from every one that has it.

        Raises:
            NotFoundError: An id is not there.
        """
        row = find_namespace(self._tx, namespace)
        if which is not None:
            rowids = self._all_of(row, namespace, which)
        else:
            rowids = [] if row is None else masked_documents(self._tx, row.namespace_id, label)
        return self._turn(row, drop_masks(self._tx, rowids, label), masked=False)

    def _all_of(self, row: NamespaceRow | None, namespace: Namespace, which: Which) -> list[int]:
        rowids, missing = [], tuple(which.ids or ())
        if row is not None:
            rowids, missing = select_documents(self._tx, row.namespace_id, **which._asdict())
        if missing:
            raise NotFoundError(f"no document {', '.join(map(repr, missing))} in namespace {namespace!r}")
        return rowids

    def _turn(self, row: NamespaceRow | None, rowids: list[int], *, masked: bool) -> MaskReport:
        if row is None or not rowids:
            return MaskReport(0, 0)
        writer = self._writer(row)
        chunks = writer.set_masked(rowids, masked)
        writer.finish()
        return MaskReport(len(rowids), chunks)

    # -- trees

    def regroup(self, namespace: Namespace, min_share: float) -> bool:
        """Groups a tree anew if at least this share of its chunks was placed provisionally; lists rare words.

        Returns:
            Whether it was grouped.
        """
        row = find_namespace(self._tx, namespace)
        if row is None:
            return False
        needed = row.provisional >= min_share * max(1, chunk_count(self._tx, row.namespace_id))
        writer = self._writer(row)
        if needed:
            writer.regroup()
        if writer.relist_rare_terms() or needed:
            writer.finish()
        return needed

    def install(self, hierarchy: Hierarchy) -> tuple[str, int]:
        """Puts a hierarchy in place and folds every node by it.

        Returns:
            The fingerprint of the one before, and how many nodes were folded.
        """
        before, nodes = stored_fingerprint(self._tx), 0
        if before == hierarchy.fingerprint:
            return before, 0
        save_hierarchy(self._tx, hierarchy)
        self._hierarchies.announce(hierarchy)
        for row in namespaces_below(self._tx, ()):
            writer = self._writer(row)
            nodes += writer.refold()
            writer.finish()
        return before, nodes

    # -- notes

    def note_reader(self, folder: str, marks: Iterable[str]) -> None:
        """Records a reader that was trained on documents, by their marks (see `document_mark`)."""
        note_adapter(self._tx, folder, marks)

    def mark_as_copy(self, folder: str | None) -> None:
        """Marks the memory as an unfinished copy of the one in `folder`; None when it is finished."""
        mark_as_copy(self._tx, folder)

    def _writer(self, row: NamespaceRow) -> NamespaceWriter:
        fold = self._hierarchies.of(self._tx).fold
        return NamespaceWriter(self._tx, row, config=self._config, fold=fold, dim=self._dim)


def give_back_pages(database: Database) -> None:
    """Makes the file smaller by the pages that are free."""
    database.exclusive(lambda connection: connection.execute("PRAGMA incremental_vacuum").get)
