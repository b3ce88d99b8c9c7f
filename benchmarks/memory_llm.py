r"""How well a small language model answers from a memory: embeddings, text, both; quality, tokens, time.

    python benchmarks/memory_llm.py --data DIR --text-lora DIR --plot docs/memory-llm.png

SQuAD `dev` questions over all its paragraphs, and comparison questions about two paragraphs that this script
generates. Rows differ in what the language model reads; the retriever and the model are the same. "untouched"
is the model as it comes; "text LoRA" the same model trained on the same questions with text in its prompt
(`train_adapter.py --text-only`), "adapter" the one that the package ships. Input tokens count everything the
model reads, soft tokens too. Finished rows are kept in the cache, so that an interrupted run goes on.
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
from answering import Asked, Row, comparisons, rows_of
from beir import read_corpus, read_queries
from cached_encoder import CachedEncoder
from common import cached_memory, interval, machine, parser, print_table
from numpy.typing import NDArray

from mllm_plugin import MemoryIndex
from mllm_plugin.encoders.huggingface import HuggingFaceEncoder
from mllm_plugin.encoders.resolve import DEFAULT_ENCODER
from mllm_plugin.llm import Adapter, load_llm
from mllm_plugin.llm.adapter import shipped_adapter
from mllm_plugin.llm.generate import generate, stream
from mllm_plugin.memory_llm import MemoryLLM
from mllm_plugin.memory_llm.messages import turns_of
from mllm_plugin.memory_llm.plan import Plan
from mllm_plugin.training.llm.evaluate import exact_match, f1

ANSWER_TOKENS = 24
_BATCH = 16
_TIMED = 8
_WHERE: dict[str, Any] = {"namespace": (), "prefix": False, "filter": None, "exclude_labels": ()}


@dataclass
class Outcome:
    """What a row gave: per question F1, exact match and tokens read; milliseconds and megabytes."""

    f1: list[float]
    exact: list[float]
    tokens: list[int]
    first_token: float  # median milliseconds from question to first piece of answer, search included
    prefill: float  # of these, without the search
    megabytes: float  # at most, above what was in use before the first question
    said: list[str]


class Bench:
    """The model, its weights and memories, each made once."""

    def __init__(self, options: Namespace) -> None:
        self.options, self.llm = options, load_llm()
        self.memories: dict[int, MemoryIndex] = {}
        self.asked = self._questions()
        encoder = self.memory().encoder.fingerprint
        self.adapters = {
            "untouched": None,
            "text LoRA": Adapter.load(options.text_lora) if options.text_lora else None,
            "adapter": Adapter.load(options.adapter)
            if options.adapter
            else shipped_adapter(self.llm, encoder),
        }

    def memory(self, words: int = 0) -> MemoryIndex:
        """All paragraphs of SQuAD; with windows of so many words, or the usual ones."""
        if words not in self.memories:
            options = self.options
            settings = {"window_tokens": words, "window_layer": 0} if words else {}
            encoder = CachedEncoder(
                HuggingFaceEncoder(DEFAULT_ENCODER, **settings), options.cache / "embeddings"
            )
            name = f"squad-words-{words}" if words else "squad"
            self.memories[words] = cached_memory(
                name, lambda: read_corpus(options.data / "squad"), encoder, options.cache
            )
        return self.memories[words]

    def _questions(self) -> dict[str, list[Asked]]:
        rows = list(read_queries(self.options.data / "squad", "dev").values())
        order = np.random.default_rng(0).permutation(len(rows))[: self.options.limit]
        single = [Asked(rows[n]["text"], tuple(rows[n]["answers"])) for n in order]
        return {"single": single, "comparison": comparisons(rows, self.options.comparisons)}

    def reader(self, row: Row) -> MemoryLLM:
        """A `MemoryLLM` over the row's memory with the row's weights."""
        adapter = self.adapters[row.weights]
        memory = self.memory(row.words)
        if adapter is not None and memory.encoder.fingerprint not in (
            adapter.config.encoder,
            *adapter.config.encoders,
        ):
            raise SystemExit(f"the adapter does not read windows of {row.words} words")
        return MemoryLLM(memory, self.llm, adapter)

    def settings(self, row: Row) -> dict[str, Any]:
        """Of every call."""
        lora = {"lora": True} if row.weights == "text LoRA" else {}
        return {"max_new_tokens": ANSWER_TOKENS, "search": "flat", **lora, **row.settings}

    def run(self, row: Row) -> Outcome:
        """Answers all questions, then times a few."""
        reader, asked = self.reader(row), self.asked[row.questions]
        config = reader._settings(self.settings(row))
        plans = reader._plans([turns_of(one.text) for one in asked], _WHERE, config)
        plans = _twisted(plans, row.twist)
        said: list[str] = []
        for start in range(0, len(plans), _BATCH):
            part = plans[start : start + _BATCH]
            found = generate(
                self.llm,
                [plan.prompt for plan in part],
                [plan.memory for plan in part],
                adapter=reader.adapter,
                lora=_lora(config),
                decoding=config.decoding,
            )
            said += [one.text for one in found]
        pairs = list(zip(said, (one.answers for one in asked), strict=True))
        first_token, prefill, megabytes = timed_alone(self.options, row)
        return Outcome(
            [f1(*pair) for pair in pairs],
            [float(exact_match(*pair)) for pair in pairs],
            [len(plan.prompt) for plan in plans],
            first_token,
            prefill,
            megabytes,
            said,
        )

    def time(self, row: Row) -> tuple[float, float, float]:
        """Median milliseconds to the first token, of these without the search, and megabytes at most."""
        reader, before = self.reader(row), _resident()
        config = reader._settings(self.settings(row))
        times = [self.first_token(reader, config, one) for one in self.asked[row.questions][:_TIMED]]
        whole, model = np.median(times[1:], axis=0).tolist()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return whole, model, peak - before

    def first_token(self, reader: MemoryLLM, config: Any, asked: Asked) -> tuple[float, float]:
        """Milliseconds from a question to the first piece of its answer, and of these without the search."""
        started = time.perf_counter()
        [plan] = reader._plans([turns_of(asked.text)], _WHERE, config)
        planned = time.perf_counter()
        pieces = stream(
            self.llm,
            plan.prompt,
            plan.memory,
            adapter=reader.adapter,
            lora=_lora(config),
            decoding=config.decoding,
        )
        next(pieces)
        ended = time.perf_counter()
        pieces.close()
        return 1000 * (ended - started), 1000 * (ended - planned)

    def sooner(self, rows: Sequence[Row], than: Row) -> list[NDArray[np.float64]]:
        """How many times sooner each row's first token comes, question by question, all rows in turn."""
        readers = [self.reader(row) for row in (than, *rows)]
        configs = [
            reader._settings(self.settings(row)) for reader, row in zip(readers, (than, *rows), strict=True)
        ]
        times = []
        for one in self.asked["single"][: 2 * _TIMED]:
            pairs = zip(readers, configs, strict=True)
            times.append([self.first_token(reader, config, one)[0] for reader, config in pairs])
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
        rows = np.arange(count) % len(other[1])
        found.append(_Twisted(plan.prompt, (other[0][rows], other[1][rows])))
    return found


