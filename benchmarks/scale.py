r"""Vectors alone, as many as asked: the walk over the search image beside faiss, hnswlib, usearch and others.

    OMP_NUM_THREADS=1 python benchmarks/scale.py --data DIR --count 100000
    OMP_NUM_THREADS=1 python benchmarks/scale.py --vectors real.npy --questions asked.npy \
        --count 1000000 --only flat memory ivf
    OMP_NUM_THREADS=1 python benchmarks/scale.py … --only memory hnswlib scann chroma lancedb

Real vectors as far as they go, then mixtures of near neighbours (`vectors.mixtures`); the questions are real.
One run, and one thread unless `--threads` and OMP_NUM_THREADS say more. Recall is the share of the exact ten
best among the ten that are returned. "Scored" counts the embeddings compared with a query, nodes
and centroids included.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from common import DEFAULT_CACHE, machine, print_table
from indexes import (
    K,
    Method,
    Search,
    Shape,
    chroma,
    faiss_hnsw,
    flat,
    hnswlib_index,
    ivf,
    lancedb_index,
    memory,
    scann_index,
    timed,
    usearch_index,
)
from numpy.typing import NDArray
from vectors import Vectors, exact_best, mixtures, real_vectors

_INDEXES = {
    "flat": flat,
    "memory": memory,
    "faiss-hnsw": faiss_hnsw,
    "hnswlib": hnswlib_index,
    "usearch": usearch_index,
    "chroma": chroma,
    "scann": scann_index,
    "lancedb": lancedb_index,
}
RIVALS = ("flat", "memory", "ivf", "ivf-8bit", "ivf-fast-scan", "faiss-hnsw", "hnswlib", "usearch")
OTHERS = ("scann", "chroma", "lancedb")  # where they are installed


def methods(vectors: Vectors, options: argparse.Namespace) -> Iterator[Method]:
    """Each index in turn, so that only one is held at a time."""
    shape = Shape(options.lists, options.edges, options.finalists, options.threads)
    for name in options.only:
        yield _INDEXES[name](vectors, shape) if name in _INDEXES else ivf(vectors, shape, name)


def row(
    method: Method, setting: str, search: Search, queries: Vectors, truth: NDArray[np.int64], batched: bool
) -> list[str]:
    """Recall, share scored, times alone, time in one batch."""
    rows, scored = search(queries)
    recall = np.mean([len(set(a) & set(b)) for a, b in zip(rows.tolist(), truth.tolist(), strict=True)]) / K
    took = []
    for query in queries:
        started = time.perf_counter()
        search(query[None])
        took.append(1000 * (time.perf_counter() - started))
    batch = ""
    if batched:
        many = np.resize(queries, (256, queries.shape[1]))
        batch = f"{1000 * timed(lambda: search(many))[1][0] / 256:.3f}"
    quantiles = [f"{value:.3f}" for value in np.quantile(took, [0.5, 0.95, 0.99])]
    share = "" if np.isnan(scored) else f"{scored:.0f}"
    return [method.name, setting, f"{recall:.4f}", share, *quantiles, batch]


def arguments(description: str) -> argparse.ArgumentParser:
    """What says which vectors are measured."""
    found = argparse.ArgumentParser(description=description)
    found.add_argument("--data", type=Path, help="folder of BEIR-shaped folders")
    found.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    found.add_argument("--sets", nargs="+", default=["squad", "scifact", "medquad", "cuad"])
    found.add_argument("--vectors", help="real vectors [n, d] in place of --data")
    found.add_argument("--questions", help="real questions [m, d] in place of --data")
    found.add_argument("--real", type=int, default=35_000, help="chunks encoded at most")
    found.add_argument("--limit", type=int, default=300, help="questions at most")
    found.add_argument("--count", type=int, default=100_000)
    return found


def main() -> None:
    taken = arguments((__doc__ or "").splitlines()[0])
    taken.add_argument("--lists", type=int, default=1024, help="of indexes that have lists")
    taken.add_argument("--edges", type=int, default=16, help="per vector, of graphs")
    taken.add_argument("--finalists", type=int, default=24, help="compared exactly by ScaNN and fast-scan")
    taken.add_argument("--threads", type=int, default=1, help="that build and search")
    taken.add_argument("--only", nargs="+", choices=(*RIVALS, *OTHERS), default=list(RIVALS))
    options = taken.parse_args()
    real, queries = real_vectors(options)
    vectors = mixtures(real, options.count)
    truth = exact_best(vectors, queries, K)
    counts = f"{len(real)} real vectors, {len(vectors)} in all, {len(queries)} questions"
    print(f"On {machine()}, {options.threads} threads; {counts}.\n")
    built = []

    def rows() -> Iterator[list[str]]:
        for method in methods(vectors, options):
            built.append([method.name, *(f"{second:.1f}" for second in method.seconds)])
            yield from (
                row(method, *setting, queries, truth, setting[0] != "scan") for setting in method.settings
            )

    header = ["", "setting", "recall@10", "scored", "p50 ms", "p95 ms", "p99 ms", "of 256, ms/query"]
    print_table(header, rows())
    print()
    print_table(["built", "seconds", "processor seconds"], built)


if __name__ == "__main__":
    main()
