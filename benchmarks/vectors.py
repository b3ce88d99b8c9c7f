"""Vectors for benchmarks of scale: real ones, and mixtures of near neighbours that keep their clusters."""

from __future__ import annotations

from argparse import Namespace
from itertools import islice

import numpy as np
from beir import read_corpus, read_queries
from common import cached_encoder
from numpy.typing import NDArray

from mllm_plugin.encoders.base import unit

Vectors = NDArray[np.float32]
_NEAR = 16
_BLOCK = 2048
_WORDS = 48


def real_vectors(options: Namespace) -> tuple[Vectors, Vectors]:
    """Chunks [n, d] and questions [m, d]: read from files, or encoded by the default encoder and cached."""
    if options.vectors and options.questions:
        return unit(np.load(options.vectors)), unit(np.load(options.questions))
    encoder = cached_encoder(options.cache)
    cut = (
        " ".join(words[first : first + _WORDS])
        for name in options.sets
        for document in read_corpus(options.data / name)
        for words in [document.text.split()]
        for first in range(0, len(words), _WORDS)
    )
    texts = list(islice(cut, options.real))
    asked = [
        row["text"] for name in options.sets for row in read_queries(options.data / name, "dev").values()
    ]
    chosen = np.random.default_rng(0).permutation(len(asked))[: options.limit]
    return encoder.encode_documents(texts)[0], encoder.encode_queries([asked[row] for row in chosen])


def mixtures(real: Vectors, count: int, seed: int = 0) -> Vectors:
    """At least `count` vectors [count, d]: the real ones, then mixtures of near neighbours, shuffled.

    A mixture is a real vector a, moved up to 0.7 of the way to one of its 16 nearest, b, and by up to half of
    the difference of two others, c and d: so it varies along the directions in which real vectors vary there.
    """
    rng = np.random.default_rng(seed)
    near = _neighbours(real)
    made = np.empty((count, real.shape[1]), np.float32)
    made[: len(real)] = real[:count]
    for first in range(len(real), count, 1 << 16):
        size = min(1 << 16, count - first)
        rows = rng.integers(len(real), size=size)
        b, c, d = (near[rows, rng.integers(_NEAR, size=size)] for _ in range(3))
        far = rng.uniform(0, 0.7, (size, 1)).astype(np.float32)
        wide = rng.uniform(0, 0.5, (size, 1)).astype(np.float32)
        moved = real[rows] + far * (real[b] - real[rows]) + wide * (real[c] - real[d])
        made[first : first + size] = unit(moved)
    return made[rng.permutation(count)]


def exact_best(vectors: Vectors, queries: Vectors, k: int) -> NDArray[np.int64]:
    """The k best rows of each query [m, k], by inner product, in blocks."""
    scores = np.full((len(queries), k), -np.inf, np.float32)
    rows = np.zeros((len(queries), k), np.int64)
    for first in range(0, len(vectors), 1 << 16):
        found = queries @ vectors[first : first + (1 << 16)].T
        scores = np.concatenate([scores, found], axis=1)
        rows = np.concatenate(
            [rows, np.broadcast_to(np.arange(first, first + found.shape[1]), found.shape)], axis=1
        )
        best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        scores, rows = np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)
    return rows


def _neighbours(vectors: Vectors) -> NDArray[np.int64]:
    near = np.empty((len(vectors), _NEAR), np.int64)
    for first in range(0, len(vectors), _BLOCK):
        scores = vectors[first : first + _BLOCK] @ vectors.T
        scores[np.arange(len(scores)), np.arange(first, first + len(scores))] = -np.inf
        near[first : first + _BLOCK] = np.argpartition(-scores, _NEAR, axis=1)[:, :_NEAR]
    return near
