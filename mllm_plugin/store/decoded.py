"""What is read of the file and kept in memory, decoded: the hierarchy, embedding chunks, whole namespaces.

Nothing here is written to disk, so there is nothing to erase, and nothing is stale: another process may
install another hierarchy at any time, so it is named by its fingerprint. An embedding chunk is named by its
node and the write that last changed it; the parent's embedding chunk carries that number, so a walk that
starts at the root of its snapshot finds exactly the embedding chunks of that snapshot. An image of a
namespace has all of its chunks side by side, for scans; an edit costs reading what it changed.

Shapes: n chunks, d dimensions, e term entries.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import apsw
import numpy as np
from numpy.typing import NDArray

from mllm_plugin.config import LeafConfig, LexicalConfig
from mllm_plugin.errors import InvalidInputError
from mllm_plugin.hierarchy import IDENTITY, Hierarchy, LeafRanker, parse_weights
from mllm_plugin.lru import LRU
from mllm_plugin.store.codec import vector_of
from mllm_plugin.store.namespaces import NamespaceRow
from mllm_plugin.store.snapshot import Snapshot
from mllm_plugin.text.lexical import QueryTerms, TermCounts
from mllm_plugin.tree.node import EmbeddingChunk

HIERARCHY = "hierarchy"  # the setting that names it
_MOST_PARTS = 8  # of an image


class HierarchyInUse:
    """Follows the hierarchy of one file, since another process may install another at any time."""

    def __init__(self, leaf: LeafConfig) -> None:
        self._leaf = leaf
        self._known: dict[str, Hierarchy] = {}

    def announce(self, hierarchy: Hierarchy) -> None:
        """Makes a hierarchy known that the caller has, or that a transaction is about to record."""
        self._known[hierarchy.fingerprint] = hierarchy

    def of(self, tx: apsw.Connection, stored: str | None = None) -> Hierarchy:
        """The hierarchy of a transaction's snapshot.

        Args:
            tx: Where to read.
            stored: Its fingerprint, where that is known.

        Raises:
            InvalidInputError: It was given as objects that this process does not have.
        """
        stored = stored or stored_fingerprint(tx)
        if stored not in self._known:
            self._known[stored] = load_hierarchy(tx, stored, self._leaf)
        return self._known[stored]


def stored_fingerprint(tx: apsw.Connection) -> str:
    """Names the hierarchy that the nodes were folded with."""
    return tx.execute("SELECT value FROM meta WHERE key = ?", (HIERARCHY,)).get


def load_hierarchy(tx: apsw.Connection, fingerprint: str, leaf: LeafConfig) -> Hierarchy:
    """Builds a stored hierarchy.

    Raises:
        InvalidInputError: The file does not hold its weights, holds modules of your own classes, or weights
            that are damaged or of another width; `install("identity")` works without them.
    """
    if fingerprint == IDENTITY:
        return Hierarchy(leaf_ranker=LeafRanker(leaf))
    row = tx.execute("SELECT config, tensors FROM weights WHERE fingerprint = ?", (fingerprint,)).get
    if row is None:
        raise InvalidInputError(
            f"the nodes of this memory were folded by hierarchy {fingerprint!r}, which it does not hold; "
            f"open it with MemoryIndex.open(…, hierarchy=…), or install another"
        )
    config, tensors = row
    hierarchy = Hierarchy.from_weights(parse_weights(config, tensors, "the memory"), leaf=leaf)
    hierarchy.check(tx.execute("SELECT value FROM meta WHERE key = 'dim'").get)
    return hierarchy


class NodeRef(NamedTuple):
    """A node as of one write."""

    node_id: int
    version: int


@dataclass(frozen=True)
class CachedChunk:
    """An embedding chunk ready to be scored; see `EmbeddingChunk` for the fields."""

    ids: NDArray[np.int64]
    vectors: NDArray[np.float32]
    live: NDArray[np.int64]
    versions: NDArray[np.int64]
    terms: TermCounts | None

    def vector(self, child_id: int) -> NDArray[np.float32]:
        """The embedding of one child [r, d]."""
        return vector_of(self.ids, self.vectors, child_id)

    @property
    def nbytes(self) -> int:
        """Memory that the arrays take."""
        terms = self.terms.hashes.nbytes * 2 if self.terms is not None else 0
        return self.vectors.nbytes + self.ids.nbytes * 3 + terms + 500


def load_embedding_chunk(snapshot: Snapshot, node_id: int) -> CachedChunk:
    """Reads and decodes the embedding chunk of a node."""
    children = snapshot.children(node_id)
    vectors = children.vectors.astype(np.float32)
    return CachedChunk(children.ids, vectors, children.live, children.versions, children.terms)


class EmbeddingChunkCache:
    """Least recently used embedding chunks, at most `capacity` bytes."""

    def __init__(self, capacity: int) -> None:
        self._embedding_chunks: LRU[tuple[int, int], CachedChunk] = LRU(capacity)

    def get(self, snapshot: Snapshot, node_id: int, version: int) -> CachedChunk:
        """The embedding chunk of a node as of a write, from memory or from the file."""
        children = self._embedding_chunks.get((node_id, version))
        if children is None:
            children = load_embedding_chunk(snapshot, node_id)
            self._embedding_chunks.put((node_id, version), children, children.nbytes)
        return children


@dataclass(frozen=True)
class ImagePart:
    """Blocks read at one time.

    Attributes:
        spans: First and last row of each node, with the write that it was read at.
        live: Chunks that are unmasked and whose embedding chunk is current [n].
        order: Term entries in order of their hash [e]; `hashes` and `rows` are in that order.
    """

    spans: Mapping[int, tuple[int, int, int]]
    ids: NDArray[np.int64]
    vectors: NDArray[np.float32]
    live: NDArray[np.bool_]
    lengths: NDArray[np.uint32]
    hashes: NDArray[np.uint32]
    counts: NDArray[np.uint8]
    rows: NDArray[np.int64]

    def lexical(self, query: QueryTerms, config: LexicalConfig) -> NDArray[np.float64]:
        """BM25 over its bound [n], touching only the entries of the query's terms."""
        first = np.searchsorted(self.hashes, query.hashes, side="left")
        last = np.searchsorted(self.hashes, query.hashes, side="right")
        found = [(self.rows[a:b], self.counts[a:b]) for a, b in zip(first, last, strict=True)]
        return query.score(found, self.lengths, config)

    def current(self) -> NDArray[np.bool_]:
        """Chunks whose embedding chunk is current, masked or not [n]."""
        found = np.zeros(len(self.ids), dtype=np.bool_)
        for first, last, _ in self.spans.values():
            found[first:last] = True
        return found

    def without(self, nodes: set[int]) -> ImagePart:
        """The same part with the rows of some nodes dead."""
        live = self.live.copy()
        for node_id in nodes:
            first, last, _ = self.spans[node_id]
            live[first:last] = False
        spans = {node_id: span for node_id, span in self.spans.items() if node_id not in nodes}
        return ImagePart(
            spans, self.ids, self.vectors, live, self.lengths, self.hashes, self.counts, self.rows
        )

    @property
    def nbytes(self) -> int:
        """Memory that the arrays take."""
        return (
            self.vectors.nbytes + self.ids.nbytes + self.hashes.nbytes + self.counts.nbytes + self.rows.nbytes
        )


