"""Answers to held-out questions, written by the model as it would write them for a user."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mllm_plugin.llm.adapter import Adapter
from mllm_plugin.llm.decoding import Decoding
from mllm_plugin.llm.generate import generate
from mllm_plugin.llm.models import LoadedLLM
from mllm_plugin.training.llm.draw import Drawer
from mllm_plugin.training.llm.evaluate import choose_held_out, exact_match, f1, modes_of, way_of


def score_answers(
    llm: LoadedLLM, adapter: Adapter, drawer: Drawer, count: int, *, modes: Sequence[str] | None = None
) -> dict[str, tuple[float, float]]:
    """Exact match and F1 in [0, 100] by mode, over the same held-out questions as the losses.

    Args:
        llm: The model.
        adapter: Its changes are on.
        drawer: Puts the questions.
        count: Questions.
        modes: Ways of putting them; all that are measured when left out.
    """
    numbers = choose_held_out(drawer, count)
    questions = [drawer.examples.questions[one] for one in numbers]
    decoding = Decoding(max_new_tokens=drawer.config.answer_tokens)
    found = {}
    for mode in modes or modes_of(drawer.examples):
        prompts, memory = [], []
        for number, question in zip(numbers, questions, strict=True):
            way = way_of(drawer, number, mode)
            block = way.memories
            vectors = np.zeros((0, drawer.examples.dim), np.float32) if block is None else block.vectors
            levels = np.zeros(0, np.int64) if block is None else block.levels
            size = len(levels) * drawer.config.tokens_per_embedding
            prompts.append(drawer.layout.build(question.text, passages=way.passages, memory_tokens=size))
            memory.append((vectors, levels))
        texts = [one.text for one in generate(llm, prompts, memory, adapter=adapter, decoding=decoding)]
        pairs = [(text, question.answers) for text, question in zip(texts, questions, strict=True)]
        exact = 100 * float(np.mean([exact_match(*pair) for pair in pairs]))
        found[mode] = (round(exact, 1), round(100 * float(np.mean([f1(*pair) for pair in pairs])), 1))
    return found
