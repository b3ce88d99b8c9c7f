"""How well does an agent memory recall: turns of long chats, a user for each chat.

    python benchmarks/agent_memory.py --data DIR

LoCoMo, as in chats.py. Each turn is remembered with its speaker, session and time, and recalled with the
defaults of `AgentMemory`; the memory below it is asked for the bare turns too. Nothing was trained on it.
"""

from __future__ import annotations

import gzip
import json
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from beir import read_qrels
from common import machine, parser, print_table

from mllm_plugin import Document, MemoryIndex
from mllm_plugin.agent import AgentMemory

CUTS = (5, 10, 20)
Ask = Callable[[str, str], list[str]]


def rows(path: Path) -> list[dict]:
    """The rows of a packed file of JSON lines."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def moment(text: str) -> datetime:
    """The time of a session, as the data writes it."""
    return datetime.strptime(text, "%I:%M %p on %d %B, %Y").replace(tzinfo=timezone.utc)


def remembered(folder: Path, turns: list[dict]) -> tuple[AgentMemory, float]:
    """An agent memory with every turn, and the milliseconds of a write."""
    memory = AgentMemory.open(folder)
    started = time.perf_counter()
    for turn in turns:
        who = tuple(turn["title"].split(",")[0].split(" & "))
        text = turn["text"].removeprefix(f"{turn['speaker']}: ")
        memory.scope(user=turn["group"], participants=who).remember(
            text,
            id=turn["id"],
            speaker=turn["speaker"],
            session=str(turn["session"]),
            at=moment(turn["date"]),
        )
    return memory, 1000 * (time.perf_counter() - started) / len(turns)


def bare(folder: Path, turns: list[dict]) -> MemoryIndex:
    """The memory below with the bare turns."""
    memory = MemoryIndex.open(folder)
    for group in sorted({turn["group"] for turn in turns}):
        own = [Document(turn["text"], id=turn["id"]) for turn in turns if turn["group"] == group]
        memory.add(own, namespace=group, split=False)
    return memory


def scores(found: list[str], relevant: set[str]) -> list[float]:
    """nDCG@10 and recall at each cut."""
    gains = [1 / np.log2(rank + 2) for rank in range(10)]
    got = sum(gain for gain, name in zip(gains, found, strict=False) if name in relevant)
    recalls = [len(relevant & set(found[:cut])) / len(relevant) for cut in CUTS]
    return [got / sum(gains[: len(relevant)]), *recalls]


def measured(ask: Ask, questions: list[dict], qrels: dict) -> tuple[dict[str, np.ndarray], float]:
    """Means by kind of question, and the milliseconds of a question."""
    found: dict[str, list[list[float]]] = {}
    started = time.perf_counter()
    for question in questions:
        answer = ask(question["text"], question["group"])
        relevant = {name for name, grade in qrels[question["id"]].items() if grade > 0}
        found.setdefault(question["category"], []).append(scores(answer, relevant))
    took = 1000 * (time.perf_counter() - started) / len(questions)
    everything = [one for own in found.values() for one in own]
    return {"all": np.mean(everything, axis=0)} | {
        k: np.mean(v, axis=0) for k, v in sorted(found.items())
    }, took


def main() -> None:
    options = parser((__doc__ or "").splitlines()[0]).parse_args()
    data = options.data / "locomo"
    print(f"On {machine()}; encoder all-MiniLM-L6-v2.")
    qrels, turns = read_qrels(data), rows(data / "corpus.jsonl.gz")
    questions = [one for one in rows(data / "queries.jsonl.gz") if one["id"] in qrels]
    with tempfile.TemporaryDirectory() as folder:
        memory, write = remembered(Path(folder, "agent"), turns)
        index = bare(Path(folder, "bare"), turns)

        def recall(query: str, group: str) -> list[str]:
            return [item.id for item in memory.scope(user=group).recall(query, k=20)]

        def search(query: str, group: str) -> list[str]:
            return [hit.document_id for hit in index.search(query, k=20, namespace=group)]

        for name, ask in {"AgentMemory": recall, "bare turns": search}.items():
            kinds, took = measured(ask, questions, qrels)
            print(f"\n### {name}: {took:.1f} ms a question of {len(questions)}\n")
            table = [[kind, *(f"{value:.3f}" for value in means)] for kind, means in kinds.items()]
            print_table(["", "nDCG@10", *(f"recall@{cut}" for cut in CUTS)], table)
        print(f"\n{write:.1f} ms a write of {len(turns)}")
        memory.close()
        index.close()


if __name__ == "__main__":
    main()
