r"""How well a small language model answers from a memory: memory tokens, text, both; quality, tokens, time.

    python benchmarks/memory_llm.py --data DIR --plot docs/memory-llm.png

SQuAD `dev` questions over all its paragraphs. Rows differ in what the language model reads; the retriever and
the model are the same. "untouched" is the model as it comes; in the other rows it has the reader's changes,
which were trained on other articles' questions with text too, so text is no weaker a rival. Input tokens
count everything the model reads, memory tokens too. Unanswerable questions are the same ones, asked with the
document that answers left out of the search. Finished rows are kept in the cache, so that an interrupted run
goes on.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import resource
import time
from argparse import Namespace
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from answering import Asked, Row, rows_of
from beir import read_corpus, read_queries
from common import cached_encoder, cached_memory, interval, machine, parser, print_table
from numpy.typing import NDArray

from mllm_plugin import Document
from mllm_plugin.llm import MemoryReader, load_llm, shipped_reader
from mllm_plugin.llm.generate import generate, stream
from mllm_plugin.memory.checks import Scope
from mllm_plugin.memory_llm import MemoryLLM
from mllm_plugin.memory_llm.plan import Plan
from mllm_plugin.memory_llm.question import turns_of
from mllm_plugin.training.reader.answers import exact_match, f1

ANSWER_TOKENS = 24
_BATCH = 16
_TIMED = 8


@dataclass
class Outcome:
    """What a row gave: for each question F1, exact match, tokens read, how likely it found it to decline."""

    f1: list[float]
    exact: list[float]
    tokens: list[int]
    declined: list[float]
    first_token: float  # median milliseconds from question to first piece of answer, search included
    prefill: float  # of these, without the search
    megabytes: float  # at most, above what was in use before the first question
    said: list[str]


class Bench:
    """The model, its reader and the memory, each made once."""

    def __init__(self, options: Namespace) -> None:
        self.options, self.llm = options, load_llm(dtype=options.dtype)
        self.memory = cached_memory(
            "squad-documents", self._documents, cached_encoder(options.cache), options.cache
        )
        rows = list(read_queries(options.data / "squad", "dev").values())
        order = np.random.default_rng(0).permutation(len(rows))[: options.limit]
        self.asked = [Asked(rows[n]["text"], tuple(rows[n]["answers"]), rows[n]["doc"]) for n in order]
        self.reader = MemoryReader.load(options.reader) if options.reader else shipped_reader(self.llm)

    def _documents(self) -> list[Document]:
        corpus = read_corpus(self.options.data / "squad")
        return [replace(one, metadata={"document": one.id}) for one in corpus]

    def answerer(self, row: Row) -> MemoryLLM:
        """A `MemoryLLM` as the row has it."""
        return MemoryLLM(self.memory, self.llm, self.reader if row.reader else None)

    def settings(self, row: Row) -> dict[str, Any]:
        """Of every call."""
        return {"max_new_tokens": ANSWER_TOKENS, "search": "flat", **row.settings}

    def plans(self, row: Row, answerer: MemoryLLM, asked: Sequence[Asked]) -> tuple[list[Asked], list[Any]]:
        """The row's questions and what is read for each."""
        config = answerer._settings(self.settings(row))
        where = Scope()
        if row.without:
            found = []
            for one in asked:
                own = Scope(filter={"document": {"$ne": one.document}})
                found += answerer._plans([turns_of(one.text)], own, config)
            return list(asked), found
        found = answerer._plans([turns_of(one.text) for one in asked], where, config)
        if row.necessary:
            kept = [pair for pair in zip(asked, found, strict=True) if self._necessary(*pair)]
            return [one for one, _ in kept], [plan for _, plan in kept]
        return list(asked), list(_twisted(found, row.twist))

    def _necessary(self, one: Asked, plan: Plan) -> bool:
        shown = plan.passages[0].text if plan.passages else ""
        hits = self.memory.search(one.text, k=5, mode="flat")
        beside = any(any(answer in hit.text for answer in one.answers) for hit in hits[1:])
        return beside and not any(answer in shown for answer in one.answers)

    def run(self, row: Row) -> Outcome:
        """Answers all questions, then times a few."""
        answerer = self.answerer(row)
        config = answerer._settings(self.settings(row))
        asked, plans = self.plans(row, answerer, self.asked)
        said: list[str] = []
        declined: list[float] = []
        for start in range(0, len(plans), _BATCH):
            part = plans[start : start + _BATCH]
            found = generate(
                self.llm,
                [plan.prompt for plan in part],
                [plan.memory for plan in part],
                adapter=answerer.adapter,
                lora=_lora(config),
                decoding=config.decoding,
            )
            said += [one.text for one in found]
            declined += [one.declined or 0.0 for one in found]
        pairs = list(zip(said, (one.answers for one in asked), strict=True))
        times = timed_alone(self.options, row) if self.options.time else (0.0, 0.0, 0.0)
        return Outcome(
            [f1(*pair) for pair in pairs],
            [float(exact_match(*pair)) for pair in pairs],
            [len(plan.prompt) for plan in plans],
            declined,
            *times,
            said,
        )

    def time(self, row: Row) -> tuple[float, float, float]:
        """Median milliseconds to the first token, of these without the search, and megabytes at most."""
        answerer, before = self.answerer(row), _resident()
        times = [self.first_token(row, answerer, one) for one in self.asked[:_TIMED]]
        times = [self.first_token(row, answerer, one) for one in self.asked[:_TIMED]]  # written by now
        whole, model = np.median(times[1:], axis=0).tolist()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return whole, model, peak - before

    def first_token(self, row: Row, answerer: MemoryLLM, asked: Asked) -> tuple[float, float]:
        """Milliseconds from a question to the first piece of its answer, and of these without the search."""
        config = answerer._settings(self.settings(row))
        started = time.perf_counter()
        _, [plan] = self.plans(replace(row, necessary=False, twist=""), answerer, [asked])
        planned = time.perf_counter()
        pieces = stream(
            self.llm,
            plan.prompt,
            plan.memory,
            adapter=answerer.adapter,
            lora=_lora(config),
            decoding=config.decoding,
        )
        next(pieces)
        ended = time.perf_counter()
        pieces.close()
        return 1000 * (ended - started), 1000 * (ended - planned)

    def sooner(self, rows: Sequence[Row], than: Row) -> list[NDArray[np.float64]]:
        """How many times sooner each row's first token comes, question by question, all rows in turn."""
        answerers = [self.answerer(row) for row in (than, *rows)]
        times = []
        for one in self.asked[: 2 * _TIMED]:
            pairs = list(zip((than, *rows), answerers, strict=True))
            for row, answerer in pairs:
                self.plans(row, answerer, [one])  # chunks are written once, not with every question
            times.append([self.first_token(row, answerer, one)[1] for row, answerer in pairs])
        measured = np.array(times[1:])
        return list((measured[:, :1] / measured[:, 1:]).T)


