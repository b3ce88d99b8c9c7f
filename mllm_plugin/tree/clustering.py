"""Groups unit vectors by similarity into groups of about a target size, sizes as they fall up to a cap.

Free sizes matter: equal ones put chunks where a walk does not look for them. More vectors than memory holds
are first split into parts of similar ones, to be grouped one part at a time.

Shapes: n vectors, k groups or centroids, b blocks, d dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mllm_plugin.shapes import Float32, Int64

_ITERATIONS = 10
_MANY = 4_000_000_000  # pairs, of a quarter of a million chunks, from which on time counts for more
_OF_MANY = 6  # iterations then: the last ones move few vectors (docs/performance.md, Tried)
_DIRECT = 150_000_000  # most vector-centroid pairs compared per iteration before grouping in two stages
_BLOCK = 4096
_SAMPLE_PER_CENTROID = 256
_MOST_CENTROIDS = 64  # of parts at once; what is then still too large is split again
_READ = 4096  # vectors compared at once
_SMALLEST = 8  # a part is at least this share of the mean one
Places = Int64[np.ndarray, " n"]
Read = Callable[[int], Float32[np.ndarray, "c d"]]


def group(
    vectors: Float32[np.ndarray, "n d"], target: int, cap: int, floor: int, seed: int = 0
) -> Int64[np.ndarray, " n"]:
    """Assigns each vector [n, d] to a group [n].

    Args:
        vectors: Unit vectors; zero ones go anywhere.
        target: Wanted mean size.
        cap: Most members of a group.
        floor: Groups smaller than this are dissolved into their neighbours.
        seed: Of the initial centroids.

    Returns:
        Labels 0 … k - 1, every one used; at least two groups when n > target.
    """
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    count = len(vectors)
    if count <= target:
        return np.zeros(count, dtype=np.int64)
    rng = np.random.default_rng(seed)
    labels = _cluster(vectors, max(2, -(-count // target)), rng)
    labels = _dissolve_small(vectors, labels, floor)
    labels = _compact(_split_large(vectors, labels, target, cap, floor, rng))
    sizes = np.bincount(labels)
    if count > cap and sizes.min() < floor:
        return _halved(vectors, cap)
    return labels if len(sizes) > 1 else _halves(vectors)


def nearest(
    vectors: Float32[np.ndarray, "n d"], centroids: Float32[np.ndarray, "k d"]
) -> Int64[np.ndarray, " n"]:
    """Index of the most similar centroid for each vector [n]."""
    labels = np.empty(len(vectors), dtype=np.int64)
    for start in range(0, len(vectors), _BLOCK):
        labels[start : start + _BLOCK] = (vectors[start : start + _BLOCK] @ centroids.T).argmax(axis=1)
    return labels


def centroids_of(
    vectors: Float32[np.ndarray, "n d"], k: int, rng: np.random.Generator
) -> Float32[np.ndarray, "k d"]:
    """Normalised means of at most k groups of similar vectors [n, d]."""
    return _centroids(vectors, _lloyd(vectors, k, rng))


def _cluster(
    vectors: Float32[np.ndarray, "n d"], k: int, rng: np.random.Generator, iterations: int = _ITERATIONS
) -> Int64[np.ndarray, " n"]:
    """Spherical k-means; in two stages where all pairs would be too many."""
    if len(vectors) * k <= _DIRECT:
        return _lloyd(vectors, k, rng, iterations)
    coarse_k = int(np.sqrt(k))
    sample = rng.choice(len(vectors), min(len(vectors), coarse_k * _SAMPLE_PER_CENTROID), replace=False)
    coarse = nearest(vectors, centroids_of(vectors[sample], coarse_k, rng))
    labels = np.empty(len(vectors), dtype=np.int64)
    used, iterations = 0, _OF_MANY if len(vectors) * k > _MANY else iterations
    for part in range(int(coarse.max()) + 1):
        rows = np.flatnonzero(coarse == part)
        if len(rows):
            many = max(1, round(k * len(rows) / len(vectors)))
            labels[rows] = used + _cluster(vectors[rows], many, rng, iterations)
            used = int(labels[rows].max()) + 1
    return labels


def _lloyd(
    vectors: Float32[np.ndarray, "n d"], k: int, rng: np.random.Generator, iterations: int = _ITERATIONS
) -> Int64[np.ndarray, " n"]:
    centroids = vectors[rng.choice(len(vectors), min(k, len(vectors)), replace=False)]
    labels = _compact(nearest(vectors, centroids))
    for _ in range(iterations):
        centroids = _centroids(vectors, labels)
        moved = nearest(vectors, centroids)
        if np.array_equal(moved, labels):
            break
        labels = _compact(moved)
    return labels


def _centroids(
    vectors: Float32[np.ndarray, "n d"], labels: Int64[np.ndarray, " n"]
) -> Float32[np.ndarray, "k d"]:
    """Normalised means [k, d] of groups labelled 0 … k - 1."""
    sums = sums_of(vectors, labels)
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    return (sums / np.where(norms > 0, norms, 1.0)).astype(np.float32)


def sums_of(
    vectors: Float32[np.ndarray, "n d"], labels: Int64[np.ndarray, " n"]
) -> Float32[np.ndarray, "k d"]:
    """Sums [k, d] of groups labelled 0 … k - 1."""
    order, ends = np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels)).tolist()
    sums = np.empty((len(ends), vectors.shape[1]), dtype=np.float32)
    for start, end, own in zip([0, *ends], ends, sums, strict=False):
        np.add.reduce(
            vectors.take(order[start:end], axis=0), axis=0, out=own
        )  # `reduceat`: five times as long
    return sums


def _dissolve_small(
    vectors: Float32[np.ndarray, "n d"], labels: Int64[np.ndarray, " n"], floor: int
) -> Int64[np.ndarray, " n"]:
    labels = _compact(labels)
    sizes = np.bincount(labels)
    small = sizes < floor
    if not small.any() or (~small).sum() < 2:
        return labels
    homeless = small[labels]
    kept = np.flatnonzero(~small)
    labels = labels.copy()
    labels[homeless] = kept[nearest(vectors[homeless], _centroids(vectors, labels)[kept])]
    return labels


def _split_large(
    vectors: Float32[np.ndarray, "n d"],
    labels: Int64[np.ndarray, " n"],
    target: int,
    cap: int,
    floor: int,
    rng: np.random.Generator,
) -> Int64[np.ndarray, " n"]:
    labels = _compact(labels)
    pending = list(np.flatnonzero(np.bincount(labels) > cap))
    used = int(labels.max()) + 1
    while pending:
        rows = np.flatnonzero(labels == pending.pop())
        parts = _dissolve_small(
            vectors[rows], _cluster(vectors[rows], max(2, len(rows) // target), rng), floor
        )
        parts = _compact(parts)
        sizes = np.bincount(parts)
        if len(sizes) == 1 or sizes.min() < floor:  # or the same group would be dissolved and split for ever
            parts = _halves(vectors[rows])
        labels[rows] = used + parts
        pending += [used + part for part in np.flatnonzero(np.bincount(parts) > cap)]
        used += int(parts.max()) + 1
    return labels


def _halves(vectors: Float32[np.ndarray, "n d"]) -> Int64[np.ndarray, " n"]:
    """Two equal parts along the direction of the vector farthest from the mean: for look-alikes."""
    mean = vectors.mean(axis=0)
    far = vectors[(vectors @ mean).argmin()] - mean
    order = np.argsort(vectors @ far, kind="stable")
    labels = np.zeros(len(vectors), dtype=np.int64)
    labels[order[len(order) // 2 :]] = 1
    return labels


def _halved(vectors: Float32[np.ndarray, "n d"], cap: int) -> Int64[np.ndarray, " n"]:
    """Halves of halves until each has at most `cap` members: for groups too small to be grouped well."""
    if len(vectors) <= cap:
        return np.zeros(len(vectors), dtype=np.int64)
    labels = _halves(vectors)
    for half in (0, 1):
        rows = np.flatnonzero(labels == half)
        labels[rows] = 2 * len(vectors) * half + _halved(vectors[rows], cap)
    return _compact(labels)


def _compact(labels: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Renames labels to 0 … k - 1 without gaps."""
    return np.unique(labels, return_inverse=True)[1].reshape(-1).astype(np.int64)


class Parts:
    """Parts of similar vectors, each of which is known by the places of its vectors among all.

    The vectors lie in blocks that are read one after another, as often as needed.

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
