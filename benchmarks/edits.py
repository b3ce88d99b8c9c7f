"""What does an edit cost as the memory grows?

    python benchmarks/edits.py

One document per call, made of words and a vector of 384 dimensions drawn around random topics; the median
of 50 calls. Encoding is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np
from common import machine, print_table
from numpy.typing import NDArray

from mllm_plugin import Document, MemoryConfig, MemoryIndex
from mllm_plugin.encoders import VectorsOnly

_DIM, _BATCH, _CALLS = 384, 1000, 50


class Topics:
    """Makes documents with vectors around 500 random directions."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)
        self._centres = self._rng.normal(size=(500, _DIM))
        self._made = 0

    def make(self, count: int) -> tuple[list[Document], NDArray[np.float64]]:
        """Documents of 60 words with their vectors [count, d]."""
        words = self._rng.zipf(1.3, size=(count, 60)) % 50_000
        documents = [
            Document(" ".join(f"w{word}" for word in row), id=str(self._made + place))
            for place, row in enumerate(words)
        ]
        self._made += count
        topics = self._centres[self._rng.integers(500, size=count)]
        return documents, topics + self._rng.normal(size=(count, _DIM))


def measure(memory: MemoryIndex, topics: Topics) -> Iterator[str]:
    """Milliseconds of each kind of edit, and of a search after an edit."""
    documents, vectors = topics.make(_CALLS)
    names = [document.id for document in documents]
    query = vectors[0]
    pairs = list(zip(documents, vectors, strict=True))
    yield _median([lambda pair=pair: memory.add([pair[0]], embeddings=[pair[1]]) for pair in pairs])
    yield _median([lambda name=name: memory.mask([name]) for name in names])
    yield _median([lambda name=name: memory.unmask([name]) for name in names])
    yield _median([lambda: memory.search(query, mode="beam") for _ in names])
    yield _median([lambda name=name: memory.remove([name]) for name in names])


def _median(calls: list[Callable[[], object]]) -> str:
    times = []
    for call in calls:
        started = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - started))
    return f"{statistics.median(times):.1f}"


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--sizes", nargs="+", type=int, default=[1_000, 10_000, 100_000])
    sizes = arguments.parse_args().sizes
    print(f"On {machine()}.\n")
    topics, rows = Topics(), []
    config = MemoryConfig(level0=False)
    with (
        tempfile.TemporaryDirectory() as folder,
        MemoryIndex.open(folder, encoder=VectorsOnly(_DIM), config=config) as memory,
    ):
        for size in sizes:
            while (missing := size - memory.stats().chunks) > 0:
                documents, vectors = topics.make(min(missing, _BATCH))
                memory.add(documents, embeddings=vectors)
            levels = len(memory.stats().namespaces[0].levels)
            rows.append([f"{size:,}", str(levels), *measure(memory, topics)])
    print_table(["chunks", "levels", "add ms", "mask ms", "unmask ms", "walk ms", "remove ms"], rows)


if __name__ == "__main__":
    main()
