"""What benchmarks/memory_llm.py asks, and the ways of answering that it compares."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

_NUMBER = re.compile(r"\d[\d,]*(\.\d+)?")


@dataclass(frozen=True)
class Row:
    """One way of answering.

    Attributes:
        name: As the table shows it.
        weights: "untouched", "text LoRA" or "adapter".
        settings: Of the `MemoryLLM`.
        twist: "foreign" gives each question another one's embeddings, "shuffled" its own in random order.
        words: Tokens per window of a memory whose windows are words; 0 for the usual one of 16 states.
        questions: "single" or "comparison".
    """

    name: str
    weights: str
    settings: dict[str, Any]
    twist: str = ""
    words: int = 0
    questions: str = "single"


@dataclass(frozen=True)
class Asked:
    """A question and its accepted answers."""

    text: str
    answers: tuple[str, ...]


TEXT = {"mode": "text", "text_tokens": None}
NOTHING = {"mode": "text", "expand": 0}
WINDOWS_ONLY = {"nodes": 0, "chunks": 0, "k": 1, "windows": 400, "memory_budget": 400}


def rows_of(budget: int) -> list[Row]:
    """All rows; `budget` is the text that `both` spells out, in tokens."""
    both = {"mode": "both", "expand": 1, "text_tokens": budget}
    found = [
        Row("no memory, untouched", "untouched", NOTHING),
        Row("no memory, adapter", "adapter", {**NOTHING, "lora": True}),
    ]
    for weights in ("untouched", "text LoRA"):
        found += [Row(f"text, {k} chunks, {weights}", weights, {**TEXT, "k": k}) for k in (1, 5, 10)]
        found.append(
            Row(f"text, best {budget} tokens, {weights}", weights, {**TEXT, "k": 1, "text_tokens": budget})
        )
    found += [
        Row(
            "text, as many tokens as `both`, text LoRA",
            "text LoRA",
            {**TEXT, "k": 2, "text_tokens": budget + 32},
        )
    ]
    found += [
        Row(
            f"memory, {most} soft tokens",
            "adapter",
            {"mode": "memory", "memory_budget": most, "windows": most},
        )
        for most in (16, 32, 64)
    ]
    found += [
        Row("**both**", "adapter", both),
        Row("both, same text, no soft tokens", "adapter", {**both, "memory_budget": 0, "lora": True}),
        Row("both, another question's soft tokens", "adapter", both, twist="foreign"),
        Row("both, soft tokens in random order", "adapter", both, twist="shuffled"),
        Row("both, windows alone", "adapter", {**both, "nodes": 0, "chunks": 0}),
        Row("both, 16 soft tokens", "adapter", {**both, "memory_budget": 16}),
        Row("both, 64 soft tokens", "adapter", {**both, "memory_budget": 64, "windows": 64}),
        Row("both, best chunk whole", "adapter", {**both, "text_tokens": None}),
    ]
    found.append(Row("best chunk as text, adapter's LoRA", "adapter", {**TEXT, "k": 1, "lora": True}))
    found += [
        Row(f"best chunk as soft tokens, {size}x", "adapter", {"mode": "memory", **WINDOWS_ONLY}, words=size)
        for size in (4, 8, 16)
    ]
    return found + comparison_rows(both)


def comparison_rows(both: dict[str, Any]) -> list[Row]:
    """The same for questions about two paragraphs, with and without the upper levels."""
    two = {**both, "expand": 2, "text_tokens": 2 * both["text_tokens"]}
    rows = [
        Row("no memory, adapter", "adapter", {**NOTHING, "lora": True}),
        Row("text, 5 chunks, untouched", "untouched", {**TEXT, "k": 5}),
        Row("text, 5 chunks, text LoRA", "text LoRA", {**TEXT, "k": 5}),
        Row("memory", "adapter", {"mode": "memory"}),
        Row("memory, windows alone", "adapter", {"mode": "memory", "nodes": 0, "chunks": 0}),
        Row("both, two passages", "adapter", two),
        Row("both, two passages, windows alone", "adapter", {**two, "nodes": 0, "chunks": 0}),
        Row("same text, no soft tokens", "adapter", {**two, "memory_budget": 0, "lora": True}),
    ]
    return [replace(row, questions="comparison") for row in rows]


def comparisons(rows: Sequence[dict[str, Any]], count: int, seed: int = 0) -> list[Asked]:
    """Questions for the larger of two numbers, each in a paragraph of its own."""
    rng, numbers = np.random.default_rng(seed), []
    for row in rows:
        answer = row["answers"][0]
        counted = row["text"].lower().startswith(("how many", "in what year", "what year", "in which year"))
        if counted and _NUMBER.fullmatch(answer):
            numbers.append((row, float(answer.replace(",", ""))))
    found: list[Asked] = []
    while len(found) < count and len(numbers) > 1:
        (first, one), (second, other) = (
            numbers[n] for n in rng.choice(len(numbers), 2, replace=False).tolist()
        )
        years = [row["text"].lower().startswith("how many") for row in (first, second)]
        if one == other or first["doc"] == second["doc"] or years[0] != years[1]:
            continue
        asked = " or: ".join(row["text"].strip().rstrip("?") for row in (first, second))
        larger = first if one > other else second
        found.append(Asked(f"Which number is larger: {asked}?", tuple(larger["answers"])))
    return found
