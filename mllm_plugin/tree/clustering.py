"""Groups unit vectors by similarity into groups of about a target size, sizes as they fall up to a cap.

Free sizes matter: equal ones put chunks where a walk does not look for them.
Shapes: n vectors, k groups, d dimensions.
"""

from __future__ import annotations

import numpy as np

from mllm_plugin.shapes import Float32, Int64

_ITERATIONS = 10
_DIRECT = 150_000_000  # most vector-centroid pairs compared per iteration before grouping in two stages
_BLOCK = 4096
_SAMPLE_PER_CENTROID = 256


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
    vectors: Float32[np.ndarray, "n d"], k: int, rng: np.random.Generator
) -> Int64[np.ndarray, " n"]:
    """Spherical k-means; in two stages where all pairs would be too many."""
    if len(vectors) * k <= _DIRECT:
        return _lloyd(vectors, k, rng)
    coarse_k = int(np.sqrt(k))
    sample = rng.choice(len(vectors), min(len(vectors), coarse_k * _SAMPLE_PER_CENTROID), replace=False)
    coarse = nearest(vectors, centroids_of(vectors[sample], coarse_k, rng))
    labels = np.empty(len(vectors), dtype=np.int64)
    used = 0
    for part in range(int(coarse.max()) + 1):
        rows = np.flatnonzero(coarse == part)
        if len(rows):
            labels[rows] = used + _cluster(vectors[rows], max(1, round(k * len(rows) / len(vectors))), rng)
            used = int(labels[rows].max()) + 1
    return labels


def _lloyd(vectors: Float32[np.ndarray, "n d"], k: int, rng: np.random.Generator) -> Int64[np.ndarray, " n"]:
    centroids = vectors[rng.choice(len(vectors), min(k, len(vectors)), replace=False)]
    labels = _compact(nearest(vectors, centroids))
    for _ in range(_ITERATIONS):
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
