"""Does it cost recall to group a tree in parts, which bounds memory, and not all of its chunks at once?

    OMP_NUM_THREADS=1 python benchmarks/parts.py --data DIR --count 30000
    OMP_NUM_THREADS=1 python benchmarks/parts.py --vectors real.npy --questions asked.npy --count 30000

Vectors and questions are those of scale.py. The tree is built in batches of 1,000 and regrouped; a search
walks it. Recall is the share of the exact ten best among the ten that are returned.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator

import numpy as np
from common import machine, print_table
from numpy.typing import NDArray
from scale import arguments
from vectors import Vectors, exact_best, mixtures, real_vectors

from mllm_plugin import Document, MemoryIndex
from mllm_plugin.encoders import VectorsOnly
from mllm_plugin.tree import editor

_K, _BATCH = 10, 1000
WIDTHS = (8, 16, 32, 64, 96)


def built(memory: MemoryIndex, vectors: Vectors) -> None:
    """Adds vectors in batches."""
    for first in range(0, len(vectors), _BATCH):
        part = vectors[first : first + _BATCH]
        documents = [Document("x", id=str(first + number)) for number in range(len(part))]
        memory.add(documents, embeddings=part)


def recalls(memory: MemoryIndex, queries: Vectors, truth: NDArray[np.int64]) -> Iterator[str]:
    """Recall, and how many embeddings were compared, for each beam width."""
    for width in WIDTHS:
        found = [memory.search(query, k=_K, mode="beam", beam_width=width) for query in queries]
        same = [
            len({int(hit.document_id) for hit in own} & {*row})
            for own, row in zip(found, truth.tolist(), strict=True)
        ]
        scored = np.mean([own.statistics.embeddings_scored for own in found])
        yield f"{np.mean(same) / _K:.3f} of {scored:.0f}"


def main() -> None:
    options = arguments((__doc__ or "").splitlines()[0]).parse_args()
    real, queries = real_vectors(options)
    vectors = mixtures(real, options.count)
    truth = exact_best(vectors, queries, _K)
    print(f"On {machine()}; {len(real)} real vectors, {len(vectors)} in all, {len(queries)} questions.\n")

    def rows() -> Iterator[list[str]]:
        with (
            tempfile.TemporaryDirectory() as folder,
            MemoryIndex.open(folder, encoder=VectorsOnly(vectors.shape[1], "given")) as memory,
        ):
            built(memory, vectors)
            for most in (len(vectors), 16_384, editor._NUMBERS // vectors.shape[1], 8192, 4096):
                editor._NUMBERS = most * vectors.shape[1]
                started = time.process_time()
                memory.regroup()
                took = time.process_time() - started
                yield [f"{most:,}", f"{took:.1f}", *recalls(memory, queries, truth)]

    widths = [f"beam {width}" for width in WIDTHS]
    print_table(["grouped at once, at most", "processor s", *widths], rows())


if __name__ == "__main__":
    main()
