"""Which weights should the untrained leaf ranker have, and how does its score become a relevance?

    python benchmarks/leaf_weights.py --data DIR

Uses `train` queries and, for each, the 500 best chunks by cosine and lexical evidence. Prints nDCG@10 and the
share of identifier questions whose chunk is among the first ten, for a grid of formulas, then the logistic
fit of relevance on score.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from itertools import product

import numpy as np
from beir import read_corpus, read_qrels, read_queries
from common import cached_encoder, cached_memory, machine, parser, print_table, read_chunks
from numpy.typing import NDArray
from retrieval import identifier_questions

from mllm_plugin import MemoryIndex
from mllm_plugin.search.query import Query, View, make_queries
from mllm_plugin.search.rank import Candidates, evidence_of
from mllm_plugin.search.scan import scan
from mllm_plugin.store.decoded import EmbeddingChunkCache, build_image
from mllm_plugin.text.lexical import TermCounts, term_hash, terms_of

_CANDIDATES = 500
_GRID = [
    (power, k1, b, window, lexical)
    for power, (k1, b), window, lexical in product(
        (1.0, 2.0), ((1.2, 0.75), (0.6, 0.3), (0.3, 0.3)), (0.5, 1.0), (1.0, 1.5, 2.0)
    )
]


@dataclass(frozen=True)
class Evidence:
    """A query's candidates: evidence per chunk [n], counts of its terms [n, q], documents, relevance."""

    cosine: NDArray[np.float64]
    window: NDArray[np.float64]
    counts: NDArray[np.float64]
    lengths: NDArray[np.float64]
    idf: NDArray[np.float64]
    repeats: NDArray[np.float64]
    documents: list[str]
    relevant: dict[str, int]

    def lexical(self, power: float, k1: float, b: float, mean_length: float) -> NDArray[np.float64]:
        """BM25 over its bound with idf raised to a power."""
        weights = self.idf**power * self.repeats
        norm = k1 * (1 - b + b * self.lengths / mean_length)
        return (self.counts / (self.counts + norm[:, None])) @ weights / max(weights.sum(), 1e-9)

    def ranking(self, scores: NDArray[np.float64]) -> list[str]:
        """The first ten documents."""
        return list(dict.fromkeys(self.documents[row] for row in np.argsort(-scores, kind="stable")))[:10]

    def ndcg(self, scores: NDArray[np.float64]) -> float:
        """nDCG@10 with binary relevance."""
        gains = [
            1 / np.log2(rank + 2) for rank, doc in enumerate(self.ranking(scores)) if self.relevant.get(doc)
        ]
        ideal = sum(1 / np.log2(rank + 2) for rank in range(min(10, len(self.relevant))))
        return sum(gains) / ideal


def collect(
    memory: MemoryIndex, questions: dict[str, str], relevant: dict[str, dict[str, int]]
) -> tuple[list[Evidence], float]:
    """Evidence of every question, and the mean chunk length."""
    found = []
    with memory.snapshot() as snapshot:
        (row,) = snapshot.namespaces()
        view = View(snapshot, row, EmbeddingChunkCache(1 << 30), memory.hierarchy, memory.config.lexical)
        image = build_image(snapshot, row)
        queries = make_queries(
            list(questions.values()), None, memory.encoder, memory.config.chunking.chunk_tokens
        )
        for start in range(0, len(queries), 64):
            part = queries[start : start + 64]
            names = list(questions)[start : start + 64]
            for name, query, candidates in zip(
                names, part, scan(view, image, part, most=_CANDIDATES), strict=True
            ):
                found.append(_evidence(view, query, candidates, relevant[name]))
        return found, row.live_terms / row.live_chunks


def _evidence(view: View, query: Query, candidates: Candidates, relevant: dict[str, int]) -> Evidence:
    snapshot, row = view.snapshot, view.row
    known_places = snapshot.places(candidates.ids.tolist())
    places = [known_places[chunk] for chunk in candidates.ids.tolist()]
    whole = snapshot.texts({place.document_rowid for place in places})
    texts = [whole[place.document_rowid][0][place.start : place.end] for place in places]
    asked = Counter(map(term_hash, terms_of(query.text)))
    terms = list(asked)
    known = snapshot.frequencies(row, terms)
    df = np.array([known[term].live if term in known else 0 for term in terms], dtype=float)
    counted = TermCounts.of(texts)
    counts = np.zeros((len(texts), len(terms)))
    for column, term in enumerate(terms):
        entries = np.flatnonzero(counted.hashes == term)
        counts[counted.rows()[entries], column] = counted.counts[entries]
    cosine, window = evidence_of(view, query, candidates)
    return Evidence(
        cosine=cosine,
        window=window,
        counts=counts,
        lengths=counted.lengths.astype(float),
        idf=np.log1p((row.live_chunks - df + 0.5) / (df + 0.5)),
        repeats=np.array([asked[term] for term in terms], dtype=float),
        documents=[place.document_id for place in places],
        relevant=relevant,
    )


