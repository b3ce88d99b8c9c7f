"""What benchmarks/memory_llm.py asks, and the ways of answering that it compares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One way of answering.

    Attributes:
        name: As the table shows it. reader: Whether the model has the reader's changes; without, it is as it
        comes. settings: Of the `MemoryLLM`. twist: "foreign" gives each question another one's memory tokens,
        "shuffled" its own in random order. without: Search as if the document that answers were not there.
        necessary: Only questions whose answer is not in the text that is spelled out, but in a chunk beside
        it.
    """

    name: str
    reader: bool
    settings: dict[str, Any]
    twist: str = ""
    without: bool = False
    necessary: bool = False


@dataclass(frozen=True)
class Asked:
    """A question, its accepted answers, and the document that has them."""

    text: str
    answers: tuple[str, ...]
    document: str


TEXT = {"mode": "text", "text_tokens": None, "lora": True}
BEST = {"mode": "memory", "k": 1}


def rows_of(positions: int) -> list[Row]:
    """All rows; `positions` is how many memory tokens a best chunk becomes on average."""
    found = [Row("nothing", True, {**TEXT, "expand": 0})]
    found += [Row(f"text, {k} chunks, untouched", False, {"mode": "text", "k": k}) for k in (1, 5)]
    found += [Row(f"text, {k} chunks", True, {**TEXT, "k": k}) for k in (1, 5)]
    found += [
        Row(f"text cut to {positions} tokens", True, {**TEXT, "k": 1, "text_tokens": positions}),
        Row("text cut to 64 tokens", True, {**TEXT, "k": 1, "text_tokens": 64}),
        Row("memory, best chunk", True, BEST),
        Row("memory, best chunk, another question's", True, BEST, twist="foreign"),
        Row("memory, best chunk, in random order", True, BEST, twist="shuffled"),
        Row("memory, 5 chunks", True, {"mode": "memory"}),
        Row("both: best chunk as text, 4 as memory", True, {"mode": "both"}),
        Row("both: best chunk as text, 1 as memory", True, {"mode": "both", "k": 2}),
        Row("both: best chunk as text and as memory", True, {"mode": "both", "k": 1, "repeat": True}),
        Row("both, another question's memory", True, {"mode": "both"}, twist="foreign"),
        Row("both: best 64 tokens as text, 5 as memory", True, {"mode": "both", "text_tokens": 64}),
        Row("text, best chunk, answer elsewhere", True, {**TEXT, "k": 1}, necessary=True),
        Row("both, answer in memory alone", True, {"mode": "both"}, necessary=True),
    ]
    return found + [
        Row(f"unanswerable: {name}", True, settings, without=True)
        for name, settings in (
            ("text, 1 chunks", {**TEXT, "k": 1}),
            ("memory, 5 chunks", {"mode": "memory"}),
            ("both", {"mode": "both"}),
        )
    ]
