"""How well does an agent memory recall: turns of long chats, a user for each chat.

    python benchmarks/agent_memory.py --data DIR
    python benchmarks/agent_memory.py --data DIR --levers  # what its parts give

LoCoMo, as in chats.py. Each turn is remembered with its speaker, session and time, and recalled with the
defaults of `AgentMemory`. Rivals see the same texts with the same headers; the memory below is asked for the
bare turns too. Nothing was trained on it. Then random edits, each checked against a plain model of what must
be recalled.
"""

from __future__ import annotations

import gzip
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
from beir import read_qrels
from common import machine, parser, print_table, read_chunks
from retrieval import rivals

from mllm_plugin import Document, MemoryIndex, clock
from mllm_plugin.agent import AgentMemory, Memory
from mllm_plugin.agent import turns as turns_of_agent

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


@contextmanager
def setting(**values: float) -> Iterator[None]:
    """The evidence of a message's context with other constants of `mllm_plugin.agent.turns`."""
    usual = {name: getattr(turns_of_agent, name) for name in values}
    try:
        for name, value in values.items():
            setattr(turns_of_agent, name, value)
        yield
    finally:
        for name, value in usual.items():
            setattr(turns_of_agent, name, value)


def recalled_with(memory: AgentMemory, query: str, group: str, **values: float) -> list[Memory]:
    """A recall with other constants."""
    with setting(**values):
        return memory.scope(user=group).recall(query, k=20)


def second_hop(memory: AgentMemory, query: str, group: str, weight: float = 0.3) -> list[Memory]:
    """A recall, and some of another that asks with the three best messages as well."""
    first = memory.scope(user=group).recall(query, k=100)
    longer = " ".join([query, *(item.text for item in first[:3])])
    again = {item.id: item.score for item in memory.scope(user=group).recall(longer, k=100)}
    return sorted(first, key=lambda item: -(item.score + weight * again.get(item.id, 0.0)))


def spread(memory: AgentMemory, query: str, group: str, price: float = 0.05) -> list[Memory]:
    """A recall in which every message taken makes the others of its session cost more."""
    left, taken = memory.scope(user=group).recall(query, k=100), Counter()
    found = []
    for _ in range(20):
        best = max(left, key=lambda item: item.score - price * taken[item.session])
        left.remove(best)
        taken[best.session] += 1
        found.append(best)
    return found


def print_levers(
    folder: Path, memory: AgentMemory, turns: list[dict], questions: list[dict], qrels: dict
) -> None:
    """A table of what a recall has, lacks, or could have."""
    before = {(turn["group"], turn["session"]): "" for turn in turns}
    longer = []
    for turn in turns:
        key = (turn["group"], turn["session"])
        longer.append({**turn, "text": f"{turn['speaker']}: {before[key]}{turn['text']}"})
        before[key] = f"{turn['text']}\n"
    with remembered(folder, longer)[0] as other:
        ways: dict[str, Callable[[str, str], list[Memory]]] = {
            "header, neighbours and who is named, as it is": lambda q, g: recalled_with(memory, q, g),
            "header and neighbours": lambda q, g: recalled_with(memory, q, g, OTHERS=1.0),
            "header alone": lambda q, g: recalled_with(memory, q, g, SHARE=0.0, OTHERS=1.0),
            "a second hop": lambda q, g: second_hop(memory, q, g),
            "spread over sessions": lambda q, g: spread(memory, q, g),
            "previous turn in the text": lambda q, g: other.scope(user=g).recall(q, k=20),
        }
        table = []
        for name, way in ways.items():
            kinds, _ = measured(lambda q, g, way=way: [item.id for item in way(q, g)], questions, qrels)
            cells = [kinds["all"][0], kinds["all"][2], kinds["multi-hop"][0], kinds["multi-hop"][2]]
            table.append([name, *(f"{value:.3f}" for value in cells)])
        print_table(["", "nDCG@10", "recall@10", "multi-hop nDCG@10", "multi-hop recall@10"], table)


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


def ranked(run: dict[str, dict[str, float]]) -> dict[str, list[str]]:
    """Document ids of each query, best first."""
    return {query: sorted(found, key=found.__getitem__, reverse=True) for query, found in run.items()}


def rival_rows(memory: AgentMemory, questions: list[dict]) -> dict[str, dict[str, list[str]]]:
    """Rankings of flat cosine, BM25 and their fusion over the same texts, by question."""
    found: dict[str, dict[str, list[str]]] = {}
    for group in sorted({question["group"] for question in questions}):
        asked = {one["id"]: one["text"] for one in questions if one["group"] == group}
        chunks = read_chunks(memory.index, (f"user:{group}",))
        for name, row in rivals(memory.index, chunks, asked).items():
            found.setdefault(name, {}).update(ranked(row.run))
    return found


def tokens(memory: AgentMemory, questions: list[dict]) -> tuple[float, float]:
    """Tokens of ten recalled items, and of everything that was said in the chat, a question."""
    count = {
        group: sum(
            len(memory.index.encoder.token_offsets(item.line()))
            for item in memory.scope(user=group).list(limit=None)
        )
        for group in {question["group"] for question in questions}
    }
    handed = [
        sum(
            len(memory.index.encoder.token_offsets(item.line()))
            for item in memory.scope(user=one["group"]).recall(one["text"], k=10)
        )
        for one in questions[::10]
    ]
    return float(np.mean(handed)), float(np.mean([count[one["group"]] for one in questions]))