def calibrate(
    scores: NDArray[np.float64], labels: NDArray[np.float64], steps: int = 50
) -> tuple[float, float]:
    """Slope and offset of the logistic fit of labels on scores at even odds, by Newton's method."""
    inputs = np.stack([scores, np.ones_like(scores)], axis=1)
    weights = np.zeros(2)
    for _ in range(steps):
        chance = 1 / (1 + np.exp(-inputs @ weights))
        curvature = inputs.T @ (inputs * (chance * (1 - chance))[:, None]) + 1e-6 * np.eye(2)
        weights += np.linalg.solve(curvature, inputs.T @ (labels - chance))
    prior = float(np.log(labels.mean() / (1 - labels.mean())))
    return float(weights[0]), float(weights[1]) - prior


def quality(
    natural: list[Evidence], identifiers: list[Evidence], mean_length: float, formula: tuple[float, ...]
) -> tuple[float, float]:
    """nDCG@10 of natural questions and the share of identifier questions answered among the first ten."""
    power, k1, b, window, lexical = formula

    def score(one: Evidence) -> NDArray[np.float64]:
        return one.cosine + window * one.window + lexical * one.lexical(power, k1, b, mean_length)

    ndcg = [one.ndcg(score(one)) for one in natural]
    found = [
        bool(set(identifier.ranking(score(identifier))) & set(identifier.relevant))
        for identifier in identifiers
    ]
    return float(np.mean(ndcg)), float(np.mean(found))


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--sets", nargs="+", default=["squad", "scifact", "medquad"])
    arguments.add_argument("--queries", type=int, default=200)
    options = arguments.parse_args()
    print(f"On {machine()}; encoder all-MiniLM-L6-v2.\n")
    encoder = cached_encoder(options.cache)
    evidence: dict[str, tuple[list[Evidence], list[Evidence], float]] = {}
    for name in options.sets:
        folder = options.data / name
        memory = cached_memory(name, lambda folder=folder: read_corpus(folder), encoder, options.cache)
        judged = read_qrels(folder)
        texts = {q: row["text"] for q, row in read_queries(folder, "train").items() if q in judged}
        chosen = random.Random(1).sample(sorted(texts), min(options.queries, len(texts)))
        natural, mean_length = collect(memory, {q: texts[q] for q in chosen}, judged)
        identifiers, _ = collect(memory, *identifier_questions(read_chunks(memory), 100, seed=5))
        evidence[name] = natural, identifiers, mean_length
    rows = []
    for formula in _GRID:
        cells = [value for found in evidence.values() for value in quality(*found, formula)]
        rows.append([*formula, *cells, float(np.mean(cells[::2]))])
    header = [f"{name} {kind}" for name in options.sets for kind in ("nDCG@10", "identifiers R@10")]
    print_table(
        ["idf power", "k1", "b", "window weight", "lexical weight", *header, "mean nDCG@10"],
        [[f"{value:.3g}" for value in row] for row in sorted(rows, key=lambda row: -row[-1])],
    )
    print_calibration(evidence)


def print_calibration(evidence: dict[str, tuple[list[Evidence], list[Evidence], float]]) -> None:
    """Fits relevance over the ten best chunks of every natural question, set by set, default formula."""
    fits = []
    for name, (natural, _, mean_length) in evidence.items():
        scores, labels = [], []
        for one in natural:
            values = one.cosine + one.window + 1.5 * one.lexical(2.0, 0.3, 0.3, mean_length)
            best = np.argsort(-values)[:10]
            scores.extend(values[best])
            labels.extend(float(bool(one.relevant.get(one.documents[row]))) for row in best)
        fits.append(calibrate(np.array(scores), np.array(labels)))
        print(f"\n{name}: relevance = sigmoid({fits[-1][0]:.2f} * score {fits[-1][1]:+.2f})", end="")
    slope, offset = np.mean(fits, axis=0)
    print(f"\nmean of the sets: relevance = sigmoid({slope:.2f} * score {offset:+.2f})")


if __name__ == "__main__":
    main()
