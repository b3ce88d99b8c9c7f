"""Groupings to train on: trees over random parts of the chunks, drawn again and again.

A level encoder that always sees the same groups memorises them; new groups every few steps teach it to fold
any group. Shapes: n chunks or children, g nodes, d dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mllm_plugin.config import TreeConfig
from mllm_plugin.shapes import Float32, Int64
from mllm_plugin.tree.clustering import group
from mllm_plugin.tree.editor import LOWEST_LEVEL


@dataclass(frozen=True)
class Grouping:
    """A tree without vectors.

    Attributes:
        rows: The chunks in it, as rows of the training set [n].
        parents: For each level from the chunks up, the node of the next level that holds each embedding.
    """

    rows: Int64[np.ndarray, " n"]
    parents: tuple[Int64[np.ndarray, " _"], ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Nodes per level, from level 2 up."""
        return tuple(int(parent.max()) + 1 for parent in self.parents)

    @property
    def levels(self) -> tuple[int, ...]:
        """The levels that have nodes, from 2 up."""
        return tuple(range(LOWEST_LEVEL, LOWEST_LEVEL + len(self.parents)))

    def ancestors(self, chunks: Int64[np.ndarray, "*m"], level: int) -> Int64[np.ndarray, "*m"]:
        """The nodes of `level` above chunks, given as places in `rows`; -1 stays -1."""
        nodes = chunks
        for parent in self.parents[: level - 1]:
            nodes = np.where(nodes >= 0, parent[nodes], -1)
        return nodes


def draw_grouping(
    leaves: Float32[np.ndarray, "n d"], tree: TreeConfig, *, most: int, rng: np.random.Generator
) -> Grouping:
    """Groups a random part of the chunks as a memory would.

    Args:
        leaves: Chunk embeddings [n, d] of unit length.
        tree: Group sizes.
        most: Chunks to take.
        rng: Chooses the chunks and the first centroids.
    """
    rows = np.sort(rng.choice(len(leaves), min(most, len(leaves)), replace=False))
    embeddings, level, parents = leaves[rows], 1, []
    while level == 1 or len(embeddings) > tree.target(level):
        if len(embeddings) <= tree.target(level):
            parents.append(np.zeros(len(embeddings), dtype=np.int64))
            break
        seed = int(rng.integers(2**31))
        parents.append(group(embeddings, tree.target(level), tree.cap(level), tree.floor(level), seed))
        embeddings = node_means(embeddings, parents[-1])
        level += 1
    return Grouping(rows, tuple(parents))


def node_means(
    embeddings: Float32[np.ndarray, "n d"], parent: Int64[np.ndarray, " n"]
) -> Float32[np.ndarray, "g d"]:
    """Normalised mean of the embeddings below each node."""
    sums = np.zeros((int(parent.max()) + 1, embeddings.shape[1]), dtype=np.float32)
    np.add.at(sums, parent, embeddings)
    return sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
