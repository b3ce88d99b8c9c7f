"""The door for writing: all that one transaction changes goes through an `Edit`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import apsw

from mllm_plugin import clock
from mllm_plugin.config import MemoryConfig
from mllm_plugin.errors import NotFoundError, VersionConflictError
from mllm_plugin.hierarchy import Hierarchy
from mllm_plugin.reports import MaskReport
from mllm_plugin.store.database import Database
from mllm_plugin.store.decoded import HierarchyInUse, stored_fingerprint
from mllm_plugin.store.documents import (
    DocumentState,
    Which,
    add_masks,
    document_state,
    drop_masks,
    masked_documents,
    missing_chunks,
    same_fields,
    same_text,
    select_documents,
)
from mllm_plugin.store.namespaces import (
    NamespaceRow,
    create_namespace,
    find_namespace,
    namespace_of,
    namespaces_below,
    select_namespaces,
    touch_namespace,
)
from mllm_plugin.store.settings import mark_as_copy, note_reader, save_hierarchy, weights_that_saw
from mllm_plugin.store.snapshot import IMAGE, Snapshot
from mllm_plugin.store.statistics import chunk_count
from mllm_plugin.store.times import EXPIRED, Times, expired_ids, overdue, set_hidden
from mllm_plugin.store.writer import NamespaceWriter, PreparedDocument, next_version
from mllm_plugin.types import Document, Namespace, StoredDocument


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

    def joined(self, other: Removed) -> Removed:
        """Both as one."""
        weights = tuple(dict.fromkeys((*self.weights, *other.weights)))
        documents, chunks = self.documents + other.documents, self.chunks + other.chunks
        return Removed(documents, chunks, (*self.missing, *other.missing), weights)


class Chosen(NamedTuple):
    """Row ids of the documents that a call means, by namespace, and the ids that are in none."""

    found: list[tuple[NamespaceRow, list[int]]]
    missing: tuple[str, ...]


@contextmanager
def editing(
    database: Database,
    config: MemoryConfig,
    hierarchies: HierarchyInUse,
    dim: int,
    wait: float | None = None,
) -> Iterator[Edit]:
    """A write transaction: all that is done to the edit is kept, or nothing.

    Args:
        database: The file.
        config: The memory's settings.
        hierarchies: Those that its nodes may be folded with.
        dim: Width of the embeddings.
        wait: Seconds to wait for another writer; the memory's timeout when left out.

    Raises:
        StoreError: It cannot be written; nothing was.
    """
    with database.write(wait) as tx:
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
        kept: Mapping[str, Times] = {},
        renew: bool = False,
    ) -> Put:
        """Adds prepared documents, or replaces those of their ids, and renews the fields of the others.

        Args:
            namespace: Where to; it is made when it is new.
            documents: All of them, in order.
            prepared: Those whose text is new or changed.
            split: How the others were cut when they were looked at.
            provisional: Place whole groups quickly; `regroup` must follow.
            kept: Times of documents in the memory that they come from, by id.
            renew: Leave the chunks of prepared documents that are stored with this text already.

        Raises:
            StaleError: A document that is not prepared is no longer stored with this text.
        """
        row = create_namespace(self._tx, namespace)
        fresh = {item.document.id: item for item in prepared}
        replaced: list[int] = []
        inserts: list[PreparedDocument] = []
        renewed: list[tuple[DocumentState, Document]] = []
        for document in documents:
            state = document_state(self._tx, row.namespace_id, document.id)
            item = fresh.get(document.id)
            if item is not None and not (renew and same_text(state, document, split)):
                inserts.append(_placed(item, state, kept.get(document.id)))
                replaced += [] if state is None else [state.rowid]
            elif state is None or not same_text(state, document, split):
                raise StaleError
            elif not same_fields(state, document):
                renewed.append((state, document))
        updated, chunks = len(replaced) + len(renewed), 0
        added = len(inserts) - len(replaced)
        if added or updated:
            writer = self._writer(row)
            for state, document in renewed:
                writer.renew(state.rowid, document, state.times, kept.get(document.id))
            writer.remove(replaced)
            chunks = writer.add(inserts, provisional=provisional)
            writer.finish()
        return Put(added, updated, len(documents) - added - updated, chunks)

    def check_absent(self, namespace: Namespace, which: Which) -> None:
        """Looks whether documents are still not there.

        Raises:
            VersionConflictError: One is.
        """
        row = find_namespace(self._tx, namespace)
        found = [] if row is None else select_documents(self._tx, row.namespace_id, **which._asdict()).rowids
        if found:
            raise VersionConflictError(
                f"{len(found)} documents are there that were not, in namespace {namespace!r}: somebody added "
                f"them meanwhile. Read them, and decide anew"
            )

    def update(
        self,
        namespace: Namespace,
        document_id: str,
        change: Callable[[StoredDocument], Document],
        prepared: PreparedDocument | None,
        if_version: int | None,
    ) -> tuple[StoredDocument, bool]:
        """Changes a document as it is now; returns it, and whether anything changed.

        Args:
            namespace: Where it is.
            document_id: Which.
            change: Gives what it becomes.
            prepared: The new text, where that may differ.
            if_version: The only version that may be changed.

        Raises:
            NotFoundError: It is not there.
            VersionConflictError: It has another version.
            StaleError: Another writer changed how it is split since it was prepared.
        """
        row = find_namespace(self._tx, namespace)
        before = None if row is None else self._stored(row, document_id)
        if before is None:
            raise NotFoundError(f"no document {document_id!r} in namespace {namespace!r}")
        if if_version not in (None, before.version):
            raise VersionConflictError(
                f"document {document_id!r} has version {before.version}, expected {if_version}: somebody "
                f"changed it meanwhile. Read it again, and decide anew"
            )
        document = change(before)
        fresh = [] if prepared is None or document.text == before.text else [prepared]
        put = self.put(
            namespace, [document], [replace(chunk, document=document) for chunk in fresh], split=before.split
        )
        after = self._stored(create_namespace(self._tx, namespace), document_id)
        assert after is not None
        return after, bool(put.updated)

    def _stored(self, row: NamespaceRow, document_id: str) -> StoredDocument | None:
        snapshot = Snapshot(self._tx, self._dim)
        return next(snapshot.documents(row, snapshot.select(row, ids=[document_id]).rowids), None)

    def remove(self, namespace: Namespace, which: Which, *, prefix: bool = False) -> Removed:
        """Deletes documents and everything derived from them."""
        chosen, missing = self._chosen(namespace, which, prefix)
        documents, chunks, weights = 0, 0, dict[str, None]()
        for row, rowids in chosen:
            weights |= dict.fromkeys(weights_that_saw(self._tx, row.namespace, rowids))
            documents += len(rowids)
            writer = self._writer(row)
            chunks += writer.remove(rowids)
            writer.finish()
        return Removed(documents, chunks, missing, tuple(weights))

    def _chosen(self, namespace: Namespace, which: Which, prefix: bool) -> Chosen:
        """Documents by namespace, and the ids that are in none of these."""
        found, missing = [], dict.fromkeys(which.ids or ())
        for row in select_namespaces(self._tx, namespace, prefix=prefix):
            rowids, absent = select_documents(self._tx, row.namespace_id, **which._asdict())
            missing = {name: None for name in absent if name in missing}
            if rowids:
                found.append((row, rowids))
        return Chosen(found, tuple(missing))

    # -- expiry

    def expire(self, most: int) -> int:
        """Masks what has expired, at most so many documents; returns how many."""
        due = overdue(self._tx, clock.micros_now(), most)
        for namespace_id, rowids in due.items():
            self._turn(
                namespace_of(self._tx, namespace_id), add_masks(self._tx, rowids, EXPIRED), masked=True
            )
            set_hidden(self._tx, rowids)
        return sum(map(len, due.values()))

    def sweep(self, namespace: Namespace, *, prefix: bool) -> tuple[Removed, list[tuple[Namespace, str]]]:
        """Deletes what has expired; returns what was removed by namespace and id too."""
        removed, names = Removed(0, 0, ()), []
        for row in select_namespaces(self._tx, namespace, prefix=prefix):
            if ids := expired_ids(self._tx, row.namespace_id, clock.micros_now()):
                names += [(row.namespace, name) for name in ids]
                removed = removed.joined(self.remove(row.namespace, Which(ids)))
        return removed, names

    # -- masks

    def mask(self, namespace: Namespace, which: Which, label: str, *, prefix: bool = False) -> MaskReport:
        """Puts documents under a mask.

        Raises:
            NotFoundError: An id is not there.
        """
        chosen = self._all_of(namespace, which, prefix)
        return self._turn_all(chosen, lambda rowids: add_masks(self._tx, rowids, label), masked=True)

    def unmask(
        self, namespace: Namespace, which: Which | None, label: str | None, *, prefix: bool = False
    ) -> MaskReport:
        """Lifts one mask, or all, from documents, or from every one that has it.

        Raises:
            NotFoundError: An id is not there.
        """
        if which is not None:
            chosen = self._all_of(namespace, which, prefix)
        else:
            rows = select_namespaces(self._tx, namespace, prefix=prefix)
            chosen = [(row, masked_documents(self._tx, row.namespace_id, label)) for row in rows]
        return self._turn_all(chosen, lambda rowids: drop_masks(self._tx, rowids, label), masked=False)

    def _all_of(
        self, namespace: Namespace, which: Which, prefix: bool
    ) -> list[tuple[NamespaceRow, list[int]]]:
        chosen, missing = self._chosen(namespace, which, prefix)
        if missing:
            where = f"in or below namespace {namespace!r}" if prefix else f"in namespace {namespace!r}"
            raise NotFoundError(f"no document {', '.join(map(repr, missing))} {where}")
        return chosen

    def _turn_all(
        self,
        chosen: Iterable[tuple[NamespaceRow, list[int]]],
        turn: Callable[[list[int]], list[int]],
        *,
        masked: bool,
    ) -> MaskReport:
        """Changes masks, and the trees where documents turned between live and masked."""
        reports = []
        for row, rowids in chosen:
            before = self._tx.total_changes()
            reports.append(self._turn(row, turn(rowids), masked=masked))
            if not reports[-1].documents and self._tx.total_changes() != before:
                touch_namespace(self._tx, row, next_version(self._tx))  # who looks through masks sees it
        return MaskReport(
            sum(report.documents for report in reports), sum(report.chunks for report in reports)
        )

    def _turn(self, row: NamespaceRow, rowids: list[int], *, masked: bool) -> MaskReport:
        if not rowids:
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

    def missing_chunks(self, chunk_ids: Iterable[int]) -> list[int]:
        """Those that are not stored (any more); no writer comes in between until the transaction ends."""
        return missing_chunks(self._tx, chunk_ids)

    def note_reader(self, folder: str, marks: Iterable[str]) -> None:
        """Records a reader that was trained on documents, by their marks (see `document_mark`)."""
        note_reader(self._tx, folder, marks)

    def note_image(self, name: str) -> None:
        """Names the generation of the search image that holds this memory as it was a moment ago.

        A copy of the file that is older, or goes its own way from here, names another one or this very one,
        so that no generation is taken for the image of what it was not made of.
        """
        self._tx.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (IMAGE, name))

    def mark_as_copy(self, folder: str | None) -> None:
        """Marks the memory as an unfinished copy of the one in `folder`; None when it is finished."""
        mark_as_copy(self._tx, folder)

    def _writer(self, row: NamespaceRow) -> NamespaceWriter:
        fold = self._hierarchies.of(self._tx).fold
        return NamespaceWriter(self._tx, row, config=self._config, fold=fold, dim=self._dim)


def _placed(item: PreparedDocument, state: DocumentState | None, kept: Times | None) -> PreparedDocument:
    """A prepared document in place of a stored one: masks and the time of its making stay."""
    placed = replace(item, kept=kept)
    if state is None:
        return placed
    return replace(placed, before=state.times).with_masks(state.masks_kept())


def give_back_pages(database: Database) -> None:
    """Makes the file smaller by the pages that are free."""
    database.exclusive(lambda connection: connection.execute("PRAGMA incremental_vacuum").get)
