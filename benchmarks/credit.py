"""What do the levels give? The trained walk beside other ways to find candidates for the same leaf ranker.

    python benchmarks/credit.py --data DIR --sets squad scifact

All rows rank their candidates with the same trained leaf ranker. "flat" compares every chunk; "IVF" takes the
lists of faiss nearest to the query, and the chunks of rare words; "collapsed" compares the chunks and nodes
of all levels at once, as RAPTOR does, and opens the best nodes (Sarthi et al., arXiv:2401.18059, section 3).
Scored: embeddings compared with the query to find the candidates. Milliseconds: one query at a time, without
embedding it; of the rivals only comparing and ranking, no words, no texts.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Sequence

import numpy as np
from beir import read_corpus, read_qrels, read_queries
from common import Run, cached_encoder, cached_memory, machine, parser, per_query, print_table, trained_copy
from numpy.typing import NDArray
from routing import prepare

from mllm_plugin import ChunkingConfig, MemoryIndex
from mllm_plugin.search.query import Query, View
from mllm_plugin.search.rank import rank
from mllm_plugin.search.scan import Scan
from mllm_plugin.store.decoded import EmbeddingChunkCache, build_image, load_embedding_chunk
from mllm_plugin.training.routing.samples import routed_chunks

_DEPTH = 100
_TIMED = 100
_RESCORED = 200
_WIDTHS = (16, 32, 64, 128)
_PROBES = (16, 32, 64)
_LISTS = 256

Row = tuple[Run, float, float]  # documents, embeddings scored, milliseconds
Rows = Callable[[int, NDArray[np.floating]], NDArray[np.int64]]  # query, partial scores -> rows of the image


class Rivals:
    """Ways to choose candidates over one memory, ranked by its own leaf ranker."""

    def __init__(self, memory: MemoryIndex, queries: Sequence[Query]) -> None:
        self._memory, self._queries = memory, queries
        with memory.snapshot() as snapshot:
            (row,) = snapshot.namespaces()
            self._image = build_image(snapshot, row)
            self._ids = np.concatenate([part.ids for part in self._image.parts])
            self._places = snapshot.places(self._ids.tolist())
            tree = snapshot.nodes(row)
            above = [load_embedding_chunk(snapshot, node.node_id) for node in tree if node.level > 2]
        self.vectors = np.concatenate([part.vectors for part in self._image.parts])
        self._home = np.array([self._places[chunk].node_id for chunk in self._ids.tolist()])
        self._parents = {node.node_id: node.parent_id for node in tree}
        nodes = [child for block in above for child in block.ids.tolist()]
        vectors = [block.vectors[:, 0] for block in above]
        self._nodes, self._node_vectors = np.array(nodes), np.concatenate(vectors)
        routed = routed_chunks(memory, queries)
        self._routed = [np.flatnonzero(np.isin(self._ids, list(one))) for one in routed]
        self._matrix = np.stack([query.vectors[0] for query in queries])

    def run(self, rows_of: Rows, names: Sequence[str]) -> tuple[Run, float]:
        """Ranks the rows that a rival chooses; the best chunk of each document. Also milliseconds to rank."""
        memory, run, took = self._memory, {}, 0.0
        with memory.snapshot() as snapshot:
            (row,) = snapshot.namespaces()
            view = View(snapshot, row, EmbeddingChunkCache(1 << 20), memory.hierarchy, memory.config.lexical)
            for place, (name, query) in enumerate(zip(names, self._queries, strict=True)):
                found = Scan.of(view, self._image, [query])
                (own,) = found.evidence
                partial = view.hierarchy.leaf_ranker.partial(own.cosine, own.lexical)
                rows = rows_of(place, partial)
                rows = rows[np.argsort(-partial[rows], kind="stable")][:_RESCORED]
                started = time.perf_counter()
                ranked = rank(view, query, found.candidates(0, rows))
                took += time.perf_counter() - started
                best: dict[str, float] = {}
                for one in ranked:
                    best.setdefault(self._places[one.chunk_id].document_id, one.score)
                run[name] = dict(list(best.items())[:_DEPTH])
        return run, 1000 * took / len(names)

    def ivf(self, probes: int) -> tuple[Rows, float, float]:
        """Lists of faiss nearest to the query, and rare words; embeddings scored, milliseconds to compare."""
        import faiss

        faiss.omp_set_num_threads(1)
        quantizer = faiss.IndexFlatIP(self.vectors.shape[1])
        index = faiss.IndexIVFFlat(quantizer, self.vectors.shape[1], _LISTS, faiss.METRIC_INNER_PRODUCT)
        index.train(self.vectors)
        home = quantizer.search(self.vectors, 1)[1][:, 0]
        near = quantizer.search(self._matrix, probes)[1]
        sizes = np.bincount(home, minlength=_LISTS)

        def rows(place: int, partial: NDArray[np.floating]) -> NDArray[np.int64]:
            return np.union1d(np.flatnonzero(np.isin(home, near[place])), self._routed[place])

        index.add(self.vectors)
        index.nprobe = probes
        took = _milliseconds(lambda query: index.search(query[None], _RESCORED), self._matrix)
        routed = float(np.mean([len(one) for one in self._routed]))
        return rows, float(_LISTS + sizes[near].sum(axis=1).mean()) + routed, took

    def collapsed(self, opened: int = 32) -> tuple[Rows, float, float]:
        """Chunks and nodes of all levels compared at once; the best nodes are opened down to their chunks."""
        chunks, nodes = self._matrix @ self.vectors.T, self._matrix @ self._node_vectors.T

        def rows(place: int, partial: NDArray[np.floating]) -> NDArray[np.int64]:
            best = set(self._nodes[np.argsort(-nodes[place])[:opened]].tolist())
            inside = np.array([self._under(home, best) for home in self._home.tolist()])
            near = np.argsort(-chunks[place])[:_RESCORED]
            return np.union1d(np.union1d(np.flatnonzero(inside), near), self._routed[place])

        everything = np.concatenate([self.vectors, self._node_vectors])
        took = _milliseconds(lambda query: np.argpartition(everything @ query, -_RESCORED), self._matrix)
        return rows, float(len(everything)), took

    def _under(self, node: int | None, best: set[int]) -> bool:
        while node is not None:
            if node in best:
                return True
            node = self._parents[node]
        return False


def memory_rows(memory: MemoryIndex, queries: dict[str, str], title: str) -> dict[str, Row]:
    """The memory's own modes: run, embeddings scored, milliseconds."""
    found = {}
    for mode, width in [("flat", None), *(("beam", width) for width in _WIDTHS)]:
        run: Run = {}
        scored: list[int] = []
        ids = list(queries)
        for start in range(0, len(ids), 32):
            part = ids[start : start + 32]
            hits = memory.search_batch(
                [queries[one] for one in part], k=_DEPTH, mode=mode, beam_width=width, unique_documents=True
            )
            run |= {
                one: {hit.document_id: hit.score for hit in row} for one, row in zip(part, hits, strict=True)
            }
        texts = list(queries.values())[:_TIMED]
        memory.search(texts[0], k=10, mode=mode, beam_width=width)
        started = time.perf_counter()
        for text in texts:
            hits = memory.search(text, k=10, mode=mode, beam_width=width)
            scored.append(hits.statistics.embeddings_scored)
        took = 1000 * (time.perf_counter() - started) / len(texts)
        found[f"{title} {mode} {width or ''}".strip()] = run, float(np.mean(scored)), took
    return found


