"""Everything that is read from the file, in one consistent state.

A `Snapshot` holds the read transaction and the width of the embeddings, so that nothing above `store/` has a
connection or SQL. Reads take many ids at once: one statement for all of them.

Shapes: n chunks, c children, r vectors per embedding, d dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import apsw
import numpy as np
from numpy.typing import NDArray

from mllm_plugin import clock
from mllm_plugin.errors import ClosedError, DamagedStoreError
from mllm_plugin.store.codec import WANTED, Windows, children_of, unpack_all, vector_of, wanted
from mllm_plugin.store.connections import decoding
from mllm_plugin.store.documents import (
    Selection,
    select_documents,
    stored_chunks,
    stored_documents,
    stored_masks,
)
from mllm_plugin.store.filters import Clause
from mllm_plugin.store.listing import Listing, count_documents, listed_documents
from mllm_plugin.store.namespaces import NamespaceRow, namespaces_below, select_namespaces
from mllm_plugin.store.times import ALWAYS, TIMES, Times, When, last_overdue, read_times
from mllm_plugin.text.lexical import FIRST_RULE
from mllm_plugin.tree.editor import LOWEST_LEVEL
from mllm_plugin.tree.node import EmbeddingChunk
from mllm_plugin.types import Namespace, StoredChunk, StoredDocument

if TYPE_CHECKING:
    from mllm_plugin.hierarchy import Hierarchy
    from mllm_plugin.store.decoded import HierarchyInUse

IMAGE = "image"  # key of a setting
_SETTINGS = ("dim", "words", "hierarchy", IMAGE, "copied_from")
MOST_ROUTED = 512  # chunks that the rare words of a query lead to
_READ_BATCH = 64
_TERMS_AT_ONCE = 1 << 14
_TOP = 64  # no memory is so large that its tree has more levels


class NodeRow(NamedTuple):
    """A node without its embedding chunk; `version` is the write that last changed that."""

    node_id: int
    level: int
    parent_id: int | None
    version: int


class Place(NamedTuple):
    """Where a chunk lies: its span of a document, and the node that is its home."""

    document_rowid: int
    document_id: str
    start: int
    end: int
    node_id: int


class Frequency(NamedTuple):
    """Live chunks and all chunks that have a term, and whether a posting list names them."""

    live: int
    total: int
    posted: int


@dataclass(frozen=True)
class ChunkVectors:
    """A chunk with what was made of it.

    Attributes:
        vector: Pooled embedding [d].
        windows: Packed, see `pack_windows`; None without level 0.
        given: The caller gave the vector, the encoder did not.
    """

    start: int
    end: int
    vector: NDArray[np.float16]
    windows: bytes | None
    given: bool


class Snapshot:
    """One moment of a memory, whatever is written meanwhile; see `MemoryIndex.snapshot`.

    Args:
        connection: Within a transaction.
        dim: Width of the embeddings; read from the file when left out.

    Attributes:
        now: The time that it tells what has expired by, in microseconds since 1970.
    """

    def __init__(self, connection: apsw.Connection, dim: int | None = None) -> None:
        self._tx: Any = connection
        self.now = clock.micros_now()
        if dim is not None:
            self.dim = dim

    def end(self) -> None:
        """Forgets the connection: what comes later through it would be of another moment."""
        self._tx = _Ended()

    @cached_property
    def dim(self) -> int:
        """Width of the embeddings."""
        return self._settings["dim"]

    @property
    def word_rule(self) -> int:
        """The rule by which the memory tells words; one that names none is older than the second."""
        return self._settings.get("words") or FIRST_RULE

    @property
    def copied_from(self) -> str | None:
        """The folder of the memory that this one is an unfinished copy of."""
        return self._settings.get("copied_from")

    @property
    def image(self) -> str | None:
        """Names the generation of the search image that was made of this memory, see `Edit.note_image`."""
        return self._settings.get(IMAGE)

    @cached_property
    def overdue(self) -> int | None:
        """The latest expiry of a document that has expired and is not masked for it; None without one."""
        return last_overdue(self._tx, self.now)

    def hierarchy(self, known: HierarchyInUse) -> Hierarchy:
        """The hierarchy that the nodes were folded with."""
        return known.of(self._tx, self._settings["hierarchy"])

    def namespace(self, name: Namespace) -> NamespaceRow | None:
        """A namespace, or None."""
        return next(iter(select_namespaces(self._tx, name, prefix=False)), None)

    def namespaces(self, name: Namespace = (), *, prefix: bool = True) -> list[NamespaceRow]:
        """A namespace, or with `prefix` every one that begins with it, in order of their names."""
        return select_namespaces(self._tx, name, prefix=prefix)

    def holding(self, name: Namespace, document_id: str) -> list[NamespaceRow]:
        """Namespaces that begin with a name and have a document of this id, in order of their names."""
        return namespaces_below(self._tx, name, holding=document_id)

    # -- nodes
    # ---------------------------------------------------------------------------------------------------

    def node(self, node_id: int) -> NodeRow:
        """A node of the tree."""
        query = "SELECT node_id, level, parent_id, version FROM nodes WHERE node_id = ?"
        with decoding(f"node {node_id}"):
            found = NodeRow(*self._tx.execute(query, (node_id,)).get)
            if not LOWEST_LEVEL <= found.level <= _TOP:
                raise ValueError(f"level {found.level}")
            return found

    def nodes(self, row: NamespaceRow) -> list[NodeRow]:
        """All nodes of a namespace, the lowest level first."""
        query = "SELECT node_id, level, parent_id, version FROM nodes WHERE namespace_id = ? ORDER BY level"
        return [NodeRow(*found) for found in self._tx.execute(query, (row.namespace_id,))]

    def ancestors(self, node_ids: Iterable[int]) -> dict[int, NodeRow]:
        """These nodes and every node above them, by id."""
        rows = self._tx.execute(
            "WITH RECURSIVE above (node_id) AS (SELECT value FROM json_each(?) UNION "
            "SELECT parent_id FROM nodes JOIN above USING (node_id) WHERE parent_id IS NOT NULL) "
            "SELECT node_id, level, parent_id, version FROM above JOIN nodes USING (node_id)",
            (wanted(node_ids),),
        )
        found = {row[0]: NodeRow(*row) for row in rows}
        for node in found.values():
            if node.parent_id is not None and found.get(node.parent_id, node).level <= node.level:
                raise DamagedStoreError(
                    f"node {node.node_id} of level {node.level} has no parent above it; restore a backup, or "
                    f"rebuild the memory from its documents"
                )
        return found

    def versions(self, node_ids: Iterable[int]) -> dict[int, int]:
        """The write that last changed the embedding chunk of each of these nodes, by id."""
        query = f"SELECT node_id, version FROM {WANTED} nodes ON node_id = value"
        return dict(self._tx.execute(query, (wanted(node_ids),)))

    def lowest_nodes(self, namespace_id: int) -> dict[int, int]:
        """Version by node id of all nodes of level 2 of a namespace."""
        query = "SELECT node_id, version FROM nodes WHERE namespace_id = ? AND level = ?"
        return dict(self._tx.execute(query, (namespace_id, LOWEST_LEVEL)))

    def children(self, node_id: int) -> EmbeddingChunk:
        """The embedding chunk of a node."""
        query = "SELECT ids, vectors, live, total, versions, terms FROM blocks WHERE node_id = ?"
        with decoding(f"the embedding chunk of node {node_id}"):
            return children_of(self._tx.execute(query, (node_id,)).get, self.dim)

    # -- chunks
    # --------------------------------------------------------------------------------------------------

    def places(self, chunk_ids: Iterable[int]) -> dict[int, Place]:
        """Where chunks lie, by id."""
        rows = self._tx.execute(
            'SELECT c.chunk_id, d.document_rowid, d.id, c.start, c."end", c.node_id '
            f"FROM {WANTED} chunks c ON c.chunk_id = wanted.value JOIN documents d USING (document_rowid)",
            (wanted(chunk_ids),),
        )
        return {chunk_id: Place(*found) for chunk_id, *found in rows}

    def live(self, chunk_ids: Iterable[int]) -> set[int]:
        """Those of the chunks that are stored, and neither masked nor expired."""
        rows = self._tx.execute(
            f"SELECT c.chunk_id FROM {WANTED} chunks c ON c.chunk_id = wanted.value "
            f"JOIN documents d USING (document_rowid) WHERE {self._live}",
            (wanted(chunk_ids),),
        )
        return {chunk_id for (chunk_id,) in rows}

    def begins(self, chunk_ids: Iterable[int]) -> dict[int, int]:
        """When the validity, or else the existence, of the documents of chunks began; by chunk id."""
        rows = self._tx.execute(
            f"SELECT c.chunk_id, coalesce(t.valid_from, t.created) FROM {WANTED} chunks c "
            "ON c.chunk_id = wanted.value JOIN times t USING (document_rowid)",
            (wanted(chunk_ids),),
        )
        return {chunk_id: begin for chunk_id, begin in rows if begin is not None}

    def spans(self, document_rowids: Iterable[int]) -> dict[int, list[tuple[int, int]]]:
        """Character offsets of all chunks of documents, in order, by row id."""
        rows = self._tx.execute(
            f'SELECT c.document_rowid, c.start, c."end" FROM {WANTED} chunks c '
            "ON c.document_rowid = wanted.value ORDER BY c.start",
            (wanted(document_rowids),),
        )
        found: dict[int, list[tuple[int, int]]] = {}
        for rowid, start, end in rows:
            found.setdefault(rowid, []).append((start, end))
        return found

    def windows(self, chunk_ids: NDArray[np.int64]) -> Windows:
        """Windows of chunks, in the order asked; none where none are stored."""
        ids = chunk_ids.tolist()
        query = f"SELECT chunk_id, data FROM {WANTED} windows ON chunk_id = wanted.value"
        stored = dict(self._tx.execute(query, (wanted(ids),)))
        return unpack_all([stored.get(chunk_id, b"") for chunk_id in ids], self.dim)

    def chunks_of(self, document_rowid: int) -> list[ChunkVectors]:
        """The chunks of a document in order, with their vectors and windows."""
        rows = self._tx.execute(
            'SELECT c.chunk_id, c.node_id, c.start, c."end", w.data, c.text_hash IS NULL '
            "FROM chunks c LEFT JOIN windows w USING (chunk_id) WHERE c.document_rowid = ? ORDER BY c.start",
            (document_rowid,),
        ).fetchall()
        vectors = self._vectors({found[0]: found[1] for found in rows})
        return [
            ChunkVectors(start, end, vectors[chunk_id], windows, bool(given))
            for chunk_id, _, start, end, windows, given in rows
        ]

    def embeddings(self, text_hashes: Iterable[bytes]) -> dict[bytes, tuple[NDArray[np.float16], bytes]]:
        """Pooled vector [d] and packed windows of the texts that are stored, by hash."""
        rows = self._tx.execute(
            f"SELECT min(c.chunk_id), c.node_id, c.text_hash, w.data FROM {WANTED} chunks c "
            "ON c.text_hash = unhex(wanted.value) LEFT JOIN windows w USING (chunk_id) GROUP BY c.text_hash",
            (wanted(text_hash.hex() for text_hash in text_hashes),),
        ).fetchall()
        vectors = self._vectors({chunk_id: node_id for chunk_id, node_id, *_ in rows})
        return {text_hash: (vectors[chunk], windows or b"") for chunk, _, text_hash, windows in rows}

    def some_chunks(self, count: int) -> list[tuple[str, NDArray[np.float16]]]:
        """Text and pooled vector [d] of a few chunks that the encoder made."""
        rows = self._tx.execute(
            'SELECT c.chunk_id, c.node_id, c.start, c."end", d.text FROM chunks c '
            "JOIN documents d USING (document_rowid) WHERE c.text_hash IS NOT NULL LIMIT ?",
            (count,),
        ).fetchall()
        vectors = self._vectors({chunk_id: node_id for chunk_id, node_id, *_ in rows})
        return [(text.decode("utf-8")[start:end], vectors[chunk]) for chunk, _, start, end, text in rows]

    def _vectors(self, homes: Mapping[int, int]) -> dict[int, NDArray[np.float16]]:
        """Pooled vectors [d] of chunks, given the node that each lies in."""
        blocks = {node_id: self.children(node_id) for node_id in set(homes.values())}
        return {
            chunk_id: vector_of(blocks[node_id].ids, blocks[node_id].vectors, chunk_id)[0]
            for chunk_id, node_id in homes.items()
        }

    # -- documents
    # -----------------------------------------------------------------------------------------------

    def select(
        self,
        row: NamespaceRow,
        *,
        ids: Iterable[str] | None = None,
        condition: Mapping[str, Any] | None = None,
        label: str | None = None,
    ) -> Selection:
        """Row ids of documents in the order they were added, or of `ids`; what is given must all hold."""
        if ids is None and condition is None and not label:
            condition = {}
        return select_documents(self._tx, row.namespace_id, ids=ids, condition=condition, label=label)

    def listed(self, rows: Sequence[NamespaceRow], listing: Listing) -> Iterator[tuple[NamespaceRow, int]]:
        """Namespace and row id of the documents of some namespaces."""
        return listed_documents(self._tx, rows, listing, self._live)

    def count(self, rows: Sequence[NamespaceRow], listing: Listing) -> int:
        """How many documents some namespaces have."""
        return count_documents(self._tx, rows, listing, self._live)

    def documents(self, row: NamespaceRow, rowids: Sequence[int]) -> Iterator[StoredDocument]:
        """Documents by row id, in the order asked."""
        for some in _batches(rowids):
            yield from stored_documents(self._tx, row, some, self.now)

    def chunks(self, row: NamespaceRow, rowids: Sequence[int]) -> Iterator[StoredChunk]:
        """Live chunks of documents by row id, in the order asked."""
        for some in _batches(rowids):
            yield from stored_chunks(self._tx, row, some, self._live)

    def texts(self, rowids: Iterable[int]) -> dict[int, tuple[str, str, Times]]:
        """Text, metadata (JSON) and times of documents, by row id."""
        rows = self._tx.execute(
            f"SELECT d.document_rowid, d.text, d.metadata, {TIMES} FROM {WANTED} documents d "
            "ON d.document_rowid = wanted.value LEFT JOIN times t USING (document_rowid)",
            (wanted(rowids),),
        )
        return {
            rowid: (text.decode("utf-8"), metadata, read_times(times))
            for rowid, text, metadata, *times in rows
        }

    def live_sizes(self, row: NamespaceRow) -> NDArray[np.int64]:
        """Row id and bytes of text [n, 2] of every document that is not masked."""
        rows = self._tx.execute(
            "SELECT d.document_rowid, length(d.text) FROM documents d "
            f"WHERE d.namespace_id = ? AND {self._live} ORDER BY d.document_rowid",
            (row.namespace_id,),
        )
        return np.array(list(rows), dtype=np.int64).reshape(-1, 2)

    def masks(self, row: NamespaceRow) -> dict[str, set[str]]:
        """Names of the masks on each document of a namespace, by its id, in the order they were added.

        That of its expiry is left out: it follows from the time.
        """
        return stored_masks(self._tx, row)

    @property
    def _live(self) -> str:
        """The condition on a document `d` that is neither masked nor expired."""
        if self.overdue is None:
            return "d.masked = 0"
        expired = f"SELECT document_rowid FROM times WHERE hidden = 0 AND expires <= {self.overdue}"
        return f"d.masked = 0 AND d.document_rowid NOT IN ({expired})"

    # -- what leads to chunks
    # ------------------------------------------------------------------------------------

    def matching(
        self, row: NamespaceRow, clause: Clause, exclude_labels: Iterable[str], when: When = ALWAYS
    ) -> NDArray[np.int64]:
        """Chunks that a filter lets through, and their homes [n, 2]; live ones, or as `when` says."""
        seen, parameters = when.condition(self._live, self.overdue)
        times = "LEFT JOIN times t USING (document_rowid) " if when.restricts() else ""
        rows = self._tx.execute(
            f"SELECT c.chunk_id, c.node_id FROM documents d JOIN chunks c USING (document_rowid) {times}"
            f"WHERE d.namespace_id = ? AND {seen} AND ({clause.sql}) AND d.document_rowid NOT IN "
            "(SELECT document_rowid FROM labels WHERE label IN (SELECT value FROM json_each(?)))",
            (row.namespace_id, *parameters, *clause.parameters, wanted(exclude_labels)),
        )
        return np.array(list(rows), dtype=np.int64).reshape(-1, 2)

    def frequencies(self, row: NamespaceRow, terms: Iterable[int]) -> dict[int, Frequency]:
        """How many chunks of a namespace have each term; without those that none has."""
        rows = self._tx.execute(
            f"SELECT term, live, total, posted FROM {WANTED} terms ON term = value AND namespace_id = ?",
            (wanted(terms), row.namespace_id),
        )
        return {term: Frequency(*found) for term, *found in rows}

    def all_frequencies(self, row: NamespaceRow) -> Iterator[NDArray[np.int64]]:
        """Every term of a namespace in order, and its `Frequency`, some at a time [n, 4]."""
        rows = self._tx.execute(
            "SELECT term, live, total, posted FROM terms WHERE namespace_id = ? ORDER BY term",
            (row.namespace_id,),
        )
        while some := list(islice(rows, _TERMS_AT_ONCE)):
            yield np.array(some, dtype=np.int64)

    def routed_chunks(self, row: NamespaceRow, known: Mapping[int, Frequency]) -> list[tuple[int, int]]:
        """Chunks (chunk id, node id) that the rarest of the terms lead to."""
        rare = rare_terms(known)
        rows = self._tx.execute(
            f"SELECT p.term, p.chunk_id, c.node_id FROM {WANTED} postings p ON p.term = wanted.value "
            "AND p.namespace_id = ? JOIN chunks c USING (chunk_id)",
            (wanted(term for total, term in rare if total <= MOST_ROUTED), row.namespace_id),
        )
        lists: dict[int, dict[int, int]] = {}
        for term, chunk_id, node_id in rows:
            lists.setdefault(term, {})[chunk_id] = node_id
        chunks: dict[int, int] = {}
        for total, term in rare:
            if len(chunks) + total > MOST_ROUTED:
                break
            chunks |= lists.get(term, {})
        return sorted(chunks.items())

    @cached_property
    def _settings(self) -> dict[str, Any]:
        return dict(self._tx.execute(f"SELECT key, value FROM meta WHERE key IN {_SETTINGS}"))


def rare_terms(known: Mapping[int, Frequency]) -> list[tuple[int, int]]:
    """Chunks that have it, and the term, of those that lead to chunks; the rarest first."""
    return sorted((term.total, name) for name, term in known.items() if term.posted)


def _batches(rowids: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(rowids), _READ_BATCH):
        yield rowids[start : start + _READ_BATCH]


class _Ended:
    """In place of the connection of a snapshot that is over."""

    def __getattr__(self, name: str) -> Any:
        raise ClosedError("this snapshot has ended: read within `with memory.snapshot() as snapshot:`")
