"""What do the upper levels tell a language model: as vectors, or as labels?

    python benchmarks/upper_levels.py --data DIR

Tasks of the model with the package's reader, whose changes it has in every row. "vectors" are means of what
the reader writes of a node's most central chunks, "labels" the words of `MemoryIndex.overview`.

- about: what is this collection about? Articles of squad are collections, read as the mean of all and the
  means of their parts. How likely the title is, how often it is the likeliest of six, and how many of its
  words the model says.
- medquad, cuad: of two chunks of one kind from different documents, the one after which the question is more
  likely, each behind what its own lowest node tells. The rival is the document's title.
- next: a chunk behind what the lowest node of the chunk before it tells; it is not in that node itself.

Losses are nats per token. Intervals are of 95 %, differences paired with "nothing".
"""

from __future__ import annotations

import argparse
import copy
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np
import torch
from beir import read_corpus, read_qrels, read_queries
from common import cached_encoder, cached_memory, interval, machine, parser, print_table
from numpy.typing import NDArray

from mllm_plugin import Document, MemoryIndex
from mllm_plugin.llm import MemoryReader, Prompt, PromptLayout, assemble, load_llm, shipped_reader
from mllm_plugin.llm.decoding import Decoding
from mllm_plugin.llm.generate import generate
from mllm_plugin.types import Topic

NODE = 2
WORDS, PARTS, FACES = 6, 4, 4
CENTRAL = 8  # chunks of a lowest node that its vector is the mean of
CHOICES = 6
ABOUT, ANSWERS, GO_ON = "What is this collection about?", "What does it answer?", "Go on."


@dataclass(frozen=True)
class Told:
    """What is read before the rest: text, and vectors [n, h]."""

    text: str = ""
    vectors: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Item:
    """One question, and what may be told before it.

    Attributes:
        asked: The user's words.
        passages: The text that stands there; where there are several, the first is right.
        answers: What is likely or not; where there are several, the first is right.
        told: By kind; one for each passage.
    """

    asked: str
    passages: Sequence[str]
    answers: Sequence[str]
    told: Mapping[str, Sequence[Told]]


@dataclass(frozen=True)
class Outcome:
    """Of one item and one kind: the loss of what is right, whether it is the likeliest, and what is said."""

    loss: float
    right: float
    said: float = 0.0