def evaluate(name: str, options: Namespace) -> None:
    """Prints the table of one set."""
    encoder, folder = cached_encoder(options.cache), options.data / name
    key = name if options.chunk_tokens == 128 else f"{name}-{options.chunk_tokens}"
    memory = cached_memory(
        key,
        lambda: read_corpus(folder),
        encoder,
        options.cache,
        chunking=ChunkingConfig(chunk_tokens=options.chunk_tokens),
    )
    judged = read_qrels(folder)
    queries = {q: row["text"] for q, row in read_queries(folder, "dev").items() if q in judged}
    queries = dict(list(queries.items())[: options.limit])
    rows = memory_rows(memory, queries, "untrained")
    copy = trained_copy(memory, options.weights, options.cache / "memories" / f"{key}.trained")
    with MemoryIndex.open(copy, encoder=encoder) as trained:
        rows |= memory_rows(trained, queries, "trained")
        rivals = Rivals(trained, prepare(trained, list(queries.values())))
        choices = {f"IVF {probe} of {_LISTS} lists + trained leaf": rivals.ivf(probe) for probe in _PROBES}
        choices["collapsed levels + trained leaf"] = rivals.collapsed()
        for title, (choose, scored, compared) in choices.items():
            run, ranked = rivals.run(choose, list(queries))
            rows[title] = run, scored, compared + ranked
    report(name, rows, {query: judged[query] for query in queries})


def _milliseconds(compare: Callable[[NDArray[np.float32]], object], queries: NDArray[np.float32]) -> float:
    started = time.perf_counter()
    for query in queries[:_TIMED]:
        compare(query)
    return 1000 * (time.perf_counter() - started) / len(queries[:_TIMED])


def report(name: str, rows: dict[str, Row], qrels: dict[str, dict[str, int]]) -> None:
    """Quality, embeddings scored, milliseconds."""
    from ir_measures import R, nDCG

    print(f"\n### {name}: {len(qrels)} questions\n")
    table = []
    for label, (run, scored, took) in rows.items():
        values = per_query(run, qrels, [nDCG @ 10, R @ 10])
        cells = [f"{values[str(metric)].mean():.3f}" for metric in (nDCG @ 10, R @ 10)]
        table.append([label, *cells, f"{scored:.0f}", f"{took:.1f}"])
    print_table(["", "nDCG@10", "R@10", "scored", "ms/query"], table)


def main() -> None:
    arguments = parser((__doc__ or "").splitlines()[0])
    arguments.add_argument("--sets", nargs="+", default=["squad", "scifact"])
    arguments.add_argument("--chunk-tokens", type=int, default=128)
    arguments.add_argument("--limit", type=int, default=600)
    arguments.add_argument("--weights", default="default")
    options = arguments.parse_args()
    print(f"On {machine()}; encoder all-MiniLM-L6-v2.")
    for name in options.sets:
        evaluate(name, options)


if __name__ == "__main__":
    main()
