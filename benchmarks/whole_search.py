"""Where the time of a whole search goes, without encoding the query: walk or scan, windows, leaf, text.

Texts are chunks of the sets, vectors real ones and mixtures of them, paired at random, with eight windows
around each: times and the agreement of modes are meant, not what is found.

    python benchmarks/whole_search.py --data DIR --count 3000 --vectors real.npy --questions asked.npy
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import cycle, islice

import numpy as np
from beir import read_corpus, read_queries
from common import parser
from numpy.typing import NDArray
from vectors import mixtures, real_vectors

from mllm_plugin import Document, IndexBuilder, MemoryConfig, MemoryIndex
from mllm_plugin.config import SearchConfig
from mllm_plugin.encoders.base import unit
from mllm_plugin.protocols import TextEncoder

_WORDS = 96
_WINDOWS = 8
_BATCH = 64


class TableEncoder(TextEncoder):
    """Gives texts the vectors of a table, and windows around them."""

    def __init__(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        self.dim, self.fingerprint = vectors.shape[1], "table"
        self._rows = {text: row for row, text in enumerate(texts)}
        self._vectors = vectors

    def encode_documents(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """Vectors and windows."""
        rows = [self._rows[text] for text in texts]
        return self._vectors[rows], [self._around(row, _WINDOWS) for row in rows]

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors."""
        return self._vectors[[self._rows[text] for text in texts]]

    def encode_query_windows(
        self, texts: Sequence[str]
    ) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """Vectors, and a window each."""
        return self.encode_queries(texts), [self._around(self._rows[text], 1) for text in texts]

    def _around(self, row: int, count: int) -> NDArray[np.float32]:
        noise = np.random.default_rng(row).normal(size=(count, self.dim)) / np.sqrt(self.dim)
        return unit((self._vectors[row] + 0.7 * noise).astype(np.float32))


def main() -> None:
    """Builds the memory once, then prints one row per mode."""
    arguments = parser(__doc__)
    arguments.add_argument("--sets", nargs="+", default=["techdocs", "medquad", "cuad", "squad", "scifact"])
    arguments.add_argument("--asked", nargs="+", default=["medquad", "cuad", "squad", "scifact"])
    arguments.add_argument("--count", type=int, default=3000)
    arguments.add_argument("--real", type=int, default=16_000)
    arguments.add_argument("--limit", type=int, default=200)
    arguments.add_argument("--vectors")
    arguments.add_argument("--questions")
    arguments.add_argument("--modes", nargs="+", default=["flat", "beam"])
    arguments.add_argument("--build-only", action="store_true")
    options = arguments.parse_args()
    real, asked = real_vectors(options)
    texts = list(islice(_texts(options), options.count))
    if len(texts) < options.count:
        texts += [f"{text} {n}" for n, text in enumerate(islice(cycle(texts), options.count - len(texts)))]
    questions = [
        row["text"] for name in options.asked for row in read_queries(options.data / name, None).values()
    ]
    chosen = np.random.default_rng(0).permutation(len(questions))[: options.limit]
    questions = [questions[row] for row in chosen]
    stored = mixtures(real, max(options.count, len(real)))[: options.count]
    encoder = TableEncoder([*texts, *questions], np.concatenate([stored, asked[: len(questions)]]))
    folder = options.cache / f"whole-{options.count}"
    without = MemoryConfig(search=SearchConfig(image_from=None))
    with MemoryIndex.open(folder, encoder=encoder, hierarchy="identity", config=without) as memory:
        started = time.perf_counter()
        documents = [Document(id=f"{n}", text=text) for n, text in enumerate(texts)]
        if memory.stats().chunks < options.count:
            IndexBuilder(memory, progress=False, split=False, batch_size=1024).build(documents)
        print(f"{options.count} chunks, built or looked through in {time.perf_counter() - started:.1f} s")
        if options.build_only:
            return
        print(
            "| mode | processor ms | in batches of 64 | p50 ms | p95 ms | walk | score | fetch | scored "
            "| of flat's ten |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|")
        _measure(memory, questions, options.modes)
    within = MemoryConfig(search=SearchConfig(image_from=0))
    with MemoryIndex.open(folder, encoder=encoder, hierarchy="identity", config=within) as memory:
        for _ in range(2):  # made, and then checked and in use
            for question in questions[:40]:
                memory.search(question, mode="beam")
            while not memory.stats().image_bytes:
                time.sleep(0.2)
            time.sleep(2)
        _measure(memory, questions, options.modes, ", search image")


def _texts(options):  # noqa: ANN001, ANN202
    seen = set()
    for name in options.sets:
        for document in read_corpus(options.data / name):
            words = document.text.split()
            for first in range(0, len(words), _WORDS):
                text = " ".join(words[first : first + _WORDS])
                if text not in seen:
                    seen.add(text)
                    yield text


def _measure(memory: MemoryIndex, questions: Sequence[str], modes: Sequence[str], where: str = "") -> None:
    exact = [_ids(memory.search(question, k=10, mode="flat")) for question in questions]
    for mode in modes:
        for question in questions[:20]:
            memory.search(question, k=10, mode=mode)
        took, busy, stages, scored, same = [], [], defaultdict(list), [], []
        for question, best in zip(questions, exact, strict=True):
            started, used = time.perf_counter(), time.process_time()
            hits = memory.search(question, k=10, mode=mode)
            timings = hits.statistics.timings
            busy.append(time.process_time() - used - timings["encode"])
            took.append(time.perf_counter() - started - timings["encode"])
            for stage, seconds in timings.items():
                stages[stage].append(seconds)
            scored.append(hits.statistics.embeddings_scored)
            same.append(len(best & _ids(hits)) / max(1, len(best)))
        parts = [f"{1e3 * np.median(stages[stage]):.2f}" for stage in ("walk", "score", "fetch")]
        p50, p95 = (f"{1e3 * np.percentile(took, share):.2f}" for share in (50, 95))
        batches = f"{1e3 * _batched(memory, questions, mode):.2f}"
        cells = [f"{mode}{where}", f"{1e3 * np.median(busy):.2f}", batches, p50, p95, *parts]
        print(f"| {' | '.join(cells)} | {np.mean(scored):.0f} | {np.mean(same):.3f} |")


def _batched(memory: MemoryIndex, questions: Sequence[str], mode: str) -> float:
    """Seconds of the processor per question, without those of the encoder."""
    used = []
    for start in range(0, len(questions) - _BATCH + 1, _BATCH):
        started = time.process_time()
        found = memory.search_batch(questions[start : start + _BATCH], k=10, mode=mode)
        used.append(time.process_time() - started - found[0].statistics.timings["encode"])
    return float(np.median(used)) / _BATCH


def _ids(hits) -> set[str]:  # noqa: ANN001
    return {hit.document_id for hit in hits}


if __name__ == "__main__":
    main()
