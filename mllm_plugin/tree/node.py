"""A node and its embedding chunk: the children's embeddings with what the walk needs to know of them.

Shapes: c children, r vectors per embedding, d dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mllm_plugin.shapes import Bool, Float16, Float32, Int, Int64
from mllm_plugin.text.lexical import TermCounts


@dataclass(frozen=True)
class EmbeddingChunk:
    """The embedding chunk of one node, rows in ascending id order.

    Attributes:
        ids: Chunk ids under a level-2 node, node ids above [c].
        vectors: Embeddings [c, r, d].
        live: Unmasked chunks below each child [c]; 0 or 1 for a chunk.
        total: Chunks below each child [c].
        versions: Write that last changed each child's own embedding chunk [c]; 0 for a chunk.
        terms: Term counts of the chunks; None above level 2.
    """

    ids: Int64[np.ndarray, " c"]
    vectors: Float16[np.ndarray, "c r d"]
    live: Int64[np.ndarray, " c"]
    total: Int64[np.ndarray, " c"]
    versions: Int64[np.ndarray, " c"]
    terms: TermCounts | None

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of_chunks(
        cls,
        ids: Int64[np.ndarray, " c"],
        vectors: Float16[np.ndarray, "c r d"],
        live: Bool[np.ndarray, " c"],
        terms: TermCounts,
    ) -> EmbeddingChunk:
        """Chunks to be placed: ids [c], vectors [c, r, d], live [c]."""
        ones = np.ones(len(ids), dtype=np.int64)
        return cls(ids, vectors, live.astype(np.int64), ones, np.zeros(len(ids), dtype=np.int64), terms)

    def take(self, rows: Int[np.ndarray, " k"]) -> EmbeddingChunk:
        """Some of the rows, in the order asked."""
        return EmbeddingChunk(
            self.ids[rows],
            self.vectors[rows],
            self.live[rows],
            self.total[rows],
            self.versions[rows],
            None if self.terms is None else self.terms.take(rows),
        )

    def without(self, ids: Sequence[int] | Int64[np.ndarray, " k"]) -> EmbeddingChunk:
        """All rows but those of `ids`."""
        return self.take(np.flatnonzero(~np.isin(self.ids, np.asarray(ids, dtype=np.int64))))

    def joined(self, *others: EmbeddingChunk) -> EmbeddingChunk:
        """These rows and those of others, in ascending id order."""
        parts = (self, *others)
        merged = EmbeddingChunk(
            ids=np.concatenate([part.ids for part in parts]),
            vectors=np.concatenate([part.vectors for part in parts]),
            live=np.concatenate([part.live for part in parts]),
            total=np.concatenate([part.total for part in parts]),
            versions=np.concatenate([part.versions for part in parts]),
            terms=TermCounts.concat([part.terms for part in parts if part.terms]) if self.terms else None,
        )
        return merged.take(np.argsort(merged.ids, kind="stable"))

    def changed(
        self, row: int, *, vector: Float16[np.ndarray, "r d"], live: int, total: int, version: int
    ) -> EmbeddingChunk:
        """A copy with one child's embedding and counts replaced."""
        vectors, lives, totals, versions = (
            array.copy() for array in (self.vectors, self.live, self.total, self.versions)
        )
        vectors[row], lives[row], totals[row], versions[row] = vector, live, total, version
        return replace(self, vectors=vectors, live=lives, total=totals, versions=versions)

    @property
    def directions(self) -> Float32[np.ndarray, "c d"]:
        """One vector per child [c, d] for grouping: the first of each embedding."""
        return self.vectors[:, 0].astype(np.float32)


@dataclass
class Node:
    """A node of the tree while it is edited; `level` is its own, its children are one below."""

    node_id: int
    level: int
    parent_id: int | None
    children: EmbeddingChunk
