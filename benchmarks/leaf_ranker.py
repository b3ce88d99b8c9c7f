"""Does the leaf ranker, trained on some sets, rank better on another? Does it know what it cannot answer?

    python benchmarks/leaf_ranker.py --data DIR --sets squad scifact medquad cuad

Every set is ranked by weights trained on the `train` queries of the other sets ("left out") and of all sets
("in domain"); measured on `dev` queries. All rows see the same chunks. The second stage lets the finalists
speak of each other: it adds the cosine with the mean embedding of the best three. A question is unanswerable
when it belongs to another set, or when the documents that answer it are taken from the candidates.
"""

from __future__ import annotations

import random
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from beir import read_corpus, read_qrels, read_queries
from cached_encoder import CachedEncoder
from common import (
    Run,
    cached_encoder,
    cached_memory,
    interval,
    machine,
    parser,
    per_query,
    print_table,
    read_chunks,
)
from numpy.typing import NDArray
from retrieval import identifier_questions, rivals

from mllm_plugin import ChunkingConfig
from mllm_plugin.hierarchy import LeafRanker
from mllm_plugin.training.leaf import LeafEvidence, collect_evidence, train_leaf

Scorer = Callable[[LeafEvidence], NDArray[np.floating]]
_FEEDBACK = 0.3  # weight of the second stage
_FEEDBACK_FROM = 3  # finalists that it listens to
_IDENTIFIERS = "identifiers"


@dataclass(frozen=True)
class Measured:
    """What is known of one set.

    Attributes:
        train, dev: Evidence of its queries; `dev` with embeddings.
        names: Ids of the `dev` queries.
        qrels: Their relevant documents.
        identifiers: Evidence of identifier questions, for training and for measuring.
        strangers: Evidence of questions of other sets.
        rivals: Runs over the same chunks.
    """

    train: list[LeafEvidence]
    dev: list[LeafEvidence]
    names: list[str]
    qrels: dict[str, dict[str, int]]
    identifiers: tuple[list[LeafEvidence], list[LeafEvidence]]
    strangers: list[LeafEvidence]
    rivals: dict[str, Run]


def chosen_queries(name: str, split: str, most: int, options: Namespace) -> dict[str, str]:
    """Texts of up to `most` judged queries."""
    judged = read_qrels(options.data / name)
    texts = {q: row["text"] for q, row in read_queries(options.data / name, split).items() if q in judged}
    return {q: texts[q] for q in random.Random(0).sample(sorted(texts), min(most, len(texts)))}


def measure(name: str, options: Namespace, encoder: CachedEncoder) -> Measured:
    """Reads one set."""
    folder = options.data / name
    key = name if options.chunk_tokens == 128 else f"{name}-{options.chunk_tokens}"
    chunking = ChunkingConfig(chunk_tokens=options.chunk_tokens)
    memory = cached_memory(key, lambda: read_corpus(folder), encoder, options.cache, chunking=chunking)
    judged, chunks = read_qrels(folder), read_chunks(memory)
    dev = chosen_queries(name, "dev", options.queries, options)
    strangers = {
        f"{other}:{query}": text
        for other in options.sets
        if other != name
        for query, text in chosen_queries(other, "dev", options.strangers, options).items()
    }
    asked = [identifier_questions(chunks, options.identifiers, seed) for seed in (1, 2)]
    most = options.candidates
    return Measured(
        train=collect_evidence(
            memory, chosen_queries(name, "train", options.train, options), judged, most=most
        ),
        dev=collect_evidence(memory, dev, judged, most=most, vectors=True),
        names=list(dev),
        qrels={query: judged[query] for query in dev},
        identifiers=tuple(collect_evidence(memory, *one, most=most) for one in asked),  # type: ignore[arg-type]
        strangers=collect_evidence(memory, strangers, {}, most=most),
        rivals={row: timed.run for row, timed in rivals(memory, chunks, dev).items()},
    )


def trained_on(sets: Mapping[str, Measured], names: Sequence[str]) -> LeafRanker:
    """A ranker trained on these sets; all their identifier questions together are one set more."""
    evidence = {name: sets[name].train for name in names}
    evidence[_IDENTIFIERS] = [one for name in names for one in sets[name].identifiers[0]]
    return LeafRanker(tensors=train_leaf(evidence))


def scorer(ranker: LeafRanker) -> Scorer:
    """Scores of candidates by a ranker."""
    return lambda one: ranker.score(*one.features.T.astype(np.float64))


def second_stage(first: Scorer) -> Scorer:
    """Scores moved towards what is like the best finalists (pseudo relevance feedback, Rocchio 1971)."""

    def score(one: LeafEvidence) -> NDArray[np.floating]:
        scores, vectors = first(one), one.vectors.astype(np.float32)  # type: ignore[union-attr]
        best = vectors[np.argsort(-scores)[:_FEEDBACK_FROM]].mean(axis=0)
        return scores + _FEEDBACK * (vectors @ best)

    return score


def ndcg(one: Measured, run: Run) -> NDArray[np.float64]:
    """nDCG@10 of every `dev` query."""
    from ir_measures import nDCG

    return per_query(run, one.qrels, [nDCG @ 10])["nDCG@10"]


