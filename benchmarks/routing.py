r"""Does the walk reach what an exact search finds, and how much must it score for that?

    python benchmarks/routing.py --data DIR
    python benchmarks/routing.py --data DIR --sets techdocs --name techdocs-11000 --chunk-tokens 128 \
        --most 11000 --spans 300 --weights OUT

A memory of several sets (256-token chunks, questions of `dev`), walked with forced beams: untrained, with the
trained hierarchy, and with parts of it switched off; faiss IVF over the same vectors. Recall is the share of
the exact search's ten best chunks among the walk's candidates, before any rescoring. "Scored" counts every
embedding compared with the query, nodes included, as a share of the chunks. `--weights` names another
hierarchy than the package's; `--spans` asks spans of held-out documents in place of questions.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from beir import read_corpus, read_queries
from common import cached_encoder, cached_memory, machine, parser, print_table, trained_copy
from numpy.typing import NDArray

from mllm_plugin import ChunkingConfig, Document, MemoryIndex
from mllm_plugin.hierarchy import Hierarchy, MappedRanker
from mllm_plugin.search.query import Query, View, make_queries
from mllm_plugin.search.walk import Beam, walk
from mllm_plugin.store.decoded import EmbeddingChunkCache
from mllm_plugin.training.routing.samples import draw_spans, read_leaves, routed_chunks

WIDTHS = (8, 16, 32, 48, 64, 96, 128, 192)
PROBES = (4, 8, 16, 24, 32, 48, 64, 96)
SHARES = (0.02, 0.03, 0.04, 0.05, 0.06, 0.08)
_BATCH = 32
_TOP = 10
_TIMED = 64


@dataclass(frozen=True)
class Point:
    """One setting: per query, recall and share scored; milliseconds per query, alone and 32 at once."""

    setting: str
    recall: NDArray[np.float64]
    scored: NDArray[np.float64]
    milliseconds: tuple[float, float] | None = None


Curves = dict[str, list[Point]]


def questions(memory: MemoryIndex, options: Namespace) -> tuple[list[str], NDArray[np.object_]]:
    """Texts and the set that each comes from."""
    if options.spans:
        texts, held_out = draw_spans(memory, 10 * options.spans, seed=99)
        chosen = [text for text, mark in zip(texts, held_out, strict=True) if mark][: options.spans]
        return chosen, np.array(["spans"] * len(chosen), dtype=object)
    found = [
        (row["text"], name)
        for name in options.sets
        for row in read_queries(options.data / name, options.split).values()
    ]
    order = np.random.default_rng(0).permutation(len(found))[: options.limit]
    return [found[row][0] for row in order], np.array([found[row][1] for row in order], dtype=object)


def exact_answers(memory: MemoryIndex, texts: Sequence[str]) -> list[set[int]]:
    """The ten best chunks of each query when every chunk is scored."""
    answers: list[set[int]] = []
    for start in range(0, len(texts), _BATCH):
        found = memory.search_batch(texts[start : start + _BATCH], k=_TOP, exact=True)
        answers += [{hit.chunk_id for hit in hits} for hits in found]
    return answers


def prepare(memory: MemoryIndex, texts: Sequence[str]) -> list[Query]:
    """Queries with their vectors."""
    return make_queries(list(texts), None, memory.encoder, memory.config.chunking.chunk_tokens)


def walks(
    memory: MemoryIndex,
    hierarchy: Hierarchy,
    queries: Sequence[Query],
    answers: Sequence[set[int]],
    widths: Sequence[int] = WIDTHS,
) -> list[Point]:
    """Candidates of the walk at several beam widths."""
    points = []
    with memory.snapshot() as snapshot:
        (row,) = snapshot.namespaces()
        view = View(snapshot, row, EmbeddingChunkCache(1 << 30), hierarchy, memory.config.lexical)
        walk(view, queries[:_BATCH], Beam(max(widths), _TOP), most=1)
        for width in widths:
            recall, scored = np.zeros(len(queries)), np.zeros(len(queries))
            for place, query in enumerate(queries):
                found = walk(view, [query], Beam(width, _TOP), most=10**9)[0]
                reached = set(found.ids.tolist())
                recall[place] = _held(answers[place], reached)
                scored[place] = found.scored / row.live_chunks
            took = (
                _milliseconds(view, queries[:_TIMED], width, 1),
                _milliseconds(view, queries[:_TIMED], width, _BATCH),
            )
            points.append(Point(f"beam {width}", recall, scored, took))
    return points


def _milliseconds(view: View, queries: Sequence[Query], width: int, batch: int) -> float:
    """Per query, `batch` at a time, candidates as a search takes them."""
    started = time.perf_counter()
    for start in range(0, len(queries), batch):
        walk(view, queries[start : start + batch], Beam(width, _TOP), most=200)
    return 1000 * (time.perf_counter() - started) / len(queries)


def ivf(
    ids: NDArray[np.int64],
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    answers: Sequence[set[int]],
    extra: Sequence[set[int]],
    lists: int,
) -> list[Point]:
    """faiss IVF over the same vectors; its candidates are whole lists, and the chunks of rare words too."""
    import faiss

    faiss.omp_set_num_threads(1)
    quantizer = faiss.IndexFlatIP(vectors.shape[1])
    index = faiss.IndexIVFFlat(quantizer, vectors.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    centroids = quantizer.reconstruct_n(0, lists)
    home = quantizer.search(vectors, 1)[1][:, 0]
    members = [set(ids[home == one].tolist()) for one in range(lists)]
    order = np.argsort(-(queries @ centroids.T), axis=1)
    points = []
    for probes in PROBES:
        if probes > lists:
            continue
        recall, scored = np.zeros(len(queries)), np.zeros(len(queries))
        for place, nearest in enumerate(order[:, :probes]):
            reached = set().union(extra[place], *(members[one] for one in nearest))
            recall[place] = _held(answers[place], reached)
            scored[place] = (lists + len(reached)) / len(ids)
        points.append(Point(f"{lists} lists, {probes} probed", recall, scored))
    return points


def ceiling(
    ids: NDArray[np.int64],
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    answers: Sequence[set[int]],
    extra: Sequence[set[int]],
) -> list[Point]:
    """What the chunks nearest by cosine hold: a walk that picks chunks by cosine can reach no more."""
    points = [
        Point(f"best {100 * share:g} %", np.zeros(len(queries)), np.full(len(queries), share))
        for share in SHARES
    ]
    for place, query in enumerate(queries):
        order = np.argsort(-(vectors @ query))
        for point, share in zip(points, SHARES, strict=True):
            reached = set(ids[order[: int(share * len(ids))]].tolist()) | extra[place]
            point.recall[place] = _held(answers[place], reached)
    return points


def without(
    hierarchy: Hierarchy, *, path: bool = False, slack: bool = False, encoders: bool = False
) -> Hierarchy:
    """The same hierarchy with parts switched off."""
    rankers = {}
    for level, ranker in hierarchy.rankers.items():
        tensors = dict(ranker.tensors)
        if path:
            tensors["path"] = np.zeros(1, np.float32)
        if slack:
            tensors["slack"] = np.full(1, np.inf, np.float32)
        rankers[level] = MappedRanker(tensors)
    return Hierarchy(
        level_encoders={} if encoders else hierarchy.level_encoders,
        rankers=rankers,
        leaf_ranker=hierarchy.leaf_ranker,
    )


def at_share(points: Sequence[Point], share: float) -> NDArray[np.float64]:
    """Recall per query at a mean share scored, on the line between a curve's points; NaN outside."""
    means = np.array([point.scored.mean() for point in points])
    order = np.argsort(means)
    means, rows = means[order], np.stack([points[place].recall for place in order])
    if not means[0] <= share <= means[-1]:
        return np.full(rows.shape[1], np.nan)
    after = int(np.searchsorted(means, share).clip(1, len(means) - 1))
    weight = (share - means[after - 1]) / max(means[after] - means[after - 1], 1e-12)
    return (1 - weight) * rows[after - 1] + weight * rows[after]


