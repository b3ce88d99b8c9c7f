"""Decoded embedding chunks in memory: bounded, shared by threads, never stale.

Each is named by its node and the write that last changed it; the parent's embedding chunk carries that
number, so a walk that starts at the root of its snapshot finds exactly the embedding chunks of that snapshot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.lru import LRU
from mllm_plugin.store.codec import vector_of
from mllm_plugin.store.snapshot import Snapshot
from mllm_plugin.text.lexical import TermCounts


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