def kept(bench: Bench, row: Row, folder: Path) -> Outcome:
    """The outcome of a row, from the cache when the same row was run before."""
    adapter = bench.adapters[row.weights]
    weights = "" if adapter is None else hashlib.sha256(_bytes(adapter)).hexdigest()
    asked = [asdict(one) for one in bench.asked[row.questions]]
    key = json.dumps([bench.settings(row), row.twist, row.words, weights, asked], sort_keys=True, default=str)
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    if path.is_file():
        outcome = Outcome(**json.loads(path.read_text()))
        if not bench.options.retime:
            return outcome
        first_token, prefill, megabytes = timed_alone(bench.options, row)
        outcome = replace(outcome, first_token=first_token, prefill=prefill, megabytes=megabytes)
    else:
        outcome = bench.run(row)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(outcome)))
    return outcome


def _bytes(adapter: Adapter) -> bytes:
    return b"".join(value.numpy().tobytes() for _, value in sorted(adapter._stored().items()))


def report(found: dict[str, tuple[Row, Outcome]], questions: str) -> None:
    """The table of one kind of question."""
    chosen = {name: pair for name, pair in found.items() if pair[0].questions == questions}
    table = []
    for row, one in chosen.values():
        low, high = interval(100 * np.array(one.f1))
        table.append(
            [
                row.name,
                f"{100 * np.mean(one.f1):.1f} [{low:.1f}, {high:.1f}]",
                f"{100 * np.mean(one.exact):.1f}",
                f"{np.mean(one.tokens):.0f}",
                f"{one.first_token:.0f}",
                f"{one.prefill:.0f}",
                f"{one.megabytes:.0f}",
            ]
        )
    print_table(
        ["", "F1", "exact match", "input tokens", "first token ms", "of it the model", "peak MB"], table
    )


