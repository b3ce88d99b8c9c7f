"""How well does the memory serve an agent: turns of long chats, a namespace for each chat.

    python benchmarks/chats.py --data DIR

LoCoMo: chats of two persons over months; a question is about one chat and searches there. A document is one
turn, its date and speaker are metadata. Nothing was trained on this set. The rivals see the same turns and
vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

import numpy as np
from beir import read_corpus, read_qrels, read_queries
from cached_encoder import CachedEncoder
from common import (
    Timed,
    cached_encoder,
    machine,
    parser,
    per_query,
    print_table,
    read_chunks,
    timed,
    trained_copy,
)
from retrieval import compare, memory_run, rivals

from mllm_plugin import MemoryConfig, MemoryIndex

Asked = Mapping[str, Mapping[str, str]]  # questions by id, by chat


def chats(folder: Path, data: Path, encoder: CachedEncoder) -> MemoryIndex:
    """An untrained memory with a namespace for each chat; turns that are in it are not added again."""
    config = MemoryConfig(embedding_cache=False)
    memory = MemoryIndex.open(folder, encoder=encoder, config=config, hierarchy="identity")
    for chat, turns in groupby(read_corpus(data, titles=False), key=lambda turn: turn.metadata["group"]):
        memory.add(list(turns), namespace=chat)
    return memory


def questions(data: Path, judged: Mapping[str, object]) -> tuple[Asked, dict[str, str]]:
    """Judged questions by chat, and their categories."""
    rows = {query: row for query, row in read_queries(data, "dev").items() if query in judged}
    asked: dict[str, dict[str, str]] = {}
    for query, row in rows.items():
        asked.setdefault(row["group"], {})[query] = row["text"]
    return asked, {query: row["category"] for query, row in rows.items()}


def merged(parts: list[dict[str, Timed]]) -> dict[str, Timed]:
    """The rows of all chats as one; milliseconds are means over the chats."""
    return {
        row: Timed(
            {query: ranking for part in parts for query, ranking in part[row].run.items()},
            float(np.mean([part[row].milliseconds for part in parts])),
        )
        for row in parts[0]
    }


def measured(memory: MemoryIndex, asked: Asked, name: str) -> dict[str, Timed]:
    """The memory's answers in its default mode."""
    return merged(
        [
            {name: timed(lambda part=part, chat=chat: memory_run(memory, part, namespace=chat))}
            for chat, part in asked.items()
        ]
    )


def main() -> None:
    arguments = parser((__doc__ or "").splitlines()[0])
    arguments.add_argument("--set", default="locomo")
    options = arguments.parse_args()
    data, folder = options.data / options.set, options.cache / "memories" / options.set
    encoder = cached_encoder(options.cache)
    print(f"On {machine()}; encoder all-MiniLM-L6-v2.")
    judged = read_qrels(data)
    asked, categories = questions(data, judged)
    memory = chats(folder, data, encoder)
    copy = trained_copy(memory, "default", folder.with_name(f"{options.set}.trained"))
    with MemoryIndex.open(copy, encoder=encoder) as trained:
        rows = measured(trained, asked, "memory") | measured(memory, asked, "untrained")
    rows |= merged([rivals(memory, read_chunks(memory, chat), dict(part)) for chat, part in asked.items()])
    qrels = {query: judged[query] for query in categories}
    compare(f"{options.set}: {memory.stats().chunks} turns in {len(asked)} chats", rows, qrels)
    by_category(rows, qrels, categories)


def by_category(rows: dict[str, Timed], qrels: dict, categories: Mapping[str, str]) -> None:
    """nDCG@10 of each kind of question."""
    from ir_measures import nDCG

    kinds = np.array([categories[query] for query in qrels])
    values = {name: per_query(row.run, qrels, [nDCG @ 10])["nDCG@10"] for name, row in rows.items()}
    print("\n### nDCG@10 by kind of question\n")
    table = [
        [
            kind,
            str((kinds == kind).sum()),
            *(f"{value[kinds == kind].mean():.3f}" for value in values.values()),
        ]
        for kind in sorted(set(categories.values()))
    ]
    print_table(["", "questions", *values], table)


if __name__ == "__main__":
    main()