def timed_alone(options: Namespace, row: Row) -> tuple[float, float, float]:
    """`Bench.time` in a process of its own, so that its memory can be measured."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(_time_in_process, options, row).result()


def _time_in_process(options: Namespace, row: Row) -> tuple[float, float, float]:
    return Bench(options).time(row)


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _lora(config: Any) -> bool:
    return config.mode in ("memory", "both") if config.lora is None else config.lora


@dataclass(frozen=True)
class _Twisted:
    """A plan whose embeddings are others."""

    prompt: Any
    memory: tuple[NDArray[np.float32], NDArray[np.int64]]


def _twisted(plans: Sequence[Plan], twist: str) -> Sequence[Any]:
    if not twist:
        return plans
    rng = np.random.default_rng(0)
    found = []
    for place, plan in enumerate(plans):
        count = len(plan.memory[1])
        if twist == "shuffled":
            order = rng.permutation(count)
            found.append(_Twisted(plan.prompt, (plan.memory[0][order], plan.memory[1][order])))
            continue
        other = plans[(place + len(plans) // 2) % len(plans)].memory
        rows = np.arange(count) % max(1, len(other[1]))
        found.append(_Twisted(plan.prompt, (other[0][rows], other[1][rows])))
    return found


def kept(bench: Bench, row: Row, folder: Path) -> Outcome:
    """The outcome of a row, from the cache when the same row was run before."""
    weights = bench.reader.fingerprint if row.reader and bench.reader else ""
    asked = [asdict(one) for one in bench.asked]
    parts = [bench.settings(row), row.twist, row.without, row.necessary, weights, asked, bench.options.dtype]
    key = json.dumps(parts, sort_keys=True, default=str)
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    if path.is_file():
        outcome = Outcome(**json.loads(path.read_text()))
        if not bench.options.time or outcome.first_token:
            return outcome
        first_token, prefill, megabytes = timed_alone(bench.options, row)
        outcome = replace(outcome, first_token=first_token, prefill=prefill, megabytes=megabytes)
    else:
        outcome = bench.run(row)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(outcome)))
    return outcome


def report(found: dict[str, tuple[Row, Outcome]]) -> None:
    """The table of answers."""
    table = []
    for row, one in found.values():
        low, high = interval(100 * np.array(one.f1)) if one.f1 else (0.0, 0.0)
        scores = (
            ["", ""]
            if row.without
            else [f"{100 * np.mean(one.f1):.1f} [{low:.1f}, {high:.1f}]", f"{100 * np.mean(one.exact):.1f}"]
        )
        declined = f"{100 * np.mean(np.array(one.declined) > 0.5):.1f} %" if row.reader else ""
        table.append(
            [row.name, str(len(one.f1)), *scores, declined, f"{np.mean(one.tokens):.0f}"]
            + [f"{value:.0f}" if value else "" for value in (one.first_token, one.prefill, one.megabytes)]
        )
    print_table(
        [
            "",
            "questions",
            "F1",
            "exact match",
            "declined",
            "input tokens",
            "first token ms",
            "of it the model",
            "peak MB",
        ],
        table,
    )


def differences(found: dict[str, tuple[Row, Outcome]]) -> None:
    """F1 of pairs of rows, question by question."""
    table = []
    for first, second in PAIRS:
        if first in found and second in found:
            gap = 100 * (np.array(found[first][1].f1) - np.array(found[second][1].f1))
            low, high = interval(gap)
            table.append([f"{first} less {second}", f"{gap.mean():+.1f} [{low:+.1f}, {high:+.1f}]"])
    print_table(["", "F1"], table)


def declining(found: dict[str, tuple[Row, Outcome]]) -> None:
    """How well declining tells questions without an answer in the memory from those with one."""
    table = []
    for there, gone in TOLD:
        if there in found and gone in found:
            known, unknown = (np.array(found[name][1].declined) for name in (there, gone))
            above = (unknown[:, None] > known).mean() + 0.5 * (unknown[:, None] == known).mean()
            lost = float(np.quantile(known, 0.95))
            right = 100 * np.mean(np.array(found[there][1].f1)[known > 0.5] > 0) if (known > 0.5).any() else 0
            table.append(
                [
                    there,
                    f"{above:.3f}",
                    f"{100 * np.mean(known > 0.5):.1f} %",
                    f"{100 * np.mean(unknown > 0.5):.1f} %",
                    f"{lost:.3f}",
                    f"{100 * np.mean(unknown > lost):.1f} %",
                    f"{right:.0f} %",
                ]
            )
    print_table(
        [
            "",
            "AUROC",
            "declined though answerable",
            "declined, unanswerable",
            "threshold that loses 5 %",
            "declines there",
            "",
        ],
        table,
    )


def latencies(bench: Bench, found: dict[str, tuple[Row, Outcome]]) -> None:
    """First tokens beside those of chunks as text, measured in turn since machines are noisy."""
    rows = [found[name][0] for name in SOONER if name in found]
    if not rows or THAN not in found:
        return
    table = []
    for row, ratios in zip(rows, bench.sooner(rows, found[THAN][0]), strict=True):
        low, high = interval(ratios)
        table.append([row.name, f"{ratios.mean():.2f} [{low:.2f}, {high:.2f}]"])
    print_table([f"first token sooner than `{THAN}`, without the search", "times"], table)


def draw(found: dict[str, tuple[Row, Outcome]], path: Path) -> None:
    """F1 against input tokens."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(10, 5))
    for row, one in found.values():
        if not row.twist and not row.without and not row.necessary:
            marker = "^" if "memory" in row.name else "o" if row.reader else "x"
            axes.scatter(np.mean(one.tokens), 100 * np.mean(one.f1), marker=marker, label=row.name)
    axes.set(xlabel="input tokens", ylabel="F1", xscale="log")
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


