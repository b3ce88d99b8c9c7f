r"""Vectors alone, as many as asked: the walk over the search image beside faiss, hnswlib and usearch.

    OMP_NUM_THREADS=1 python benchmarks/scale.py --data DIR --count 100000
    OMP_NUM_THREADS=1 python benchmarks/scale.py --vectors real.npy --questions asked.npy \
        --count 1000000 --only flat memory ivf

Real vectors as far as they go, then mixtures of near neighbours (`vectors.mixtures`); the questions are real.
One thread, one run. Recall is the share of the exact ten best among the ten that are returned. "Scored"
counts the embeddings compared with a query, nodes and centroids included.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
from common import DEFAULT_CACHE, machine, print_table
from numpy.typing import NDArray
from spaces import build_space
from vectors import Vectors, exact_best, mixtures, real_vectors

from mllm_plugin.image import Plan, nearest

_K = 10
_FINALISTS = 24
WIDTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256)
PROBES = (8, 16, 32, 64, 128, 256)
EFFORTS = (16, 32, 64, 128, 256)
RIVALS = ("flat", "memory", "ivf", "ivf-8bit", "ivf-fast-scan", "faiss-hnsw", "hnswlib", "usearch")
Search = Callable[[Vectors], tuple[NDArray[np.int64], float]]  # [b, d] to rows [b, k] and mean scored


@dataclass(frozen=True)
class Method:
    """A built index: how long that took, in wall and processor seconds, and its settings."""

    name: str
    seconds: tuple[float, float]
    settings: list[tuple[str, Search]]


def memory(vectors: Vectors) -> Method:
    """The walk, and its ten best of 24 finalists by their exact cosines."""
    space, seconds = timed(lambda: build_space(vectors))
    ids = space.chunk_ids

    def search(width: int | None) -> Search:
        def run(queries: Vectors) -> tuple[NDArray[np.int64], float]:
            rows, scored = nearest(space, queries[:, None], Plan(width), _K)
            return ids[np.array(rows)], float(scored.mean())

        return run

    settings = [(f"beam {width}", search(width)) for width in WIDTHS]
    return Method("memory", seconds, [*settings, ("scan", search(None))])


def ivf(vectors: Vectors, kind: str, lists: int) -> Method:
    """faiss IVF; fast-scan codes are rescored exactly, 24 finalists as the walk has."""
    dim = vectors.shape[1]
    names = {"ivf": "Flat", "ivf-8bit": "SQ8", "ivf-fast-scan": f"PQ{dim // 4}x4fs,RFlat"}
    index = faiss.index_factory(dim, f"IVF{lists},{names[kind]}", faiss.METRIC_INNER_PRODUCT)

    def build() -> None:
        index.train(vectors)
        index.add(vectors)

    _, seconds = timed(build)
    refined = kind == "ivf-fast-scan"
    inner = faiss.extract_index_ivf(index)
    sizes = np.array([inner.invlists.list_size(one) for one in range(lists)])

    def search(probes: int) -> Search:
        def run(queries: Vectors) -> tuple[NDArray[np.int64], float]:
            inner.nprobe = probes
            if refined:
                index.k_factor = _FINALISTS / _K
            return index.search(queries, _K)[1], np.nan

        return run

    def counted(probes: int) -> Search:
        run = search(probes)

        def count(queries: Vectors) -> tuple[NDArray[np.int64], float]:
            rows, _ = run(queries)
            if len(queries) == 1:
                return rows, np.nan
            nearest = inner.quantizer.search(queries, probes)[1]
            return rows, float(lists + sizes[nearest].sum(axis=1).mean())

        return count

    return Method(
        f"{kind} {lists}", seconds, [(f"nprobe {probe}", counted(probe)) for probe in PROBES if probe < lists]
    )


def faiss_hnsw(vectors: Vectors) -> Method:
    index = faiss.IndexHNSWFlat(vectors.shape[1], 16, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 100
    _, seconds = timed(lambda: index.add(vectors))

    def search(effort: int) -> Search:
        def run(queries: Vectors) -> tuple[NDArray[np.int64], float]:
            index.hnsw.efSearch = effort
            return index.search(queries, _K)[1], np.nan

        return run

    return Method("faiss HNSW M16", seconds, [(f"ef {one}", search(one)) for one in EFFORTS])


def hnswlib_index(vectors: Vectors) -> Method:
    import hnswlib

    index = hnswlib.Index("ip", vectors.shape[1])
    index.init_index(len(vectors), M=16, ef_construction=100)
    index.set_num_threads(1)
    _, seconds = timed(lambda: index.add_items(vectors))

    def search(effort: int) -> Search:
        def run(queries: Vectors) -> tuple[NDArray[np.int64], float]:
            index.set_ef(effort)
            return index.knn_query(queries, _K)[0].astype(np.int64), np.nan

        return run

    return Method("hnswlib M16", seconds, [(f"ef {one}", search(one)) for one in EFFORTS])


def usearch_index(vectors: Vectors) -> Method:
    from usearch.index import Index

    index = Index(ndim=vectors.shape[1], metric="ip", dtype="i8", connectivity=16, expansion_add=100)
    _, seconds = timed(lambda: index.add(np.arange(len(vectors)), vectors, threads=1))

    def search(effort: int) -> Search:
        def run(queries: Vectors) -> tuple[NDArray[np.int64], float]:
            index.expansion_search = effort
            return np.asarray(index.search(queries, _K, threads=1).keys, np.int64).reshape(-1, _K), np.nan

        return run

    return Method("usearch int8 M16", seconds, [(f"ef {one}", search(one)) for one in EFFORTS])


def flat(vectors: Vectors) -> Method:
    index = faiss.IndexFlatIP(vectors.shape[1])
    _, seconds = timed(lambda: index.add(vectors))
    return Method(
        "faiss flat", seconds, [("all", lambda queries: (index.search(queries, _K)[1], len(vectors)))]
    )


def methods(vectors: Vectors, options: argparse.Namespace) -> Iterator[Method]:
    """Each index in turn, so that only one is held at a time."""
    builders = {
        "flat": flat,
        "memory": memory,
        "faiss-hnsw": faiss_hnsw,
        "hnswlib": hnswlib_index,
        "usearch": usearch_index,
    }
    for name in options.only:
        yield builders[name](vectors) if name in builders else ivf(vectors, name, options.lists)


def timed(call: Callable[[], object]) -> tuple[object, tuple[float, float]]:
    wall, processor = time.perf_counter(), time.process_time()
    result = call()
    return result, (time.perf_counter() - wall, time.process_time() - processor)


def row(
    method: Method, setting: str, search: Search, queries: Vectors, truth: NDArray[np.int64], batched: bool
) -> list[str]:
    """Recall, share scored, times alone, time in one batch."""
    rows, scored = search(queries)
    recall = np.mean([len(set(a) & set(b)) for a, b in zip(rows.tolist(), truth.tolist(), strict=True)]) / _K
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
    taken.add_argument("--lists", type=int, default=1024)
    taken.add_argument("--only", nargs="+", choices=RIVALS, default=list(RIVALS))
    options = taken.parse_args()
    faiss.omp_set_num_threads(1)
    real, queries = real_vectors(options)
    vectors = mixtures(real, options.count)
    truth = exact_best(vectors, queries, _K)
    counts = f"{len(real)} real vectors, {len(vectors)} in all, {len(queries)} questions"
    print(f"On {machine()}, one thread; {counts}.\n")
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
