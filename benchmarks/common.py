"""What the benchmarks share: cached memories, the rivals, metrics with paired intervals, tables."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from cached_encoder import CachedEncoder

from mllm_plugin import Document, IndexBuilder, MemoryConfig, MemoryIndex
from mllm_plugin.encoders import as_encoder
from mllm_plugin.encoders.resolve import DEFAULT_ENCODER
from mllm_plugin.types import Namespace

Run = dict[str, dict[str, float]]  # scores by document id, by query id
DEFAULT_CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mllm-plugin" / "benchmarks"
DEPTH = 100


def parser(description: str) -> argparse.ArgumentParser:
    """Arguments that every benchmark takes."""
    arguments = argparse.ArgumentParser(description=description)
    arguments.add_argument("--data", type=Path, required=True, help="folder of BEIR-shaped folders")
    arguments.add_argument(
        "--cache", type=Path, default=DEFAULT_CACHE, help="embeddings and memories are kept here"
    )
    return arguments


def machine() -> str:
    """One line that says where the figures come from."""
    python = platform.python_version()
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {python}, numpy {np.__version__}"


def cached_encoder(cache: Path) -> CachedEncoder:
    """The default encoder, its vectors kept in `cache`."""
    return CachedEncoder(as_encoder(DEFAULT_ENCODER), cache / "embeddings")


def cached_memory(
    name: str,
    documents: Callable[[], Iterable[Document]],
    encoder: CachedEncoder,
    cache: Path,
    **settings: Any,
) -> MemoryIndex:
    """A memory of a data set with the untrained hierarchy, built once and reopened afterwards."""
    config = MemoryConfig(embedding_cache=False, **settings)
    memory = MemoryIndex.open(cache / "memories" / name, encoder=encoder, config=config, hierarchy="identity")
    done = cache / "memories" / name / "complete"
    if not done.exists():
        report = IndexBuilder(memory, batch_size=256).build(documents())
        print(f"built {name}: {report.chunks} chunks in {report.seconds:.0f} s", file=sys.stderr)
        done.touch()
    return memory


def trained_copy(memory: MemoryIndex, weights: str | Path, folder: Path) -> Path:
    """A copy of the memory with another hierarchy in place."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    memory.backup(folder / "memory.db")
    with MemoryIndex.open(folder, encoder=memory.encoder) as copy:
        report = copy.install(weights)
        print(f"{report.nodes} nodes folded anew in {report.seconds:.1f} s: {report.fingerprint}\n")
    return folder


@dataclass(frozen=True)
class Chunks:
    """All chunks of a memory as the rivals see them: texts, vectors [n, d] and document ids."""

    texts: list[str]
    documents: NDArray[np.object_]
    vectors: NDArray[np.float32]


def read_chunks(memory: MemoryIndex, namespace: Namespace | str = ()) -> Chunks:
    """Reads every chunk with its vector from a namespace, the default one when left out."""
    texts, documents, vectors = [], [], []
    for record in memory.export(namespace=namespace, prefix=False, vectors=True):
        for chunk in record["chunks"]:
            texts.append(record["text"][chunk["start"] : chunk["end"]])
            documents.append(record["id"])
            vectors.append(np.array(chunk["embedding"], dtype=np.float32))
    return Chunks(texts, np.array(documents, dtype=object), np.stack(vectors))


def document_ranking(
    scores: NDArray[np.floating], documents: NDArray[np.object_], depth: int = DEPTH
) -> dict[str, float]:
    """The best chunk of each document, the `depth` best documents."""
    ranking: dict[str, float] = {}
    for row in np.argsort(-scores, kind="stable"):
        if scores[row] <= 0 or len(ranking) == depth:
            break
        ranking.setdefault(documents[row], float(scores[row]))
    return ranking


def fused(first: Run, second: Run, constant: int = 60) -> Run:
    """Reciprocal rank fusion (Cormack, Clarke and Buettcher 2009)."""
    merged: Run = {}
    for run in (first, second):
        for query, ranking in run.items():
            target = merged.setdefault(query, {})
            for rank, document in enumerate(sorted(ranking, key=ranking.__getitem__, reverse=True)):
                target[document] = target.get(document, 0.0) + 1.0 / (constant + rank + 1)
    return merged


@dataclass(frozen=True)
class Timed:
    """A run with its milliseconds per query."""

    run: Run
    milliseconds: float


def timed(search: Callable[[], Run]) -> Timed:
    """Runs and times a search over all queries."""
    started = time.perf_counter()
    run = search()
    return Timed(run, 1000 * (time.perf_counter() - started) / max(1, len(run)))


def per_query(
    run: Run, qrels: dict[str, dict[str, int]], metrics: Sequence[Any]
) -> dict[str, NDArray[np.float64]]:
    """Each metric's value for every judged query, in the order of `qrels`; computed by ir_measures."""
    import ir_measures

    rows = {(row.query_id, row.measure): row.value for row in ir_measures.iter_calc(metrics, qrels, run)}
    return {str(m): np.array([rows.get((query, m), 0.0) for query in qrels]) for m in metrics}


def interval(values: NDArray[np.float64], seed: int = 0, draws: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of a mean; for paired differences pass the differences."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(draws, len(values)))].mean(axis=1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A Markdown table."""
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)