THAN = "text, 5 chunks"
SOONER = ("text, 1 chunks", "memory, 5 chunks", "memory, best chunk", "both: best chunk as text, 4 as memory")
BOTH = "both: best chunk as text, 4 as memory"
PAIRS = (
    ("memory, best chunk", "nothing"),
    ("memory, best chunk", "memory, best chunk, another question's"),
    ("memory, best chunk", "memory, best chunk, in random order"),
    ("memory, best chunk", "text cut to 32 tokens"),
    (BOTH, "text, 1 chunks"),
    (BOTH, "text, 5 chunks"),
    (BOTH, "both, another question's memory"),
    ("both, answer in memory alone", "text, best chunk, answer elsewhere"),
)
TOLD = (
    ("text, 1 chunks", "unanswerable: text, 1 chunks"),
    ("memory, 5 chunks", "unanswerable: memory, 5 chunks"),
    (BOTH, "unanswerable: both"),
)


def main() -> None:
    arguments = parser((__doc__ or "").splitlines()[0])
    arguments.add_argument("--reader", type=Path, help="folder; the shipped one when left out")
    arguments.add_argument("--limit", type=int, default=300, help="questions")
    arguments.add_argument(
        "--positions", type=int, default=32, help="tokens of text beside a best chunk's memory tokens"
    )
    arguments.add_argument("--rows", nargs="*", help="only rows whose name contains one of these")
    arguments.add_argument("--dtype", default="float32", help="of the language model")
    arguments.add_argument("--time", action="store_true", help="measure first tokens and memory of each row")
    arguments.add_argument("--plot", type=Path)
    options = arguments.parse_args()
    bench, found = Bench(options), {}
    for row in rows_of(options.positions):
        if not options.rows or any(one in row.name for one in options.rows):
            found[row.name] = (row, kept(bench, row, options.cache / "memory-llm"))
    print(f"On {machine()}; SmolLM2-135M-Instruct and all-MiniLM-L6-v2, {options.dtype}.\n")
    report(found)
    print()
    declining(found)
    print()
    differences(found)
    print()
    latencies(bench, found)
    if options.plot:
        draw(found, options.plot)


if __name__ == "__main__":
    main()
