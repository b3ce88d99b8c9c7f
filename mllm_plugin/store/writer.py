"""Writes documents into one namespace within one transaction: rows, words and tree stay in step."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import apsw
import numpy as np
from numpy.typing import NDArray

from mllm_plugin import clock
from mllm_plugin.config import MemoryConfig
from mllm_plugin.store.documents import drop_masks
from mllm_plugin.store.namespaces import NamespaceRow
from mllm_plugin.store.nodes import SqlNodeStore, leaf_nodes, load_children
from mllm_plugin.store.snapshot import Snapshot
from mllm_plugin.store.times import EXPIRED, Times, save_times, stamped
from mllm_plugin.store.values import Posting, metadata_json, parsed_metadata, postings
from mllm_plugin.text.chunking import Span
from mllm_plugin.text.lexical import WORD_RULE, TermCounts
from mllm_plugin.tree.editor import Fold, TreeEditor
from mllm_plugin.tree.node import EmbeddingChunk
from mllm_plugin.types import Document


@dataclass(frozen=True)
class PreparedDocument:
    """A document cut and embedded, ready to be written.

    Attributes:
        text_hash: Of text and splitting, to tell whether a document changed.
        pooled: Chunk embeddings [c, d].
        windows: Packed windows per chunk, or None without level 0.
        chunk_hashes: Of namespace and chunk text; None where the caller gave the vector.
        masks: Labels under which the document is masked from the start.
        before: Times of the document that it replaces.
        kept: Its times in the memory that it comes from.
    """

    document: Document
    text_hash: bytes
    split: bool
    spans: Sequence[Span]
    pooled: NDArray[np.float16]
    windows: Sequence[bytes] | None
    chunk_hashes: Sequence[bytes | None]
    masks: tuple[str, ...] = ()
    before: Times | None = None
    kept: Times | None = None

    def with_masks(self, masks: tuple[str, ...]) -> PreparedDocument:
        """The same document, masked also under these labels."""
        return replace(self, masks=(*self.masks, *masks)) if masks else self


def next_version(tx: apsw.Connection) -> int:
    """Number of this write, larger than any before."""
    return tx.execute(
        "INSERT INTO meta VALUES ('version', 1) ON CONFLICT DO UPDATE SET value = value + 1 RETURNING value"
    ).get


class NamespaceWriter:
    """A batch of edits; call `finish` once, last.

    Args:
        tx: A write transaction.
        row: The namespace.
        config: The memory's settings.
        fold: Encoder of a level, see `TreeEditor`.
        dim: Width of the embeddings.
    """

    def __init__(
        self, tx: apsw.Connection, row: NamespaceRow, *, config: MemoryConfig, fold: Fold, dim: int
    ) -> None:
        self._tx, self._row, self._config, self._dim = tx, row, config, dim
        self._id = row.namespace_id
        self._version, self._now = next_version(tx), clock.micros_now()
        self._live_chunks, self._live_terms, self._provisional = (
            row.live_chunks,
            row.live_terms,
            row.provisional,
        )
        store = SqlNodeStore(tx, self._id, dim, self._version)
        self._tree = TreeEditor(store, row.root_id, config.tree, fold, self._version)

    def add(self, prepared: Sequence[PreparedDocument], *, provisional: bool = False) -> int:
        """Inserts new documents; returns the number of chunks.

        Args:
            prepared: Their ids must not be there yet.
            provisional: Place whole groups quickly; `regroup` must follow.
        """
        ids: list[int] = []
        live: list[bool] = []
        for item in prepared:
            added = self._insert_rows(item)
            ids += added
            live += [not item.masks] * len(added)
        if not ids:
            return 0
        texts = [item.document.text[span.start : span.end] for item in prepared for span in item.spans]
        terms = TermCounts.of(texts, word_rule(self._tx))
        chunks = EmbeddingChunk.of_chunks(
            np.array(ids, dtype=np.int64),
            np.concatenate([item.pooled for item in prepared if len(item.spans)])[:, None],
            np.array(live, dtype=bool),
            terms,
        )
        add_terms(self._tx, self._id, chunks.ids, terms, chunks.live > 0, self._config.lexical.posting_limit)
        self._count(chunks, +1)
        if provisional and len(ids) >= self._config.tree.target(1):
            self._tree.insert_groups(chunks)
            self._provisional += len(ids)
        else:
            self._tree.insert(chunks)
        return len(ids)

    def remove(self, rowids: Iterable[int]) -> int:
        """Deletes documents and everything derived from them; returns the number of chunks."""
        homes = self._homes(rowids := list(rowids))
        for node_id, chunk_ids in homes.items():
            gone = self._chunks(node_id, chunk_ids)
            remove_terms(self._tx, self._id, gone.ids, gone.terms, gone.live > 0)  # type: ignore[arg-type]
            self._count(gone, -1)
        self._tree.remove(homes)
        for rowid in rowids:
            self._delete_postings(rowid)
            self._tx.execute("DELETE FROM documents WHERE document_rowid = ?", (rowid,))
        return sum(map(len, homes.values()))

    def set_masked(self, rowids: Iterable[int], masked: bool) -> int:
        """Takes documents out of every ancestor, or puts them back; returns the number of chunks."""
        homes = self._homes(rowids := list(rowids))
        for node_id, chunk_ids in homes.items():
            turned = self._chunks(node_id, chunk_ids)
            shift_live_terms(self._tx, self._id, turned.terms, -1 if masked else +1)  # type: ignore[arg-type]
            self._count_as(turned, -1 if masked else +1)
        self._tree.set_live(homes, not masked)
        self._tx.executemany(
            "UPDATE documents SET masked = ? WHERE document_rowid = ?",
            ((int(masked), rowid) for rowid in rowids),
        )
        return sum(map(len, homes.values()))

    def renew(self, rowid: int, document: Document, before: Times, kept: Times | None) -> None:
        """Replaces metadata, labels and times; what is no longer expired is live again."""
        times = stamped(document, self._version, self._now, before, kept)
        save_times(self._tx, rowid, times)
        if before.hidden and drop_masks(self._tx, [rowid], EXPIRED):
            self.set_masked([rowid], False)
        self._set_metadata(rowid, document)

    def _set_metadata(self, rowid: int, document: Document) -> None:
        self._delete_postings(rowid)
        text = metadata_json(document.metadata)
        self._tx.execute("UPDATE documents SET metadata = ? WHERE document_rowid = ?", (text, rowid))
        self._insert_postings(rowid, postings(document.metadata))
        self._tx.execute("DELETE FROM labels WHERE document_rowid = ?", (rowid,))
        self._insert_labels("labels", rowid, document.labels)

    def regroup(self) -> None:
        """Groups the whole tree anew and lists rare terms again."""
        self._tree.regroup()
        self._provisional = 0

    def refold(self) -> int:
        """Folds every node anew, for another hierarchy; returns how many."""
        return self._tree.refold()

    def relist_rare_terms(self) -> int:
        """Restores posting lists of terms that have become rare; returns how many."""
        blocks = (load_children(self._tx, node_id, self._dim) for node_id in leaf_nodes(self._tx, self._id))
        return rebuild_postings(self._tx, self._id, blocks, self._config.lexical.posting_limit)

    def finish(self) -> None:
        """Restores the tree and writes the namespace's row; an empty namespace leaves no row."""
        root_id = self._tree.finish()
        self._tx.execute(
            "UPDATE namespaces SET root_id = ?, version = ?, live_chunks = ?, live_terms = ?, "
            "provisional = ? WHERE namespace_id = ?",
            (root_id, self._version, self._live_chunks, self._live_terms, self._provisional, self._id),
        )
        self._tx.execute(
            "DELETE FROM namespaces WHERE namespace_id = ?1 "
            "AND NOT EXISTS (SELECT 1 FROM documents WHERE namespace_id = ?1)",
            (self._id,),
        )

    # -- rows
    # ----------------------------------------------------------------------------------------------------

    def _insert_rows(self, item: PreparedDocument) -> list[int]:
        document = item.document
        self._tx.execute(
            "INSERT INTO documents (namespace_id, id, text, text_hash, metadata, split, masked) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                self._id,
                document.id,
                document.text.encode("utf-8"),
                item.text_hash,
                metadata_json(document.metadata),
                int(item.split),
                int(bool(item.masks)),
            ),
        )
        rowid = self._tx.last_insert_rowid()
        self._insert_postings(rowid, postings(document.metadata))
        self._insert_labels("labels", rowid, document.labels)
        self._insert_labels("masks", rowid, item.masks)
        save_times(self._tx, rowid, stamped(document, self._version, self._now, item.before, item.kept))
        chunk_ids = []
        for span, text_hash in zip(item.spans, item.chunk_hashes, strict=True):
            self._tx.execute(
                'INSERT INTO chunks (document_rowid, start, "end", text_hash) VALUES (?, ?, ?, ?)',
                (rowid, span.start, span.end, text_hash),
            )
            chunk_ids.append(self._tx.last_insert_rowid())
        if item.windows is not None and self._config.level0:
            rows = ((chunk, data) for chunk, data in zip(chunk_ids, item.windows, strict=True) if data)
            self._tx.executemany("INSERT INTO windows VALUES (?, ?)", rows)
        return chunk_ids

    def _insert_labels(self, table: str, rowid: int, labels: Iterable[str]) -> None:
        self._tx.executemany(
            f"INSERT INTO {table} VALUES (?, ?)", ((rowid, label) for label in sorted(set(labels)))
        )

    def _insert_postings(self, rowid: int, found: Iterable[Posting]) -> None:
        rows = ((self._id, *posting, rowid) for posting in found)
        self._tx.executemany("INSERT INTO metadata VALUES (?, ?, ?, ?, ?)", rows)

    def _delete_postings(self, rowid: int) -> None:
        stored = self._tx.execute("SELECT metadata FROM documents WHERE document_rowid = ?", (rowid,)).get
        rows = ((self._id, *posting, rowid) for posting in postings(parsed_metadata(stored)))
        self._tx.executemany(
            "DELETE FROM metadata WHERE namespace_id = ? AND key = ? AND kind = ? AND value = ? "
            "AND document_rowid = ?",
            rows,
        )

    # -- chunks
    # --------------------------------------------------------------------------------------------------

    def _homes(self, rowids: Iterable[int]) -> dict[int, list[int]]:
        """Chunk ids of documents by the node that holds them."""
        homes: dict[int, list[int]] = defaultdict(list)
        for rowid in rowids:
            rows = self._tx.execute("SELECT node_id, chunk_id FROM chunks WHERE document_rowid = ?", (rowid,))
            for node_id, chunk_id in rows:
                homes[node_id].append(chunk_id)
        return homes

    def _chunks(self, node_id: int, chunk_ids: list[int]) -> EmbeddingChunk:
        block = load_children(self._tx, node_id, self._dim)
        return block.take(np.flatnonzero(np.isin(block.ids, chunk_ids)))

    def _count(self, chunks: EmbeddingChunk, sign: int) -> None:
        self._count_as(chunks.take(np.flatnonzero(chunks.live > 0)), sign)

    def _count_as(self, chunks: EmbeddingChunk, sign: int) -> None:
        self._live_chunks += sign * len(chunks)
        self._live_terms += sign * int(chunks.terms.lengths.sum())  # type: ignore[union-attr]


