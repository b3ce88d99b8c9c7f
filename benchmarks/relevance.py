"""Does relevance know what a memory cannot answer: in long texts and notes, in large memories and small?

    python benchmarks/relevance.py --data DIR

Questions of five sets, each asked in a large memory, in small ones (a namespace for each article or chat),
and in notes of one sentence. A question is unanswerable when it belongs to another set, or when what answers
it is taken from the candidates. "before" is the score alone, "after" also what the search as a whole tells
(`Setting`), fitted on the other families: those of squad are one, and locomo is in no fit.
"""

from __future__ import annotations

import random
import re
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from beir import read_corpus, read_qrels, read_queries
from common import cached_encoder, cached_memory, machine, parser, print_table
from leaf_ranker import auroc
from numpy.typing import NDArray

from mllm_plugin import Document
from mllm_plugin.hierarchy import Hierarchy, LeafRanker
from mllm_plugin.hierarchy.weights import shipped_weights
from mllm_plugin.training.leaf import LeafEvidence, calibrate_relevance, collect_evidence

SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
HELD_OUT = "locomo"
Judged = dict[str, tuple[str, frozenset[str]]]  # text and documents that answer it, by question


@dataclass(frozen=True)
class Place:
    """A namespace with its questions."""

    kind: str
    name: str
    documents: list[Document]
    questions: Judged


@dataclass
class Asked:
    """Searches of one kind of memory: questions with an answer there, and strangers' questions."""

    own: list[LeafEvidence] = field(default_factory=list)
    strange: list[LeafEvidence] = field(default_factory=list)

    @property
    def unanswerable(self) -> list[LeafEvidence]:
        """Strangers' questions, and own ones whose answers are taken out."""
        return [*self.strange, *(one.without_answers() for one in self.own)]


