"""How much sooner does the first token come when the chunk was read before?

    OMP_NUM_THREADS=1 python benchmarks/hot_chunks.py --data DIR

Questions of squad about paragraphs of which each was asked about before, the best chunk spelled out, the
model with the reader's changes. Milliseconds of the CPU from the found chunk to the first piece of the
answer, since others may use the machine; each question is asked in all ways, one after another.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from beir import read_corpus, read_queries
from common import cached_encoder, cached_memory, interval, machine, parser, print_table

from mllm_plugin.memory_llm import MemoryLLM, MemoryLLMConfig


@dataclass
class Times:
    """CPU milliseconds to the first token, question by question."""

    whole: list[float]
    first: list[float]
    again: list[float]


def first_token(llm: MemoryLLM, question: str, **settings: Any) -> float:
    """CPU milliseconds, and the answer is thrown away."""
    stream = llm.stream(question, k=1, max_new_tokens=2, **settings)
    started = time.process_time()
    next(stream, None)
    took = 1000 * (time.process_time() - started)
    for _ in stream:
        pass
    return took


def measure(llm: MemoryLLM, pairs: list[tuple[str, str]]) -> Times:
    """Each pair of questions is about one paragraph: the first is asked to have it read."""
    found = Times([], [], [])
    for before, question in pairs:
        found.whole.append(first_token(llm, question, hot_bytes=0))
        found.first.append(first_token(llm, before))
        found.again.append(first_token(llm, question))
    return found


def main() -> None:
    arguments = parser((__doc__ or "").splitlines()[0])
    arguments.add_argument("--limit", type=int, default=24, help="paragraphs")
    options = arguments.parse_args()
    asked: dict[str, list[str]] = {}
    for row in read_queries(options.data / "squad", "dev").values():
        asked.setdefault(row["doc"], []).append(row["text"])
    order = np.random.default_rng(0).permutation(sorted(one for one, own in asked.items() if len(own) > 1))
    chosen = set(order[: options.limit].tolist())
    documents = [one for one in read_corpus(options.data / "squad") if one.id in chosen]
    name = f"hot chunks {options.limit}"
    memory = cached_memory(name, lambda: documents, cached_encoder(options.cache), options.cache)
    llm = MemoryLLM.open(memory, config=MemoryLLMConfig())
    pairs = [(asked[one][0], asked[one][1]) for one in sorted(chosen)]
    first_token(llm, pairs[0][0], hot_bytes=0)
    found = measure(llm, pairs)
    print(f"On {machine()}; SmolLM2-135M-Instruct, float32, {len(pairs)} questions.\n")
    whole = np.array(found.whole)
    table = []
    for title, own in (
        ("not kept", found.whole),
        ("first time", found.first),
        ("asked before", found.again),
    ):
        low, high = interval(whole / np.array(own))
        sooner = f"{(whole / np.array(own)).mean():.2f} [{low:.2f}, {high:.2f}]"
        table.append([title, f"{np.median(own):.0f}", sooner])
    print_table(["the chunk was", "CPU ms to the first token, median", "times sooner"], table)
    print(f"\n{llm.starts.size / len(llm.starts) / 2**20:.1f} MiB a chunk.")


if __name__ == "__main__":
    main()
