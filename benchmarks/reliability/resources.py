"""Memory and time of a build that is streamed, of its regroup, of searches and of `verify`.

    python benchmarks/reliability/resources.py [--count 1000000] [--dim 384]

The documents are short and never held together; their vectors are random. Peaks are of the whole process,
so that a step shows only where it needs more than those before it.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mllm_plugin import Document, IndexBuilder, MemoryIndex
from mllm_plugin.protocols import TextEncoder


class _Cheap(TextEncoder):
    """Random vectors around centres, by the hash of a text: an encoder that costs nothing."""

    def __init__(self, dim: int) -> None:
        self.dim, self.fingerprint = dim, f"cheap:{dim}"
        self._centres = np.random.default_rng(0).normal(size=(1000, dim)).astype(np.float32)

    def encode_documents(self, texts: Any) -> Any:
        marks = [hash(text) % (1 << 32) for text in texts]
        found = np.stack([self._centres[mark % 1000] for mark in marks])
        found += np.random.default_rng(marks[0]).normal(scale=0.5, size=found.shape).astype(np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    def encode_queries(self, texts: Any) -> Any:
        return self.encode_documents(texts)


def documents(count: int) -> Iterator[Document]:
    """Short documents, one at a time."""
    for number in range(count):
        yield Document(f"note {number}: {number * 7919 % 9973} of {number % 97}", id=f"n{number}")


def peak() -> float:
    """Most MB that the process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def told(name: str, step: Callable[[], Any]) -> Any:
    """Runs a step and prints its time and the peak so far."""
    started = time.perf_counter()
    result = step()
    print(f"{name:<28} {time.perf_counter() - started:9.1f} s   peak {peak():8.0f} MB", flush=True)
    return result


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--count", type=int, default=1_000_000)
    arguments.add_argument("--dim", type=int, default=384)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        with MemoryIndex.open(Path(folder) / "memory", encoder=_Cheap(options.dim)) as memory:
            print(f"{options.count:,} documents, {options.dim} dimensions; at the start {peak():.0f} MB")
            builder = IndexBuilder(memory, batch_size=1000, progress=False)
            stream = documents(options.count)
            told("stream", lambda: list(builder._batches(stream, "raise"))[:0])
            told("regroup", memory.regroup)
            told("100 searches, beam", lambda: [memory.search(f"note {n}", mode="beam") for n in range(100)])
        with MemoryIndex.open(Path(folder) / "memory", encoder=None) as memory:
            print(f"problems: {told('verify', memory.verify).problems}")


if __name__ == "__main__":
    main()