def places(options: Namespace) -> Iterator[Place]:
    """All namespaces."""
    squad = list(read_corpus(options.data / "squad", titles=False))
    articles: dict[str, list[Document]] = {}
    for one in squad:
        articles.setdefault(one.id.split("-")[0], []).append(one)
    asked = read_queries(options.data / "squad", None)
    judged = {q: (row["text"], frozenset([row["doc"]])) for q, row in asked.items()}
    yield Place("squad", "squad", squad, _some(judged, options.queries))
    for name in sorted(articles)[::3]:
        own = {q: one for q, one in judged.items() if next(iter(one[1])).startswith(f"{name}-")}
        yield Place("squad articles", name, articles[name], _some(own, options.queries // 10))
    for name in sorted(articles)[1::3]:
        notes = [note for one in articles[name] for note in sentences(one)]
        own = {q: (row["text"], _holding(notes, row)) for q, row in asked.items() if row["doc"][:3] == name}
        own = {q: one for q, one in own.items() if one[1]}
        yield Place("squad notes", f"{name} notes", notes, _some(own, options.queries // 10))
        for start in range(0, min(len(notes), 120), 20):
            few = notes[start : start + 20]
            ids = {note.id for note in few}
            here = {q: one for q, one in own.items() if one[1] <= ids}
            yield Place("few notes", f"{name} {start}", few, _some(here, 6))
    for name in ("scifact", "medquad", "cuad"):
        yield _large(name, options)
    yield from _chats(options)


def sentences(document: Document) -> Iterator[Document]:
    """Its sentences as notes."""
    for place, text in enumerate(SENTENCE.split(document.text)):
        if len(text.split()) > 3:
            yield Document(text, id=f"{document.id}/{place}")


def _holding(notes: Iterable[Document], row: Mapping) -> frozenset[str]:
    own = (note for note in notes if note.id.startswith(row["doc"] + "/"))
    return frozenset(note.id for note in own if any(answer in note.text for answer in row["answers"]))


def _large(name: str, options: Namespace) -> Place:
    """Questions of a set over the documents that answer them, and others."""
    folder = options.data / name
    qrels = read_qrels(folder)
    texts = {q: row["text"] for q, row in read_queries(folder, None).items()}
    judged = {q: (texts[q], frozenset(d for d, g in docs.items() if g > 0)) for q, docs in qrels.items()}
    asked = _some({q: one for q, one in judged.items() if one[1] and len(one[1]) < 9}, options.queries)
    wanted = {document for _, docs in asked.values() for document in docs}
    corpus = list(read_corpus(folder))
    others = (one for one in corpus if one.id not in wanted)
    chosen = [one for one in corpus if one.id in wanted]
    return Place(name, name, [*chosen, *islice(others, max(0, options.documents - len(chosen)))], asked)


def _chats(options: Namespace) -> Iterator[Place]:
    folder = options.data / "locomo"
    qrels = read_qrels(folder)
    groups: dict[str, list[Document]] = {}
    for one in read_corpus(folder):
        groups.setdefault(str(one.metadata["group"]), []).append(one)
    rows = read_queries(folder, None)
    for group, documents in groups.items():
        judged = {
            q: (row["text"], frozenset(d for d, g in qrels.get(q, {}).items() if g > 0))
            for q, row in rows.items()
            if row["group"] == group
        }
        own = {q: one for q, one in judged.items() if one[1]}
        yield Place("locomo", group, documents, _some(own, options.queries // 5))


def _some(questions: Judged, most: int) -> Judged:
    return {q: questions[q] for q in random.Random(0).sample(sorted(questions), min(most, len(questions)))}


def family(kind: str) -> str:
    """Kinds made of the same texts are one family."""
    return "squad" if kind.startswith("squad") or "notes" in kind else kind


def collect(options: Namespace) -> dict[str, Asked]:
    """Every search, by kind of memory."""
    chosen = list(places(options))
    memory = cached_memory("relevance", list, cached_encoder(options.cache), options.cache)
    pool = {one.kind: [text for text, _ in one.questions.values()] for one in chosen}
    found: dict[str, Asked] = {}
    for place in chosen:
        if not memory.namespaces(place.name):
            memory.add(place.documents, namespace=place.name)
        foreign = [text for kind, own in pool.items() if family(kind) != family(place.kind) for text in own]
        foreign = random.Random(1).sample(foreign, max(4, len(place.questions) // 2))
        own = {q: text for q, (text, _) in place.questions.items()}
        judged = {q: dict.fromkeys(documents, 1) for q, (_, documents) in place.questions.items()}
        asked = found.setdefault(place.kind, Asked())
        if own:
            asked.own += collect_evidence(memory, own, judged, most=200, namespace=place.name)
        strangers = {str(n): text for n, text in enumerate(foreign)}
        asked.strange += collect_evidence(memory, strangers, {}, most=200, namespace=place.name)
    for one in found.values():
        one.own = [row for row in one.own if set(row.documents) - row.relevant]
    return found


def fitted(found: Mapping[str, Asked], kinds: Iterable[str], leaf: LeafRanker) -> LeafRanker:
    """The leaf ranker with its relevance fitted on some kinds."""
    weights = leaf.tensors["weights"]
    evidence = {kind: [*found[kind].own, *found[kind].strange] for kind in kinds}
    return LeafRanker(tensors={"weights": weights, **calibrate_relevance(evidence, weights)})


def relevances(rows: Sequence[LeafEvidence], leaf: LeafRanker) -> NDArray[np.float64]:
    """Of the best hit of each search."""
    best = []
    for row in rows:
        scores = leaf.score(*row.features.T.astype(np.float64))
        best.append(leaf.relevance(float(scores.max()), row.setting(scores)))
    return np.array(best)


def miscalibration(yes: NDArray[np.float64], no: NDArray[np.float64], bins: int = 10) -> float:
    """How far off relevance is on average, at even odds (expected calibration error)."""
    says = np.concatenate([yes, no])
    is_so = np.concatenate([np.ones(len(yes)), np.zeros(len(no))])
    shares = np.concatenate([np.full(len(yes), 0.5 / len(yes)), np.full(len(no), 0.5 / len(no))])
    place = np.minimum((says * bins).astype(int), bins - 1)
    gaps = np.bincount(place, shares * (says - is_so), minlength=bins)
    return float(np.abs(gaps).sum())


def report(before: Mapping[str, tuple], after: Mapping[str, tuple]) -> None:
    """By kind, and all kinds with one threshold."""
    rows = []
    for kind in before:
        cells = [f"{len(before[kind][0])} / {len(before[kind][1])}"]
        for measure in (auroc, miscalibration):
            cells += [f"{measure(*one[kind]):.3f}" for one in (before, after)]
        cells += [" / ".join(f"{np.median(one):.2f}" for one in side[kind]) for side in (before, after)]
        rows.append([kind, *cells])
    pairs = ("AUROC", "calibration error", "median, answerable / not")
    print_table(
        ["", "questions", *(f"{name} {when}" for name in pairs for when in ("before", "after"))], rows
    )


def thresholds(sides: Mapping[str, Mapping[str, tuple]]) -> None:
    """What declining below one threshold for all kinds loses and gains."""
    rows = []
    for name, side in sides.items():
        yes, no = (np.concatenate([side[kind][part] for kind in side]) for part in (0, 1))
        for lost in (0.02, 0.05, 0.1):
            least = float(np.quantile(yes, lost))
            rows.append([name, f"{least:.2f}", f"{100 * lost:.0f} %", f"{100 * (no < least).mean():.0f} %"])
    print()
    print_table(["", "min_relevance", "answerable declined", "unanswerable declined"], rows)


def main() -> None:
    arguments = parser((__doc__ or "").splitlines()[0])
    arguments.add_argument("--queries", type=int, default=200, help="of each kind, at most")
    arguments.add_argument("--documents", type=int, default=1200, help="of each large memory, at most")
    arguments.add_argument(
        "--out", type=Path, help="write weights with the relevance fitted on all but locomo"
    )
    options = arguments.parse_args()
    found, encoder = collect(options), cached_encoder(options.cache)
    print(f"On {machine()}; encoder all-MiniLM-L6-v2.\n")
    weights = shipped_weights(encoder.fingerprint)
    assert weights is not None
    hierarchy = Hierarchy.from_weights(weights)
    old = hierarchy.leaf_ranker
    plain = LeafRanker(tensors={name: old.tensors[name] for name in ("weights", "relevance")})
    before, after = {}, {}
    for kind, one in found.items():
        known = [other for other in found if family(other) not in (family(kind), HELD_OUT)]
        new = fitted(found, known, old)
        before[kind], after[kind] = (
            (relevances(one.own, leaf), relevances(one.unanswerable, leaf)) for leaf in (plain, new)
        )
    report(before, after)
    thresholds({"before": before, "after": after})
    everything = fitted(found, [kind for kind in found if kind != HELD_OUT], old)
    print("\n" + str({name: value.round(3).tolist() for name, value in everything.tensors.items()}))
    if options.out:
        about = {**weights.config.about, "relevance": "benchmarks/relevance.py, all sets but locomo"}
        new = Hierarchy(rankers=hierarchy.rankers, leaf_ranker=everything)
        print(new.save(options.out, encoder=encoder.fingerprint, about=about))


if __name__ == "__main__":
    main()
