"""The arrays of the search image for given vectors, for benchmarks of scale."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from vectors import Vectors

from mllm_plugin.config import TreeConfig
from mllm_plugin.encoders.base import unit
from mllm_plugin.image.space import Level, Space, arrange
from mllm_plugin.text.lexical import TermCounts
from mllm_plugin.tree.clustering import group, sums_of


def tree_levels(vectors: Vectors, config: TreeConfig) -> Iterator[tuple[Vectors, NDArray[np.int64]]]:
    """Every level from the chunks up, as `TreeEditor.regroup` forms it: embeddings and each one's parent."""
    level = 1
    while len(vectors) > config.target(level):
        labels = group(vectors, config.target(level), config.cap(level), config.floor(level), config.seed)
        yield vectors, labels
        vectors, level = unit(sums_of(vectors, labels)), level + 1
    yield vectors, np.zeros(len(vectors), np.int64)


def build_space(vectors: Vectors) -> Space:
    """The arrays of a memory of given vectors without texts."""
    levels, order = [], np.zeros(1, np.int64)
    for rows, parents in reversed(list(tree_levels(vectors, TreeConfig()))):
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        own = place[parents]
        order = np.argsort(own, kind="stable")
        if levels:
            levels[-1] = replace(levels[-1], sizes=np.bincount(own))
        many = len(rows)
        levels.append(
            Level(
                order, np.ones(many, np.int64), np.zeros(many, np.int64), rows[order], np.zeros(0, np.int64)
            )
        )
    many = np.zeros(len(vectors), np.uint32)
    return arrange(levels, TermCounts(many, many, many[:0], np.zeros(0, np.uint8)), 0)
