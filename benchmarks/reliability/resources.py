"""Memory and time of a build that is streamed, of its regroup, of searches, `export`, `verify` and edits.

    python benchmarks/reliability/resources.py [--count 1000000] [--dim 384]

The documents are short and never held together; their vectors lie around 1,000 centres.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from mllm_plugin import Document, IndexBuilder, MemoryIndex
from mllm_plugin.protocols import TextEncoder


class _Cheap(TextEncoder):
    """Random vectors around centres, by a checksum of the text: an encoder that costs nothing."""

    def __init__(self, dim: int) -> None:
        self.dim, self.fingerprint = dim, f"cheap:{dim}"
        self._centres = np.random.default_rng(0).normal(size=(1000, dim)).astype(np.float32)

    def encode_documents(self, texts: Any) -> Any:
        marks = [zlib.crc32(text.encode()) for text in texts]
        found = np.stack([self._centres[mark % 1000] for mark in marks])
        found += np.random.default_rng(marks[0]).normal(scale=0.5, size=found.shape).astype(np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    def encode_queries(self, texts: Any) -> Any:
        return self.encode_documents(texts)


def documents(count: int) -> Iterator[Document]:
    """Short documents, one at a time."""
    for number in range(count):
        yield Document(f"note {number}: {number * 7919 % 9973} of {number % 97}", id=f"n{number}")


def stream(memory: MemoryIndex, count: int) -> str:
    """A build but for its regroup."""
    builder = IndexBuilder(memory, batch_size=1000, progress=False)
    return f"{sum(report.added for report in builder._batches(documents(count), 'raise')):,} documents"


def steps(count: int) -> dict[str, Callable[[MemoryIndex], Any]]:
    """What is measured; the first three are what `IndexBuilder.build` and searches after it do."""
    return {
        "stream": lambda memory: stream(memory, count),
        "regroup": lambda memory: memory.regroup(),
        "100 searches": lambda memory: [memory.search(f"note {n}", k=5) for n in range(100)][-1][0].text,
        "export": lambda memory: f"{sum(1 for _ in memory.export()):,} records",
        "verify": lambda memory: memory.verify().problems,
        "add 1,000, remove 1,000": lambda memory: changed(memory),
    }


def changed(memory: MemoryIndex) -> str:
    """Some documents more, and gone again."""
    new = [Document(f"another note {number}", id=f"new{number}") for number in range(1000)]
    memory.add(new)
    return f"erased: {memory.remove([one.id for one in new]).erased}"


def run(name: str, folder: Path, options: argparse.Namespace) -> None:
    """One step in this process; prints its time and the most memory that the process held."""
    started = time.perf_counter()
    with MemoryIndex.open(folder, encoder=_Cheap(options.dim)) as memory:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        result = steps(options.count)[name](memory)
    took, peak = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"| {name} | {took:.1f} | {before / 1024:.0f} | {peak / 1024:.0f} | {result} |", flush=True)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--count", type=int, default=1_000_000)
    arguments.add_argument("--dim", type=int, default=384)
    options = arguments.parse_args()
    print(f"{options.count:,} documents, {options.dim} dimensions; a process for each step\n")
    print("| step | seconds | MB at the start | peak MB | |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in steps(options.count):
            process = get_context("spawn").Process(target=run, args=(name, Path(folder) / "memory", options))
            process.start()
            process.join()
        print(f"\n{(Path(folder) / 'memory' / 'memory.db').stat().st_size / 1e6:,.0f} MB on disk")


if __name__ == "__main__":
    main()