# -- words: document frequencies, and short posting lists through which rare ones route


def word_rule(tx: apsw.Connection) -> int:
    """The rule by which the memory tells words, within a write transaction."""
    return Snapshot(tx).word_rule


def save_word_rule(tx: apsw.Connection) -> None:
    """Gives a new memory the newest rule."""
    tx.execute("INSERT INTO meta VALUES ('words', ?)", (WORD_RULE,))


def add_terms(
    tx: apsw.Connection,
    namespace_id: int,
    chunk_ids: NDArray[np.int64],
    terms: TermCounts,
    live: NDArray[np.bool_],
    limit: int,
) -> None:
    """Counts the terms of new chunks; a term's postings are kept while at most `limit` chunks have it."""
    total, alive = Counter(terms.hashes.tolist()), Counter(_live_hashes(terms, live))
    posted = set()
    rows = []
    for term, count in total.items():
        before, listed = tx.execute(
            "SELECT total, posted FROM terms WHERE namespace_id = ? AND term = ?", (namespace_id, term)
        ).get or (0, 1)
        keep = bool(listed) and before + count <= limit
        if keep:
            posted.add(term)
        elif listed and before:
            tx.execute("DELETE FROM postings WHERE namespace_id = ? AND term = ?", (namespace_id, term))
        rows.append((namespace_id, term, alive[term], count, int(keep)))
    tx.executemany(
        "INSERT INTO terms VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
        "live = live + excluded.live, total = total + excluded.total, posted = excluded.posted",
        rows,
    )
    owners = chunk_ids[terms.rows()].tolist()
    pairs = ((namespace_id, t, c) for t, c in zip(terms.hashes.tolist(), owners, strict=True) if t in posted)
    tx.executemany("INSERT INTO postings VALUES (?, ?, ?)", pairs)


