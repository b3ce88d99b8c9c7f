"""Indexes of vectors for benchmarks of scale: this memory's walk, and rivals, each loaded when asked for.

All compare inner products, are built on one thread, and return the ten best.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
from numpy.typing import NDArray
from spaces import build_space
from vectors import Vectors

from mllm_plugin.image import Plan, nearest

K = 10
_FINALISTS = 24
_CONNECTED, _BUILDING = 16, 100  # edges per vector, and how many are looked at to choose them
WIDTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256)
PROBES = (8, 16, 32, 64, 128, 256)
EFFORTS = (16, 32, 64, 128, 256)
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
            rows, scored = nearest(space, queries[:, None], Plan(width), K)
            return ids[np.array(rows)], float(scored.mean())

        return run

    settings = [(f"beam {width}", search(width)) for width in WIDTHS]
    return Method("memory", seconds, [*settings, ("scan", search(None))])


def ivf(vectors: Vectors, kind: str, lists: int) -> Method:
    """faiss IVF; fast-scan codes are rescored exactly, 24 finalists as the walk has."""
    import faiss

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
                index.k_factor = _FINALISTS / K
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


def faiss_hnsw(vectors: Vectors) -> Method:
    """faiss's graph."""
    import faiss

    index = faiss.IndexHNSWFlat(vectors.shape[1], 16, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 100
    _, seconds = timed(lambda: index.add(vectors))

    def search(effort: int) -> Search:
        def run(queries: Vectors) -> tuple[NDArray[np.int64], float]:
            index.hnsw.efSearch = effort
            return index.search(queries, K)[1], np.nan

        return run

    return Method("faiss HNSW M16", seconds, [(f"ef {one}", search(one)) for one in EFFORTS])


def hnswlib_index(vectors: Vectors) -> Method:
    """hnswlib's graph."""
    import hnswlib

    index = hnswlib.Index("ip", vectors.shape[1])
    index.init_index(len(vectors), M=16, ef_construction=100)
    index.set_num_threads(1)
    _, seconds = timed(lambda: index.add_items(vectors))

    def search(effort: int) -> Search:
        def run(queries: Vectors) -> tuple[NDArray[np.int64], float]:
            index.set_ef(effort)
            return index.knn_query(queries, K)[0].astype(np.int64), np.nan

        return run

    return Method("hnswlib M16", seconds, [(f"ef {one}", search(one)) for one in EFFORTS])


def usearch_index(vectors: Vectors) -> Method:
    """usearch's graph, over 8 bits."""
    from usearch.index import Index

    index = Index(ndim=vectors.shape[1], metric="ip", dtype="i8", connectivity=16, expansion_add=100)
    _, seconds = timed(lambda: index.add(np.arange(len(vectors)), vectors, threads=1))

    def search(effort: int) -> Search:
        def run(queries: Vectors) -> tuple[NDArray[np.int64], float]:
            index.expansion_search = effort
            return np.asarray(index.search(queries, K, threads=1).keys, np.int64).reshape(-1, K), np.nan

        return run

    return Method("usearch int8 M16", seconds, [(f"ef {one}", search(one)) for one in EFFORTS])


def flat(vectors: Vectors) -> Method:
    """All of them."""
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    _, seconds = timed(lambda: index.add(vectors))
    return Method(
        "faiss flat", seconds, [("all", lambda queries: (index.search(queries, K)[1], len(vectors)))]
    )


def scann_index(vectors: Vectors, lists: int) -> Method:
    """ScaNN: lists, anisotropic codes of 4 bits per two dimensions, 24 finalists compared exactly."""
    import scann

    builder = scann.scann_ops_pybind.builder(vectors, K, "dot_product").set_n_training_threads(1)
    sample = min(len(vectors), 100_000)
    builder = builder.tree(lists, num_leaves_to_search=lists // 10, training_sample_size=sample)
    builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(_FINALISTS)
    index, seconds = timed(builder.build)

    def search(probes: int) -> Search:
        def run(queries: Vectors) -> tuple[NDArray[np.int64], float]:
            if len(queries) == 1:
                return index.search(queries[0], leaves_to_search=probes)[0][None], np.nan
            return index.search_batched(queries, leaves_to_search=probes)[0].astype(np.int64), np.nan

        return run

    return Method(
        f"ScaNN {lists}", seconds, [(f"leaves {one}", search(one)) for one in PROBES if one < lists]
    )


def chroma(vectors: Vectors) -> Method:
    """Chroma's graph behind its client, on disk; ids alone are asked for."""
    import chromadb

    client = chromadb.PersistentClient(tempfile.mkdtemp())
    shape = {"space": "ip", "ef_construction": _BUILDING, "max_neighbors": _CONNECTED, "num_threads": 1}
    collection = client.create_collection("vectors", configuration={"hnsw": shape})

    def build() -> None:
        for first in range(0, len(vectors), 5000):
            part = vectors[first : first + 5000]
            collection.add([str(first + row) for row in range(len(part))], embeddings=part)

    _, seconds = timed(build)

    def search(queries: Vectors) -> tuple[NDArray[np.int64], float]:
        found = collection.query(query_embeddings=queries, n_results=K, include=[])["ids"]
        return np.array(found, np.int64), np.nan

    return Method("Chroma M16", seconds, [("ef 100", search)])


def lancedb_index(vectors: Vectors, lists: int) -> Method:
    """LanceDB on disk: lists of codes of 8 bits, 24 finalists compared exactly; ids alone are asked for."""
    import lancedb
    import pyarrow as pa

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