def report(curves: Curves, sets: NDArray[np.object_], plot: Path | None) -> None:
    """Prints recall at equal shares, misses beside the identity start, and every point."""
    print("\nRecall at equal shares of chunks scored\n")
    header = ["", *(f"{100 * share:g} %" for share in SHARES)]
    print_table(header, [[name, *(_cell(at_share(p, s)) for s in SHARES)] for name, p in curves.items()])
    base = curves["identity"]
    print("\nMisses, as a share of the untrained walk's at the same share scored, with 95 % interval\n")
    rows = []
    for name, points in curves.items():
        if name != "identity":
            rows.append([name, *(_misses(at_share(points, s), at_share(base, s)) for s in SHARES)])
    print_table(header, rows)
    if len(names := sorted(set(sets.tolist()))) > 1:
        print("\nRecall at 5 % scored, by set\n")
        table = [
            [name, *(_cell(at_share([_part(p, sets == one) for p in points], 0.05)) for one in names)]
            for name, points in curves.items()
        ]
        print_table(["", *names], table)
    print("\nEvery point\n")
    print_table(
        ["", "setting", "scored %", "recall", "ms/query", "ms/query, 32 at once"],
        [
            [name, p.setting, f"{100 * p.scored.mean():.2f}", f"{p.recall.mean():.4f}", *_times(p)]
            for name, points in curves.items()
            for p in points
        ],
    )
    if plot is not None:
        draw(curves, plot)