def remove_terms(
    tx: apsw.Connection,
    namespace_id: int,
    chunk_ids: NDArray[np.int64],
    terms: TermCounts,
    live: NDArray[np.bool_],
) -> None:
    """Uncounts the terms of chunks that go; a term that no chunk has leaves no row."""
    alive = Counter(_live_hashes(terms, live))
    owners = chunk_ids[terms.rows()].tolist()
    tx.executemany(
        "DELETE FROM postings WHERE namespace_id = ? AND term = ? AND chunk_id = ?",
        ((namespace_id, term, chunk) for term, chunk in zip(terms.hashes.tolist(), owners, strict=True)),
    )
    total = Counter(terms.hashes.tolist())
    tx.executemany(
        "UPDATE terms SET live = live - ?, total = total - ? WHERE namespace_id = ? AND term = ?",
        ((alive[term], count, namespace_id, term) for term, count in total.items()),
    )
    tx.executemany(
        "DELETE FROM terms WHERE namespace_id = ? AND term = ? AND total = 0",
        ((namespace_id, term) for term in total),
    )


def shift_live_terms(tx: apsw.Connection, namespace_id: int, terms: TermCounts, sign: int) -> None:
    """Adds (+1) or takes (-1) chunks from the live frequencies, as unmask and mask do."""
    tx.executemany(
        "UPDATE terms SET live = live + ? WHERE namespace_id = ? AND term = ?",
        ((sign * count, namespace_id, term) for term, count in Counter(terms.hashes.tolist()).items()),
    )