def wrong_answers(folder: Path, steps: int) -> dict[str, tuple[int, int]]:
    """Random edits in three scopes, and how often not exactly what should be is recalled: tried, wrong."""
    words = [f"{a}{b}" for a in ("bar", "cor", "dun", "fel", "gol") for b in ("ik", "us", "an", "or", "et")]
    draw, now = random.Random(0), [datetime(2025, 1, 1, tzinfo=timezone.utc)]
    tried: dict[str, list[int]] = {}
    real, clock.now = clock.now, lambda: now[0]
    try:
        with AgentMemory.open(folder, duplicates="keep", audit=False) as memory:
            scopes = [memory.scope(user=name) for name in ("ann", "bob", "cid")]
            live: list[dict[str, tuple[str, datetime | None]]] = [{} for _ in scopes]
            hidden: list[dict[str, tuple[str, datetime | None]]] = [{} for _ in scopes]
            for step in range(steps):
                now[0] += timedelta(minutes=1)
                at = draw.randrange(3)
                scope, own, masked = scopes[at], live[at], hidden[at]
                actions = ["remember", "expire", *(["update", "supersede", "forget", "hide"] if own else ())]
                action = draw.choice([*actions, *(["restore"] if masked else ())])
                name = draw.choice(sorted(own)) if own else ""
                word = f"{draw.choice(words)} {draw.choice(words)} {step}"
                if action in ("remember", "expire"):
                    until = now[0] + timedelta(minutes=5) if action == "expire" else None
                    own[scope.remember(word, expires=until).id] = (word, until)
                elif action == "update":
                    scope.update(name, text=word)
                    own[name] = (word, own[name][1])
                elif action == "supersede":
                    new = scope.remember(word, supersedes=name).id
                    del own[name]
                    own[new] = (word, None)
                elif action == "forget":
                    scope.forget(name)
                    del own[name]
                elif action == "hide":
                    scope.hide(name)
                    masked[name] = own.pop(name)
                else:
                    back = draw.choice(sorted(masked))
                    scope.restore(back)
                    own[back] = masked.pop(back)
                for kept in live:
                    for gone in [key for key, (_, until) in kept.items() if until and until <= now[0]]:
                        del kept[gone]
                got = {item.id: item.text for item in scope.recall(word, k=1000)}
                count = tried.setdefault(action, [0, 0])
                count[0] += 1
                count[1] += got != {key: text for key, (text, _) in own.items()}
                if len(own) > 40:
                    scope.forget(sorted(own)[:30])
                    for key in sorted(own)[:30]:
                        del own[key]
    finally:
        clock.now = real
    return {action: (done, wrong) for action, (done, wrong) in sorted(tried.items())}


def main() -> None:
    arguments = parser((__doc__ or "").splitlines()[0])
    arguments.add_argument("--edits", type=int, default=2000, help="random edits that are checked")
    arguments.add_argument("--levers", action="store_true", help="only what each part of a recall gives")
    options = arguments.parse_args()
    data = options.data / "locomo"
    print(f"On {machine()}; encoder all-MiniLM-L6-v2.")
    qrels, turns = read_qrels(data), rows(data / "corpus.jsonl.gz")
    questions = [row for row in rows(data / "queries.jsonl.gz") if row["id"] in qrels]
    with tempfile.TemporaryDirectory() as folder:
        memory, write = remembered(Path(folder, "agent"), turns)
        if options.levers:
            print_levers(Path(folder, "longer"), memory, turns, questions, qrels)
            return memory.close()
        index = bare(Path(folder, "bare"), turns)

        def recall(query: str, group: str) -> list[str]:
            return [item.id for item in memory.scope(user=group).recall(query, k=20)]

        def search(query: str, group: str) -> list[str]:
            return [hit.document_id for hit in index.search(query, k=20, namespace=group)]

        others = rival_rows(memory, questions)
        known = {question["text"]: question["id"] for question in questions}
        asks: dict[str, Ask] = {"AgentMemory": recall, "bare turns": search}
        for name, rankings in others.items():
            asks[name] = lambda query, group, rankings=rankings: rankings[known[query]][:20]
        for name, ask in asks.items():
            kinds, took = measured(ask, questions, qrels)
            cost = "" if name in others else f": {took:.1f} ms a question of {len(questions)}"
            print(f"\n### {name}{cost}\n")
            table = [[kind, *(f"{value:.3f}" for value in means)] for kind, means in kinds.items()]
            print_table(["", "nDCG@10", *(f"recall@{cut}" for cut in CUTS)], table)
        handed, whole = tokens(memory, questions)
        print(
            f"\n{write:.1f} ms a write of {len(turns)}; "
            f"ten items have {handed:.0f} tokens, a chat {whole:.0f}"
        )
        print("\n### Random edits, each checked by a recall of everything\n")
        checked = wrong_answers(Path(folder, "edits"), options.edits)
        print_table(["", "edits", "wrong"], [[name, str(n), str(bad)] for name, (n, bad) in checked.items()])
        memory.close()
        index.close()


if __name__ == "__main__":
    main()