def ranked(one: Measured, score: Scorer) -> Run:
    """The first ten documents of every `dev` query."""
    rankings = (evidence.ranking(score(evidence)) for evidence in one.dev)
    return {
        name: {document: 1.0 / (1 + place) for place, document in enumerate(ranking)}
        for name, ranking in zip(one.names, rankings, strict=True)
    }


def found(evidence: Sequence[LeafEvidence], score: Scorer) -> float:
    """Share of questions with a relevant document among the first ten."""
    return float(np.mean([bool(one.relevant & set(one.ranking(score(one)))) for one in evidence]))


def auroc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Chance that a positive value is above a negative one; ties count half."""
    above = np.subtract.outer(np.asarray(positive), np.asarray(negative))
    return float((above > 0).mean() + 0.5 * (above == 0).mean())


def best_scores(evidence: Sequence[LeafEvidence], score: Scorer, *, answers: bool = True) -> list[float]:
    """Each question's best score; without `answers`, of the documents that do not answer it."""
    best = []
    for one in evidence:
        left = [answers or document not in one.relevant for document in one.documents]
        best.append(float(score(one)[left].max(initial=-1.0)))
    return best


def print_ranking(sets: Mapping[str, Measured], left_out: Mapping[str, LeafRanker], all_: LeafRanker) -> None:
    """nDCG@10 per set, and what the left-out ranker gains over the best rival."""
    rows, gains = [], []
    for name, one in sets.items():
        runs = dict(one.rivals)
        best = max(runs, key=lambda rival: ndcg(one, runs[rival]).mean())
        runs["untrained"] = ranked(one, scorer(LeafRanker()))
        runs["left out"] = ranked(one, scorer(left_out[name]))
        runs["in domain"] = ranked(one, scorer(all_))
        runs["left out, second stage"] = ranked(one, second_stage(scorer(left_out[name])))
        values = {row: ndcg(one, run) for row, run in runs.items()}
        gain = values["left out"] - values[best]
        gains.append(gain.mean())
        low, high = interval(gain)
        cells = [f"{value.mean():.4f}" for value in values.values()]
        rows.append([name, str(len(one.dev)), *cells, f"{best} {gain.mean():+.3f} [{low:+.3f}, {high:+.3f}]"])
    header = ["", "queries", *values, "left out against the best rival, 95 %"]
    print(f"\n### nDCG@10: mean gain over the best rival {np.mean(gains):+.3f}\n")
    print_table(header, rows)


def print_identifiers(sets: Mapping[str, Measured], left_out: Mapping[str, LeafRanker]) -> None:
    """Recall@10 of questions for a term that one chunk alone has."""
    print("\n### Identifier questions, recall@10\n")
    print_table(
        ["", "untrained", "left out"],
        [
            [name, *(f"{found(one.identifiers[1], scorer(r)):.3f}" for r in (LeafRanker(), left_out[name]))]
            for name, one in sets.items()
        ],
    )


def print_answerable(sets: Mapping[str, Measured], left_out: Mapping[str, LeafRanker]) -> None:
    """AUROC of answerable questions against two kinds of unanswerable ones, by the best score."""
    rows = []
    for name, one in sets.items():
        cells = []
        for score in (lambda evidence: evidence.features[:, 0], scorer(left_out[name])):
            right = best_scores(one.dev, score)
            strange = best_scores(one.strangers, score)
            taken = best_scores(one.dev, score, answers=False)
            cells.append([auroc(right, strange), auroc(right, taken), auroc(right, strange + taken)])
        rows.append([name, *(f"{value:.3f}" for pair in zip(*cells, strict=True) for value in pair)])
    print("\n### Answerable against unanswerable, AUROC of the best chunk\n")
    kinds = ("another set's", "answers taken out", "both")
    print_table(["", *(f"{kind}: {by}" for kind in kinds for by in ("cosine", "relevance"))], rows)


def main() -> None:
    arguments = parser((__doc__ or "").splitlines()[0])
    arguments.add_argument("--sets", nargs="+", default=["squad", "scifact", "medquad", "cuad"])
    arguments.add_argument("--chunk-tokens", type=int, default=128)
    arguments.add_argument("--train", type=int, default=1000, help="train queries per set")
    arguments.add_argument("--queries", type=int, default=600, help="dev queries per set")
    arguments.add_argument("--candidates", type=int, default=200)
    arguments.add_argument("--identifiers", type=int, default=150, help="questions per set, for each use")
    arguments.add_argument("--strangers", type=int, default=60, help="questions of every other set")
    options = arguments.parse_args()
    if len(options.sets) < 2:
        arguments.error("one set is left out: --sets takes at least two")
    print(f"On {machine()}; encoder all-MiniLM-L6-v2.")
    encoder = cached_encoder(options.cache)
    sets = {name: measure(name, options, encoder) for name in options.sets}
    left_out = {name: trained_on(sets, [other for other in sets if other != name]) for name in sets}
    everything = trained_on(sets, list(sets))
    print_ranking(sets, left_out, everything)
    print_identifiers(sets, left_out)
    print_answerable(sets, left_out)
    rankers = {f"without {name}": one for name, one in left_out.items()} | {"all": everything}
    for name, ranker in rankers.items():
        numbers = {key: [f"{one:.3f}" for one in value] for key, value in ranker.tensors.items()}
        print(f"\n{name}: {numbers}", end="")
    print()


if __name__ == "__main__":
    main()
