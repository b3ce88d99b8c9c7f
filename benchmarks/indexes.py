"""Indexes of vectors for benchmarks of scale: this memory's walk, and rivals, each loaded when asked for.

All compare inner products and return the ten best.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
from numpy.typing import NDArray
from spaces import build_space
from vectors import Vectors

from mllm_plugin.image import Plan, nearest

K = 10
_BUILDING = 100  # neighbours that are looked at to choose the edges of a vector
WIDTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
PROBES = (8, 16, 32, 64, 128, 256)
EFFORTS = (16, 32, 64, 128, 256, 512, 1024)
Search = Callable[[Vectors], tuple[NDArray[np.int64], float]]  # [b, d] to rows [b, k] and mean scored


@dataclass(frozen=True)
class Shape:
    """What indexes are asked to be.

    Attributes:
        lists: Of those that have lists.
        edges: Per vector, of graphs.
        finalists: Compared exactly by those that search codes of a few bits.
        threads: That build and search.
    """

    lists: int = 1024
    edges: int = 16
    finalists: int = 24
    threads: int = 1


@dataclass(frozen=True)
class Method:
    """A built index: how long that took, in wall and processor seconds, and its settings."""

    name: str
    seconds: tuple[float, float]
    settings: list[tuple[str, Search]]


def memory(vectors: Vectors, shape: Shape) -> Method:
    """The walk, and its ten best of 24 finalists by their exact cosines; a thread takes a part of a batch."""
    space, seconds = timed(lambda: build_space(vectors))
    ids, pool = space.chunk_ids, ThreadPoolExecutor(shape.threads)

    def search(width: int | None) -> Search:
        def part(queries: Vectors) -> tuple[NDArray[np.int64], float]:
            rows, scored = nearest(space, queries[:, None], Plan(width), K)
            return ids[np.array(rows)], float(scored.mean())

        def run(queries: Vectors) -> tuple[NDArray[np.int64], float]:
            if len(queries) < shape.threads or shape.threads == 1:
                return part(queries)
            rows, scored = zip(*pool.map(part, np.array_split(queries, shape.threads)), strict=True)
            return np.concatenate(rows), float(np.mean(scored))

        return run

    settings = [(f"beam {width}", search(width)) for width in WIDTHS]
    return Method("memory", seconds, [*settings, ("scan", search(None))])


def ivf(vectors: Vectors, shape: Shape, kind: str) -> Method:
    """faiss IVF; fast-scan codes are rescored exactly, as many finalists as the walk has."""
    import faiss

    faiss.omp_set_num_threads(shape.threads)
    dim, lists = vectors.shape[1], shape.lists
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
                index.k_factor = shape.finalists / K
            return index.search(queries, K)[1], np.nan

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


def faiss_hnsw(vectors: Vectors, shape: Shape) -> Method:
    """faiss's graph."""
    import faiss

    faiss.omp_set_num_threads(shape.threads)
    index = faiss.IndexHNSWFlat(vectors.shape[1], shape.edges, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = _BUILDING
    _, seconds = timed(lambda: index.add(vectors))

    def search(effort: int) -> Search:
        def run(queries: Vectors) -> tuple[NDArray[np.int64], float]:
            index.hnsw.efSearch = effort
            return index.search(queries, K)[1], np.nan

        return run

    return Method(f"faiss HNSW M{shape.edges}", seconds, [(f"ef {one}", search(one)) for one in EFFORTS])


def hnswlib_index(vectors: Vectors, shape: Shape) -> Method:
    """hnswlib's graph."""
    import hnswlib

    index = hnswlib.Index("ip", vectors.shape[1])
    index.init_index(len(vectors), M=shape.edges, ef_construction=_BUILDING)
    index.set_num_threads(shape.threads)
    _, seconds = timed(lambda: index.add_items(vectors))

    def search(effort: int) -> Search:
        def run(queries: Vectors) -> tuple[NDArray[np.int64], float]:
            index.set_ef(effort)
            return index.knn_query(queries, K)[0].astype(np.int64), np.nan

        return run

    return Method(f"hnswlib M{shape.edges}", seconds, [(f"ef {one}", search(one)) for one in EFFORTS])


def usearch_index(vectors: Vectors, shape: Shape) -> Method:
    """usearch's graph, over 8 bits."""
    from usearch.index import Index

    index = Index(
        ndim=vectors.shape[1],
        metric="ip",
        dtype="i8",
        connectivity=shape.edges,
        expansion_add=_BUILDING,
    )
    _, seconds = timed(lambda: index.add(np.arange(len(vectors)), vectors, threads=shape.threads))

    def search(effort: int) -> Search:
        def run(queries: Vectors) -> tuple[NDArray[np.int64], float]:
            index.expansion_search = effort
            found = index.search(queries, K, threads=shape.threads).keys
            return np.asarray(found, np.int64).reshape(-1, K), np.nan

        return run

    return Method(f"usearch int8 M{shape.edges}", seconds, [(f"ef {one}", search(one)) for one in EFFORTS])


def flat(vectors: Vectors, shape: Shape) -> Method:
    """All of them."""
    import faiss

    faiss.omp_set_num_threads(shape.threads)
    index = faiss.IndexFlatIP(vectors.shape[1])
    _, seconds = timed(lambda: index.add(vectors))
    return Method(
        "faiss flat", seconds, [("all", lambda queries: (index.search(queries, K)[1], len(vectors)))]
    )


def scann_index(vectors: Vectors, shape: Shape) -> Method:
    """ScaNN: lists, anisotropic codes of 4 bits per two dimensions, finalists compared exactly."""
    import scann

    lists = shape.lists
    builder = scann.scann_ops_pybind.builder(vectors, K, "dot_product").set_n_training_threads(shape.threads)
    sample = min(len(vectors), 100_000)
    builder = builder.tree(lists, num_leaves_to_search=lists // 10, training_sample_size=sample)
    builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(shape.finalists)
    index, seconds = timed(builder.build)

    def search(probes: int) -> Search:
        def run(queries: Vectors) -> tuple[NDArray[np.int64], float]:
            if len(queries) == 1:
                return index.search(queries[0], leaves_to_search=probes)[0][None], np.nan
            found = index.search_batched if shape.threads == 1 else index.search_batched_parallel
            return found(queries, leaves_to_search=probes)[0].astype(np.int64), np.nan

        return run

    return Method(
        f"ScaNN {lists}", seconds, [(f"leaves {one}", search(one)) for one in PROBES if one < lists]
    )


def chroma(vectors: Vectors, shape: Shape) -> Method:
    """Chroma's graph behind its client, on disk; ids alone are asked for."""
    import chromadb

    client = chromadb.PersistentClient(tempfile.mkdtemp())
    graph = {
        "space": "ip",
        "ef_construction": _BUILDING,
        "max_neighbors": shape.edges,
        "num_threads": shape.threads,
    }
    collection = client.create_collection("vectors", configuration={"hnsw": graph})

    def build() -> None:
        for first in range(0, len(vectors), 5000):
            part = vectors[first : first + 5000]
            collection.add([str(first + row) for row in range(len(part))], embeddings=part)

    _, seconds = timed(build)

    def search(queries: Vectors) -> tuple[NDArray[np.int64], float]:
        found = collection.query(query_embeddings=queries, n_results=K, include=[])["ids"]
        return np.array(found, np.int64), np.nan

    return Method(f"Chroma M{shape.edges}", seconds, [("ef 100", search)])


def lancedb_index(vectors: Vectors, shape: Shape) -> Method:
    """LanceDB on disk: lists of codes of 8 bits, 24 finalists compared exactly; ids alone are asked for."""
    import lancedb
    import pyarrow as pa

    lists = shape.lists
    rows = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    table = lancedb.connect(tempfile.mkdtemp()).create_table(
        "vectors", pa.table({"id": pa.array(np.arange(len(vectors))), "vector": rows})
    )

    def build() -> None:
        table.create_index("dot", num_partitions=lists, index_type="IVF_SQ", wait_timeout=timedelta(hours=2))

    _, seconds = timed(build)

    def search(probes: int) -> Search:
        def one(query: Vectors) -> list[int]:
            found = table.search(query).distance_type("dot").nprobes(probes).refine_factor(2)
            return found.limit(K).select(["id", "_distance"]).to_arrow()["id"].to_pylist()

        return lambda queries: (np.array([one(query) for query in queries], np.int64), np.nan)

    return Method(
        f"LanceDB {lists}", seconds, [(f"probes {one}", search(one)) for one in PROBES if one < lists]
    )


def timed(call: Callable[[], object]) -> tuple[object, tuple[float, float]]:
    wall, processor = time.perf_counter(), time.process_time()
    result = call()
    return result, (time.perf_counter() - wall, time.process_time() - processor)
