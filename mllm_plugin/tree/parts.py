"""Splits more vectors than memory holds into parts of similar ones, to be grouped one part at a time.

The vectors lie in blocks that are read one after another, as often as needed. Shapes: n vectors, b blocks,
k centroids, d dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mllm_plugin.shapes import Float32, Int64
from mllm_plugin.tree.clustering import centroids_of, nearest

_MOST_CENTROIDS = 64  # at once; what is then still too large is split again
_SAMPLE_PER_CENTROID = 256
_READ = 4096  # vectors compared at once
_SMALLEST = 8  # a part is at least this share of the mean one
Places = Int64[np.ndarray, " n"]
Read = Callable[[int], Float32[np.ndarray, "c d"]]


class Parts:
    """Parts of similar vectors, each of which is known by the places of its vectors among all.

    Args:
        sizes: How many vectors each block holds [b].
        read: Gives the vectors of a block; unit ones, or zero.
    """

    def __init__(self, sizes: Sequence[int], read: Read) -> None:
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self._read = read

    def of_at_most(self, most: int, seed: int = 0) -> Iterator[Places]:
        """Parts of at most so many vectors, and about half as many; similar parts follow each other.

        Args:
            most: Vectors in a part.
            seed: Of the samples.
        """
        rng = np.random.default_rng(seed)
        pending = [np.arange(self._starts[-1])]
        while pending:
            places = pending.pop()
            if len(places) > most:
                pending += self._split(places, most // 2, rng)
            else:
                yield places

    def rows(self, places: Places) -> Iterator[tuple[int, Int64[np.ndarray, " rows"]]]:
        """The blocks of ascending places, with the rows of each."""
        blocks = np.searchsorted(self._starts, places, side="right") - 1
        for own in np.split(np.arange(len(places)), np.flatnonzero(np.diff(blocks)) + 1):
            if len(own):
                block = int(blocks[own[0]])
                yield block, places[own] - self._starts[block]

    def _split(self, places: Places, mean: int, rng: np.random.Generator) -> list[Places]:
        """Two parts or more, of about `mean` if that makes few enough; even ones where all are alike."""
        wanted = min(_MOST_CENTROIDS, -(-len(places) // mean))
        drawn = rng.choice(places, min(len(places), wanted * _SAMPLE_PER_CENTROID), replace=False)
        sample = np.concatenate(list(self._vectors(np.sort(drawn))))
        labels = self._labels(places, centroids_of(sample, wanted, rng))
        used = np.unique(labels)
        if len(used) == 1:
            return np.array_split(places, wanted)
        return [places[labels == one] for one in used]

    def _labels(self, places: Places, centroids: Float32[np.ndarray, "k d"]) -> Int64[np.ndarray, " n"]:
        """The nearest centroid of each place; one that few are near to gets none."""
        labels = self._nearest(places, centroids)
        large = np.bincount(labels, minlength=len(centroids)) * _SMALLEST * len(centroids) >= len(places)
        moved = np.flatnonzero(~large[labels])
        labels[moved] = np.flatnonzero(large)[self._nearest(places[moved], centroids[large])]
        return labels

    def _nearest(self, places: Places, centroids: Float32[np.ndarray, "k d"]) -> Int64[np.ndarray, " n"]:
        found = [nearest(vectors, centroids) for vectors in self._vectors(places)]
        return np.concatenate([*found, np.zeros(0, dtype=np.int64)])

    def _vectors(self, places: Places) -> Iterator[Float32[np.ndarray, "some d"]]:
        """The vectors of ascending places, some at a time."""
        read: list[Float32[np.ndarray, "c d"]] = []
        for block, rows in self.rows(places):
            read.append(self._read(block)[rows])
            if sum(map(len, read)) >= _READ:
                yield np.concatenate(read)
                read = []
        if read:
            yield np.concatenate(read)
