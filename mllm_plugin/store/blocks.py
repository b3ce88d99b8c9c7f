"""Decoded embedding chunks in memory: bounded, shared by threads, never stale.

A block is named by its node and the write that last changed it; the parent's block carries that number, so a
walk that starts at the root of its snapshot finds exactly the blocks of that snapshot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.lexical import TermCounts
from mllm_plugin.lru import LRU
from mllm_plugin.store.codec import vector_of
from mllm_plugin.store.snapshot import Snapshot


class NodeRef(NamedTuple):
    """A node as of one write."""

    node_id: int
    version: int


@dataclass(frozen=True)
class Block:
    """An embedding chunk ready to be scored; see `Children` for the fields."""

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


def load_block(snapshot: Snapshot, node_id: int) -> Block:
    """Reads and decodes the embedding chunk of a node."""
    children = snapshot.children(node_id)
    vectors = children.vectors.astype(np.float32)
    return Block(children.ids, vectors, children.live, children.versions, children.terms)


class BlockCache:
    """Least recently used blocks, at most `capacity` bytes."""

    def __init__(self, capacity: int) -> None:
        self._blocks: LRU[tuple[int, int], Block] = LRU(capacity)

    def get(self, snapshot: Snapshot, node_id: int, version: int) -> Block:
        """The block of a node as of a write, from memory or from the file."""
        block = self._blocks.get((node_id, version))
        if block is None:
            block = load_block(snapshot, node_id)
            self._blocks.put((node_id, version), block, block.nbytes)
        return block

    def clear(self) -> None:
        """Forgets every block."""
        self._blocks.clear()
