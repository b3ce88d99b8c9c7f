"""Recall after most of a memory was replaced, beside hnswlib and Chroma (those that are installed).

    python benchmarks/reliability/churn.py [--count 5000] [--rounds 9] [--dim 64]

Every round removes a tenth of the first vectors and adds as many new ones; the vectors lie in clusters.
Recall@10 is that of a search by `beam` against all vectors that live.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mllm_plugin import Document, MemoryIndex
from mllm_plugin.encoders import VectorsOnly

QUERIES, K = 200, 10
Vectors = NDArray[np.float32]


class _Rival(Protocol):
    """What can be churned."""

    def add(self, ids: list[int], vectors: Vectors) -> None: ...

    def remove(self, ids: list[int]) -> None: ...

    def search(self, query: Vectors) -> list[int]: ...


class _Memory:
    """This package, by the tree's walk."""

    def __init__(self, folder: Path, dim: int) -> None:
        self.memory = MemoryIndex.open(folder / "memory", encoder=VectorsOnly(dim, "random"))

    def add(self, ids: list[int], vectors: Vectors) -> None:
        self.memory.add([Document("x", id=f"{one}") for one in ids], embeddings=vectors)

    def remove(self, ids: list[int]) -> None:
        self.memory.remove([f"{one}" for one in ids])

    def search(self, query: Vectors) -> list[int]:
        return [int(hit.document_id) for hit in self.memory.search(query, k=K, mode="beam")]


class _Hnswlib:
    """hnswlib, which marks what is removed and reuses its place."""

    def __init__(self, count: int, dim: int) -> None:
        import hnswlib

        self.index = hnswlib.Index(space="cosine", dim=dim)
        self.index.init_index(max_elements=count, ef_construction=200, M=16, allow_replace_deleted=True)
        self.index.set_ef(100)

    def add(self, ids: list[int], vectors: Vectors) -> None:
        self.index.add_items(vectors, ids, replace_deleted=True)

    def remove(self, ids: list[int]) -> None:
        for one in ids:
            self.index.mark_deleted(one)

    def search(self, query: Vectors) -> list[int]:
        return self.index.knn_query(query, k=K)[0][0].tolist()


class _Chroma:
    """Chroma, persistent, as it comes."""

    def __init__(self, folder: Path) -> None:
        import chromadb

        client = chromadb.PersistentClient(str(folder / "chroma"))
        self.collection = client.create_collection("churn", metadata={"hnsw:space": "cosine"})

    def add(self, ids: list[int], vectors: Vectors) -> None:
        for at in range(0, len(ids), 1000):
            part = slice(at, at + 1000)
            self.collection.add(ids=[f"{one}" for one in ids[part]], embeddings=vectors[part].tolist())

    def remove(self, ids: list[int]) -> None:
        self.collection.delete(ids=[f"{one}" for one in ids])

    def search(self, query: Vectors) -> list[int]:
        found = self.collection.query(query_embeddings=[query.tolist()], n_results=K)
        return [int(one) for one in found["ids"][0]]


def clustered(draw: np.random.Generator, centres: Vectors, count: int) -> Vectors:
    """Unit vectors [count, d] around centres."""
    picked = centres[draw.integers(len(centres), size=count)]
    found = picked + 0.6 * draw.normal(size=picked.shape) / np.sqrt(picked.shape[1])
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


@contextmanager
def rivals(count: int, dim: int) -> Iterator[dict[str, _Rival]]:
    """Those that are installed."""
    makers: dict[str, tuple[str, Callable[[Path], Any]]] = {
        "mllm-plugin": ("mllm_plugin", lambda folder: _Memory(folder, dim)),
        "hnswlib": ("hnswlib", lambda _: _Hnswlib(count, dim)),
        "chroma": ("chromadb", _Chroma),
    }
    with tempfile.TemporaryDirectory() as folder:
        yield {
            name: make(Path(folder))
            for name, (module, make) in makers.items()
            if importlib.util.find_spec(module)
        }


def recall(rival: _Rival, live: dict[int, Vectors], queries: Vectors) -> float:
    """Recall@10 against a scan of all that lives."""
    ids, vectors = np.array(list(live)), np.stack(list(live.values()))
    wanted = ids[np.argsort(-(queries @ vectors.T), axis=1)[:, :K]]
    pairs = zip(wanted.tolist(), queries, strict=True)
    return float(np.mean([len({*row} & {*rival.search(query)}) / K for row, query in pairs]))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--count", type=int, default=5000)
    arguments.add_argument("--rounds", type=int, default=9)
    arguments.add_argument("--dim", type=int, default=64)
    options = arguments.parse_args()
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(options.count // 50, options.dim)).astype(np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    first = clustered(draw, centres, options.count)
    step = options.count // 10
    with rivals(options.count + step, options.dim) as all_rivals:
        live = dict(enumerate(first))
        for rival in all_rivals.values():
            rival.add(list(live), first)
        for round_ in range(options.rounds + 1):
            queries = clustered(draw, centres, QUERIES)
            shares = {name: recall(rival, live, queries) for name, rival in all_rivals.items()}
            told = "  ".join(f"{name} {share:.3f}" for name, share in shares.items())
            print(f"{round_ * 10:3d} % replaced, {len(live)} live: recall@{K}  {told}", flush=True)
            if round_ == options.rounds:
                break
            gone = list(range(round_ * step, (round_ + 1) * step))
            fresh = clustered(draw, centres, step)
            names = [options.count + one for one in gone]
            for rival in all_rivals.values():
                rival.remove(gone)
                rival.add(names, fresh)
            for one in gone:
                del live[one]
            live |= dict(zip(names, fresh, strict=True))


if __name__ == "__main__":
    main()