def posted_terms(tx: apsw.Connection, namespace_id: int) -> NDArray[np.int64]:
    """The terms that have a posting list, in ascending order."""
    query = "SELECT term FROM terms WHERE namespace_id = ? AND posted ORDER BY term"
    return np.fromiter((term for (term,) in tx.execute(query, (namespace_id,))), dtype=np.int64)


def rebuild_postings(tx: apsw.Connection, namespace_id: int, chunks: Iterable, limit: int) -> int:
    """Lists again the terms that have become rare since their postings were dropped; returns how many.

    Args:
        chunks: `EmbeddingChunk` of every level-2 node of the namespace.
        limit: Longest posting list.
    """
    rows = tx.execute(
        "SELECT term FROM terms WHERE namespace_id = ? AND posted = 0 AND total <= ?", (namespace_id, limit)
    )
    missing = np.array([term for (term,) in rows], dtype=np.uint32)
    if not len(missing):
        return 0
    for children in chunks:
        entries = np.flatnonzero(np.isin(children.terms.hashes, missing))
        owners = children.ids[children.terms.rows()[entries]].tolist()
        pairs = zip(children.terms.hashes[entries].tolist(), owners, strict=True)
        tx.executemany(
            "INSERT OR IGNORE INTO postings VALUES (?, ?, ?)", ((namespace_id, t, c) for t, c in pairs)
        )
    tx.executemany(
        "UPDATE terms SET posted = 1 WHERE namespace_id = ? AND term = ?",
        ((namespace_id, term) for term in missing.tolist()),
    )
    return len(missing)


def _live_hashes(terms: TermCounts, live: NDArray[np.bool_]) -> list[int]:
    return terms.hashes[live[terms.rows()]].tolist()
