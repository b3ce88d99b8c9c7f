"""Held-out measurements: loss per answer token, exact match and F1, in every way of putting a question."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

from mllm_plugin.llm.adapter import Adapter
from mllm_plugin.llm.models import LoadedLLM
from mllm_plugin.training.llm.draw import Drawer, Way
from mllm_plugin.training.llm.examples import Examples
from mllm_plugin.training.llm.losses import read, step_loss
from mllm_plugin.training.llm.packing import Unit, pack

MODES = ("none", "memory", "both", "cut", "text")
_BATCH = 16
_SHOWN_WORDS = 40
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def held_out_units(drawer: Drawer, count: int, modes: Sequence[str]) -> dict[str, list[Unit]]:
    """Units of held-out questions by mode, see `way_of`; the same at every call."""
    found: dict[str, list[Unit]] = {mode: [] for mode in modes}
    for number in choose_held_out(drawer, count):
        for mode in modes:
            found[mode].append(drawer.unit([number], way_of(drawer, number, mode)))
    return found


def modes_of(examples: Examples) -> tuple[str, ...]:
    """What is measured: `memory` with all kinds of windows, `both` with two of them, the rest once."""
    others = [kind for kind in examples.windows if kind != examples.kind]
    return (*MODES, *(f"memory {kind}" for kind in others), *(f"both {kind}" for kind in others[:1]))


def choose_held_out(drawer: Drawer, count: int) -> list[int]:
    """Numbers of held-out questions, the same at every call."""
    pool = [n for n, one in enumerate(drawer.examples.questions) if one.held_out and one.chunks]
    return np.random.default_rng(drawer.config.seed).permutation(pool)[:count].tolist()


def way_of(drawer: Drawer, number: int, mode: str) -> Way:
    """How a held-out question is put.

    Args:
        drawer: Puts it.
        number: Of the question.
        mode: "none"; "memory", as recalled; "text", the best chunk spelled out; "cut", about forty words of
            it around the best window; "both", these with the memory. A kind of windows may follow.
    """
    examples = drawer.examples
    way, _, kind = mode.partition(" ")
    chunks = examples.questions[number].chunks
    has_memory = way in ("memory", "both")
    block = drawer.block([number], chunks, kind or examples.kind) if has_memory else None
    if way in ("both", "cut"):
        return Way(way, block, (best_part(drawer, number, chunks[0]),))
    return Way(way, block, (examples.texts[chunks[0]],) if way == "text" else ())


def best_part(drawer: Drawer, number: int, chunk: int, words: int = _SHOWN_WORDS) -> str:
    """Words of a chunk around the window that fits the question best."""
    examples = drawer.examples
    text, windows = examples.texts[chunk].split(), examples.windows_of(chunk, examples.kind)
    if len(text) <= words or not len(windows):
        return " ".join(text[:words])
    best = int((windows @ drawer.examples.queries[number]).argmax())
    middle = round(len(text) * (best + 0.5) / len(windows))
    first = min(max(0, middle - words // 2), len(text) - words)
    return " ".join(text[first : first + words])


@torch.no_grad()
def losses(llm: LoadedLLM, adapter: Adapter, units: Sequence[Unit], row_tokens: int) -> float:
    """Mean loss per answer token over units, each answer weighing the same."""
    found: list[float] = []
    for start in range(0, len(units), _BATCH):
        part = list(units[start : start + _BATCH])
        packed = pack(part, row_tokens, adapter.config.tokens_per_embedding).to(llm.device)
        found += step_loss(read(llm, adapter, packed), packed, 0.0).answers.tolist()
    return float(np.mean(found))


def normal(answer: str) -> str:
    """Lower case, no punctuation, no articles, single spaces: as SQuAD compares answers."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, right: Sequence[str]) -> float:
    """1 when an answer equals one of the right ones, 0 otherwise."""
    return float(any(normal(answer) == normal(one) for one in right))


def f1(answer: str, right: Sequence[str]) -> float:
    """Overlap of words with the nearest right answer, in [0, 1]."""
    return max((_f1(normal(answer).split(), normal(one).split()) for one in right), default=0.0)


def _f1(found: list[str], right: list[str]) -> float:
    if not found or not right:
        return float(found == right)
    shared = sum((Counter(found) & Counter(right)).values())
    return 2 * shared / (len(found) + len(right))
