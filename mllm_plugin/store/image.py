"""All chunks of one namespace side by side in memory, for scans; an edit costs reading the changed blocks.

Built from the file when first needed and never written to disk, so there is nothing here to erase.
Shapes: n chunks, d dimensions, e term entries.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.config import LexicalConfig
from mllm_plugin.lexical import QueryTerms, TermCounts
from mllm_plugin.store.namespaces import NamespaceRow
from mllm_plugin.store.snapshot import Snapshot
from mllm_plugin.tree.node import Children

_MOST_PARTS = 8


@dataclass(frozen=True)
class ImagePart:
    """Blocks read at one time.

    Attributes:
        spans: First and last row of each node, with the write that it was read at.
        live: Chunks that are unmasked and whose block is current [n].
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
        """Chunks whose block is current, masked or not [n]."""
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
        blocks = [snapshot.children(node_id) for node_id in changed]
        kept.append(_part(changed, [current[node_id] for node_id in changed], blocks))
    return Image(row.version, tuple(kept))


def _rows(part: ImagePart) -> int:
    return sum(last - first for first, last, _ in part.spans.values())


def _part(nodes: Sequence[int], versions: Sequence[int], blocks: Sequence[Children]) -> ImagePart:
    bounds = np.concatenate([[0], np.cumsum([len(block) for block in blocks])]).tolist()
    spans = {
        node: (first, last, version)
        for node, version, first, last in zip(nodes, versions, bounds[:-1], bounds[1:], strict=True)
    }
    terms = TermCounts.concat([block.terms for block in blocks if block.terms is not None])
    order = np.argsort(terms.hashes, kind="stable")
    return ImagePart(
        spans=spans,
        ids=np.concatenate([block.ids for block in blocks]),
        vectors=np.concatenate([block.vectors[:, 0] for block in blocks]).astype(np.float32),
        live=np.concatenate([block.live for block in blocks]) > 0,
        lengths=terms.lengths,
        hashes=terms.hashes[order],
        counts=terms.counts[order],
        rows=terms.rows()[order],
    )