def draw(curves: Curves, path: Path) -> None:
    """Recall against embeddings scored."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    for name, points in curves.items():
        pairs = sorted((100 * p.scored.mean(), p.recall.mean()) for p in points)
        axes.plot(*zip(*pairs, strict=True), marker=".", label=name)
    axes.set(xlabel="embeddings scored, % of the chunks", ylabel="recall of the exact top 10", xlim=(0, 12))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def _held(wanted: set[int], reached: set[int]) -> float:
    return len(wanted & reached) / max(1, len(wanted))


def _cell(recall: NDArray[np.float64]) -> str:
    return "" if np.isnan(recall).any() else f"{recall.mean():.3f}"


def _misses(recall: NDArray[np.float64], base: NDArray[np.float64]) -> str:
    if np.isnan(recall).any() or np.isnan(base).any():
        return ""
    rng = np.random.default_rng(0)
    draws = rng.integers(len(recall), size=(1000, len(recall)))
    ratios = (1 - recall)[draws].mean(axis=1) / np.maximum((1 - base)[draws].mean(axis=1), 1e-9)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return f"{(1 - recall).mean() / max((1 - base).mean(), 1e-9):.2f} [{low:.2f}, {high:.2f}]"


def _part(point: Point, rows: NDArray[np.bool_]) -> Point:
    """A set's queries; the share scored stays that of all, so that sets are compared at one setting."""
    return Point(point.setting, point.recall[rows], np.full(int(rows.sum()), point.scored.mean()))


def _times(point: Point) -> list[str]:
    return (
        ["", ""]
        if point.milliseconds is None
        else [f"{millisecond:.2f}" for millisecond in point.milliseconds]
    )


def documents(options: Namespace) -> Iterator[Document]:
    """All documents of the sets, at most `--most`."""
    return islice((one for name in options.sets for one in read_corpus(options.data / name)), options.most)


def measure(options: Namespace) -> tuple[Curves, NDArray[np.object_]]:
    """Every curve over one memory."""
    encoder = cached_encoder(options.cache)
    memory = cached_memory(
        options.name,
        lambda: documents(options),
        encoder,
        options.cache,
        chunking=ChunkingConfig(chunk_tokens=options.chunk_tokens),
    )
    texts, sets = questions(memory, options)
    queries = prepare(memory, texts)
    copy = trained_copy(memory, options.weights, options.cache / "memories" / f"{options.name}.trained")
    curves: Curves = {}
    with MemoryIndex.open(copy, encoder=encoder) as other:
        answers = exact_answers(other, texts)
        ids, vectors = read_leaves(memory)
        print(f"{len(ids)} chunks, {len(texts)} questions; the exact search scores all of them.")
        own = other.hierarchy
        curves["identity"] = walks(memory, Hierarchy(leaf_ranker=own.leaf_ranker), queries, answers)
        curves["trained"] = walks(other, own, queries, answers)
        curves["trained, no slack"] = walks(other, without(own, slack=True), queries, answers)
        curves["trained, no path score"] = walks(other, without(own, path=True), queries, answers)
        if own.level_encoders:
            bare = without(own, encoders=True)
            curves["trained rankers, mean nodes"] = walks(memory, bare, queries, answers)
    extra = routed_chunks(memory, queries)
    matrix = np.stack([query.vectors[0] for query in queries])
    for lists in options.lists:
        curves[f"faiss IVF {lists} + rare words"] = ivf(ids, vectors, matrix, answers, extra, lists)
    nothing: list[set[int]] = [set() for _ in queries]
    curves[f"faiss IVF {options.lists[-1]}"] = ivf(ids, vectors, matrix, answers, nothing, options.lists[-1])
    curves["nearest by cosine + rare words"] = ceiling(ids, vectors, matrix, answers, extra)
    memory.close()
    return curves, sets


def main() -> None:
    arguments = parser((__doc__ or "").splitlines()[0])
    arguments.add_argument("--sets", nargs="+", default=["medquad", "cuad", "squad"])
    arguments.add_argument("--name", default="routing", help="of the cached memory")
    arguments.add_argument("--chunk-tokens", type=int, default=254)
    arguments.add_argument("--most", type=int, help="documents at most")
    arguments.add_argument("--split", default="dev")
    arguments.add_argument("--limit", type=int, default=400, help="questions at most")
    arguments.add_argument("--spans", type=int, default=0, help="ask so many spans in place of questions")
    arguments.add_argument("--weights", default="default", help="hierarchy to measure")
    arguments.add_argument("--lists", nargs="+", type=int, default=[256, 1024])
    arguments.add_argument("--plot", type=Path)
    options = arguments.parse_args()
    print(f"On {machine()}; encoder all-MiniLM-L6-v2; beams forced; walks timed one query at a time.\n")
    report(*measure(options), options.plot)


if __name__ == "__main__":
    main()