class Model:
    """The language model with its reader."""

    def __init__(self) -> None:
        self.llm = load_llm()
        reader = shipped_reader(self.llm)
        assert reader is not None
        self.reader: MemoryReader = reader
        self.layout = PromptLayout(self.llm.tokenizer)
        self.reader.space(self.llm)
        self._written: dict[str, NDArray[np.float32]] = {}

    def node(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The vector of a node of these chunks [1, h]."""
        new = [text for text in dict.fromkeys(texts) if text not in self._written]
        for text, one in zip(new, self.reader.write(self.llm, new), strict=True):
            self._written[text] = one.vectors.mean(axis=0)
        return np.mean([self._written[text] for text in texts], axis=0, keepdims=True)

    def outcomes(self, item: Item) -> dict[str, Outcome]:
        """What each kind of telling gives."""
        said = self._shares_said(item) if len(item.answers) > 1 else dict.fromkeys(item.told, 0.0)
        found = {}
        for kind, told in item.told.items():
            if len(item.passages) > 1:
                pairs = zip(told, item.passages, strict=True)
                losses = [self._losses(one, text, item.asked, item.answers)[0] for one, text in pairs]
            else:
                losses = self._losses(told[0], item.passages[0], item.asked, item.answers)
            found[kind] = Outcome(losses[0], float(losses[0] == min(losses)), said[kind])
        return found

    def _losses(self, told: Told, passage: str, asked: str, answers: Sequence[str]) -> list[float]:
        """Nats per token of each answer; what comes before is read once."""
        prompt, vectors = self._prompt(told, passage, asked)
        memory = self.reader.soft_tokens(*vectors) if prompt.memory_tokens else None
        found = []
        with torch.inference_mode(), self.reader.applied(self.llm.model):
            inputs = assemble(self.llm, [prompt], memory).inputs_embeds
            read = self.llm.model(inputs_embeds=inputs, use_cache=True, logits_to_keep=1)
            for answer in answers:
                ids = self.llm.tokenizer(answer, add_special_tokens=False, return_tensors="pt").input_ids
                kept = copy.deepcopy(read.past_key_values)
                rest = self.llm.model(inputs_embeds=self.llm.embeddings(ids), past_key_values=kept).logits
                logits = torch.cat([read.logits[0], rest[0, :-1]]).float()
                found.append(float(torch.nn.functional.cross_entropy(logits, ids[0])))
        return found

    def _shares_said(self, item: Item) -> dict[str, float]:
        """Share of the right answer's words that are in what the model says, by kind."""
        given = [self._prompt(told[0], item.passages[0], item.asked) for told in item.told.values()]
        prompts, vectors = zip(*given, strict=True)
        decoding = Decoding(max_new_tokens=24, decline_above=1)
        said = generate(self.llm, prompts, vectors, adapter=self.reader, decoding=decoding)
        shares = [share_said(item.answers[0], one.text) for one in said]
        return dict(zip(item.told, shares, strict=True))

    def _prompt(
        self, told: Told, passage: str, asked: str
    ) -> tuple[Prompt, tuple[NDArray[np.float32], NDArray[np.int64]]]:
        vectors = np.zeros((0, self.llm.hidden), np.float32) if told.vectors is None else told.vectors
        passages = [text for text in (told.text, passage) if text]
        prompt = self.layout.build(asked, passages=passages, memory_tokens=len(vectors))
        return prompt, (vectors, np.full(len(vectors), NODE))


def share_said(title: str, said: str) -> float:
    """Share of a title's words that are in a text."""
    words = set(re.findall(r"\w+", title.lower()))
    return len(words & set(re.findall(r"\w+", said.lower()))) / len(words)


def labels_of(parts: Iterable[Topic]) -> Told:
    """Labels as a `MemoryLLM` shows them."""
    labels = "; ".join(", ".join(part.words) for part in parts if part.words)
    return Told(f"Topics: {labels}" if labels else "")


def lowest_node(
    memory: MemoryIndex, model: Model, text: str, without: Sequence[str] = ()
) -> tuple[Told, Told]:
    """The label and the vector of the lowest node nearest to a text, less some documents."""
    rest = {"document": {"$nin": list(without)}} if without else None
    parts = memory.overview(text, nodes=1, words=WORDS, faces=CENTRAL, filter=rest)
    faces = [face.text for part in parts for face in part.faces]
    return labels_of(parts), Told(vectors=model.node(faces)) if faces else Told()


def sampled(items: Sequence, count: int, seed: int) -> list:
    """So many of them, in random order."""
    return [items[n] for n in np.random.default_rng(seed).permutation(len(items))[:count].tolist()]


# -- tasks


def about(model: Model, options: argparse.Namespace) -> Iterator[Item]:
    """Articles of squad."""
    articles: dict[str, list[Document]] = {}
    for one in read_corpus(options.data / "squad", titles=False):
        articles.setdefault(one.id.split("-")[0], []).append(one)
    rows = read_queries(options.data / "squad", None).values()
    titles = {row["doc"].split("-")[0]: row["title"].replace("_", " ") for row in rows}
    memory = cached_memory("collections", list, cached_encoder(options.cache), options.cache)
    order = sampled(sorted(titles), options.items, 0)
    labels, vectors = {}, {}
    for name in order:
        if not memory.namespaces(name):
            memory.add(articles[name], namespace=name)
        parts = memory.overview(namespace=name, nodes=PARTS, words=WORDS, faces=FACES)
        means = [model.node([face.text for face in part.faces]) for part in parts]
        labels[name] = labels_of(parts)
        vectors[name] = Told(vectors=np.concatenate([np.mean(means, axis=0), *means]))
    for place, name in enumerate(order):
        others = [order[(place + step) % len(order)] for step in range(1, CHOICES)]
        told = {
            "nothing": [Told()],
            "labels": [labels[name]],
            "another's labels": [labels[others[2]]],
            "vectors": [vectors[name]],
            "another's vectors": [vectors[others[2]]],
        }
        yield Item(ABOUT, [""], [titles[one] for one in (name, *others)], told)


def choosing(name: str) -> Callable[[Model, argparse.Namespace], Iterator[Item]]:
    """Pairs of chunks of one kind, of a set."""

    def items(model: Model, options: argparse.Namespace) -> Iterator[Item]:
        folder = options.data / name
        texts, titles = {}, {}
        for row in read_corpus(folder):
            titles[row.id], _, texts[row.id] = row.text.partition("\n")
        queries, qrels = read_queries(folder, None), read_qrels(folder)
        pairs = pairs_of_a_kind(queries, {q: next(iter(docs)) for q, docs in qrels.items() if len(docs) == 1})
        pairs = sampled(pairs, options.items // 2, 1)
        answers = sorted({document for pair in pairs for _, document in pair})
        others = sampled(sorted(texts.keys() - set(answers)), options.others, 2)
        memory = cached_memory(
            f"choosing {name} {options.items} {options.others}",
            lambda: [Document(texts[one], id=one) for one in [*answers, *others]],
            cached_encoder(options.cache),
            options.cache,
        )
        first: dict[str, str] = {}
        for chunk in memory.chunks():
            first.setdefault(chunk.document_id, chunk.text)
        told_of = {answer: lowest_node(memory, model, first[answer]) for answer in answers}
        for pair in pairs:
            for (query, right), (_, wrong) in (pair, pair[::-1]):
                labels, vectors = zip(*(told_of[one] for one in (right, wrong)), strict=True)
                told = {
                    "nothing": [Told(), Told()],
                    "labels": labels,
                    "vectors": vectors,
                    "title": [Told(titles[one]) for one in (right, wrong)],
                }
                yield Item(ANSWERS, [first[right], first[wrong]], [queries[query]["text"]], told)

    return items


def pairs_of_a_kind(
    queries: Mapping[str, Mapping], answers: Mapping[str, str]
) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """Pairs of questions of one kind with their documents; no question and no document twice."""
    by_kind: dict[str, list[tuple[str, str]]] = {}
    taken: set[str] = set()
    for query in sampled(sorted(answers.keys() & queries.keys()), len(answers), 0):
        if answers[query] not in taken:
            taken.add(answers[query])
            kind = queries[query].get("qtype") or queries[query]["category"]
            by_kind.setdefault(kind, []).append((query, answers[query]))
    return [pair for own in by_kind.values() for pair in zip(own[::2], own[1::2], strict=False)]


def following(model: Model, options: argparse.Namespace) -> Iterator[Item]:
    """Paragraphs of some articles of squad, each behind what the node of the one before tells."""
    articles: dict[str, list[Document]] = {}
    for one in read_corpus(options.data / "squad", titles=False):
        document = Document(one.text, id=one.id, metadata={"document": one.id})
        articles.setdefault(one.id.split("-")[0], []).append(document)
    corpus: list[Document] = []
    for name in sampled(sorted(articles), len(articles), 3):
        if len(corpus) < options.items + options.others:
            corpus += articles[name]
    name = f"following {options.items} {options.others}"
    memory = cached_memory(name, lambda: corpus, cached_encoder(options.cache), options.cache)
    pairs = [(a, b) for a, b in pairwise(corpus) if a.id.split("-")[0] == b.id.split("-")[0]]
    pairs = sampled(pairs, options.items, 0)
    nodes = [lowest_node(memory, model, before.text, [after.id]) for before, after in pairs]
    for place, (before, after) in enumerate(pairs):
        foreign = nodes[(place + len(pairs) // 2) % len(pairs)]
        told = {
            "nothing": [Told()],
            "labels": [nodes[place][0]],
            "another's labels": [foreign[0]],
            "vectors": [nodes[place][1]],
            "another's vectors": [foreign[1]],
            "the chunk before": [Told(before.text)],
        }
        yield Item(GO_ON, [""], [after.text], told)


TASKS = {"about": about, "medquad": choosing("medquad"), "cuad": choosing("cuad"), "next": following}


# -- what is printed


def measured(task: str, model: Model, options: argparse.Namespace) -> dict[str, list[Outcome]]:
    """Outcomes by kind, from the cache when the same was run before."""
    path = options.cache / "upper-levels" / f"{task}-{options.items}-{options.others}.json"
    if path.is_file():
        kept = json.loads(path.read_text())
        return {kind: [Outcome(**one) for one in own] for kind, own in kept.items()}
    found: dict[str, list[Outcome]] = {}
    for item in TASKS[task](model, options):
        for kind, outcome in model.outcomes(item).items():
            found.setdefault(kind, []).append(outcome)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({kind: [asdict(one) for one in own] for kind, own in found.items()}))
    return found


def report(task: str, found: Mapping[str, Sequence[Outcome]]) -> None:
    """The table of one task; columns that cannot differ are left out."""
    base = found["nothing"]
    columns = (
        ["loss"] if task == "next" else ["loss", "right", "said"] if task == "about" else ["loss", "right"]
    )
    table = []
    for kind, own in found.items():
        cells = [kind]
        for column in columns:
            unit = 1 if column == "loss" else 100
            values, less = (unit * np.array([getattr(row, column) for row in rows]) for rows in (own, base))
            cells.append(f"{values.mean():.{3 if unit == 1 else 0}f}{' %' if unit > 1 else ''}")
            cells.append("" if kind == "nothing" else paired(values - less, 3 if unit == 1 else 0))
        table.append(cells)
    print(f"\n### {task}: {len(base)}\n")
    print_table(["read", *(cell for column in columns for cell in (column, "less nothing"))], table)


def paired(gap: NDArray[np.float64], digits: int) -> str:
    """A mean difference with its interval."""
    low, high = interval(gap)
    return f"{gap.mean():+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def main() -> None:
    arguments = parser((__doc__ or "").splitlines()[0])
    arguments.add_argument("--items", type=int, default=32, help="collections, questions, chunks")
    arguments.add_argument("--others", type=int, default=200, help="documents beside those that answer")
    arguments.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    options = arguments.parse_args()
    print(f"On {machine()}; SmolLM2-135M-Instruct with the shipped reader.", flush=True)
    model = Model()
    for task in options.tasks:
        report(task, measured(task, model, options))


if __name__ == "__main__":
    main()