def differences(found: dict[str, tuple[Row, Outcome]], pairs: Sequence[tuple[str, str]]) -> None:
    """F1 of pairs of rows, question by question."""
    table = []
    for first, second in pairs:
        if first in found and second in found:
            gap = 100 * (np.array(found[first][1].f1) - np.array(found[second][1].f1))
            low, high = interval(gap)
            table.append([f"{first} less {second}", f"{gap.mean():+.1f} [{low:+.1f}, {high:+.1f}]"])
    print_table(["", "F1"], table)


def latencies(bench: Bench, found: dict[str, tuple[Row, Outcome]]) -> None:
    """First tokens beside those of five chunks as text, measured in turn since machines are noisy."""
    rows = [found[name][0] for name in SOONER if name in found]
    if not rows or THAN not in found:
        return
    table = []
    for row, ratios in zip(rows, bench.sooner(rows, found[THAN][0]), strict=True):
        low, high = interval(ratios)
        table.append([row.name, f"{ratios.mean():.2f} [{low:.2f}, {high:.2f}]"])
    print_table([f"first token sooner than `{THAN}`", "times"], table)
    print()


def draw(found: dict[str, tuple[Row, Outcome]], path: Path) -> None:
    """F1 against input tokens."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(10, 5.5))
    markers = {"untouched": "o", "text LoRA": "s", "adapter": "^"}
    points = [
        (float(np.mean(one.tokens)), 100 * float(np.mean(one.f1)), row)
        for row, one in found.values()
        if row.questions == "single" and not row.twist
    ]
    points.sort(key=lambda point: point[:2])
    for weights, marker in markers.items():
        chosen = [point for point in points if point[2].weights == weights]
        axes.scatter(
            [point[0] for point in chosen], [point[1] for point in chosen], marker=marker, label=weights
        )
    for number, (tokens, score, _) in enumerate(points, start=1):
        side = (4, 3) if number % 2 else (-11, -9)
        axes.annotate(str(number), (tokens, score), side, textcoords="offset points", fontsize=7)
    names = [f"{number}  {row.name.replace('**', '')}" for number, (_, _, row) in enumerate(points, start=1)]
    axes.text(1.02, 1, "\n".join(names), transform=axes.transAxes, va="top", fontsize=7)
    axes.set(xlabel="input tokens", ylabel="F1", xscale="log")
    axes.grid(alpha=0.3)
    axes.legend(loc="center right")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


THAN = "text, 5 chunks, text LoRA"
SOONER = (
    "**both**",
    "both, best chunk whole",
    "text, as many tokens as `both`, text LoRA",
    "text, 1 chunks, text LoRA",
)
PAIRS = (
    ("**both**", "both, same text, no soft tokens"),
    ("**both**", "both, another question's soft tokens"),
    ("**both**", "both, soft tokens in random order"),
    ("**both**", "both, windows alone"),
    ("**both**", "text, as many tokens as `both`, text LoRA"),
    ("**both**", "text, 5 chunks, text LoRA"),
    ("**both**", "text, 5 chunks, untouched"),
    ("both, best chunk whole", "best chunk as text, adapter's LoRA"),
    ("both, best chunk whole", "text, 5 chunks, text LoRA"),
    ("memory, 32 soft tokens", "no memory, adapter"),
    ("best chunk as soft tokens, 4x", "no memory, adapter"),
)


def main() -> None:
    arguments = parser((__doc__ or "").splitlines()[0])
    arguments.add_argument("--adapter", type=Path, help="folder; the shipped one when left out")
    arguments.add_argument(
        "--text-lora", type=Path, help="folder of the rival; its rows are left out without"
    )
    arguments.add_argument("--limit", type=int, default=150, help="SQuAD questions")
    arguments.add_argument("--comparisons", type=int, default=60, help="comparison questions")
    arguments.add_argument("--budget", type=int, default=64, help="tokens of text in `both`")
    arguments.add_argument("--rows", nargs="*", help="only rows whose name contains one of these")
    arguments.add_argument("--retime", action="store_true", help="time finished rows again")
    arguments.add_argument("--plot", type=Path)
    options = arguments.parse_args()
    bench, found = Bench(options), {}
    for row in rows_of(options.budget):
        if row.weights != "untouched" and bench.adapters[row.weights] is None:
            continue
        if options.rows and not any(one in row.name for one in options.rows):
            continue
        name = row.name if row.questions == "single" else f"comparison: {row.name}"
        found[name] = (row, kept(bench, row, options.cache / "memory-llm"))
    print(f"On {machine()}; SmolLM2-135M-Instruct and all-MiniLM-L6-v2, float32.\n")
    for kind, asked in bench.asked.items():
        print(f"\n{len(asked)} {kind} questions\n")
        report(found, kind)
    print()
    latencies(bench, found)
    differences(found, PAIRS)
    if options.plot:
        draw(found, options.plot)


if __name__ == "__main__":
    main()