@dataclass(frozen=True)
class Image:
    """A namespace's chunks as of one write."""

    version: int
    parts: tuple[ImagePart, ...]

    @property
    def nbytes(self) -> int:
        """Memory that the parts take."""
        return sum(part.nbytes for part in self.parts)


class ImageCache:
    """The images last used, at most `capacity` bytes; the one in use is kept whole."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._images: OrderedDict[int, Image] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, snapshot: Snapshot, row: NamespaceRow) -> Image:
        """The image of a namespace as of a snapshot."""
        with self._lock:
            previous = self._images.get(row.namespace_id)
            if previous is not None and previous.version == row.version:
                self._images.move_to_end(row.namespace_id)
                return previous
        image = build_image(snapshot, row, previous)
        with self._lock:
            replaced = self._images.pop(row.namespace_id, None)
            self._bytes += image.nbytes - (replaced.nbytes if replaced else 0)
            self._images[row.namespace_id] = image
            while self._bytes > self._capacity and len(self._images) > 1:
                self._bytes -= self._images.popitem(last=False)[1].nbytes
        return image


def build_image(snapshot: Snapshot, row: NamespaceRow, previous: Image | None = None) -> Image:
    """Reads a namespace's chunks, taking from `previous` what has not changed since."""
    current = snapshot.lowest_nodes(row.namespace_id)
    kept: list[ImagePart] = []
    known: dict[int, int] = {}
    for part in previous.parts if previous else ():
        stale = {
            node for node, (_, _, seen) in part.spans.items() if current.get(node) != seen or node in known
        }
        known.update((node, span[2]) for node, span in part.spans.items() if node not in stale)
        kept.append(part.without(stale) if stale else part)
    changed = [node_id for node_id in current if node_id not in known]
    if len(kept) >= _MOST_PARTS:  # the small parts become one; the largest is kept as it is
        kept = [max(kept, key=_rows)]
        changed = [node_id for node_id in current if node_id not in kept[0].spans]
    if sum(len(part.ids) for part in kept) > 2 * sum(map(_rows, kept)):
        kept, changed = [], list(current)
    if changed:
        embedding_chunks = [snapshot.children(node_id) for node_id in changed]
        kept.append(_part(changed, [current[node_id] for node_id in changed], embedding_chunks))
    return Image(row.version, tuple(kept))


def _rows(part: ImagePart) -> int:
    return sum(last - first for first, last, _ in part.spans.values())


def _part(
    nodes: Sequence[int], versions: Sequence[int], embedding_chunks: Sequence[EmbeddingChunk]
) -> ImagePart:
    bounds = np.concatenate([[0], np.cumsum([len(children) for children in embedding_chunks])]).tolist()
    spans = {
        node: (first, last, version)
        for node, version, first, last in zip(nodes, versions, bounds[:-1], bounds[1:], strict=True)
    }
    terms = TermCounts.concat([children.terms for children in embedding_chunks if children.terms is not None])
    order = np.argsort(terms.hashes, kind="stable")
    return ImagePart(
        spans=spans,
        ids=np.concatenate([children.ids for children in embedding_chunks]),
        vectors=np.concatenate([children.vectors[:, 0] for children in embedding_chunks]).astype(np.float32),
        live=np.concatenate([children.live for children in embedding_chunks]) > 0,
        lengths=terms.lengths,
        hashes=terms.hashes[order],
        counts=terms.counts[order],
        rows=terms.rows()[order],
    )
