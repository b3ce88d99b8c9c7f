"""Answers to held-out questions, written by the model as it would write them for a user."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.llm import LoadedLLM, MemoryReader, PromptLayout
from mllm_plugin.llm.decoding import Decoding, decoder
from mllm_plugin.llm.generate import generate
from mllm_plugin.training.reader.texts import ReaderTexts

WAYS = ("memory", "text", "none")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def score_answers(
    llm: LoadedLLM, reader: MemoryReader, texts: ReaderTexts, numbers: Sequence[int], longest: int
) -> dict[str, tuple[float, float]]:
    """Exact match and F1 in [0, 100], by what is read of the chunk that answers.

    Args:
        llm: The model.
        reader: Writes and reads.
        texts: Where the questions are from.
        numbers: Of the questions.
        longest: Tokens of an answer.
    """
    decode, layout = decoder(llm.tokenizer), PromptLayout(llm.tokenizer)
    questions = [decode(texts.questions[n].tolist()).strip() for n in numbers]
    right = [decode(texts.answers[n].tolist()).strip() for n in numbers]
    chunks = [decode(texts.chunks[int(texts.asked[n])].tolist()).strip() for n in numbers]
    written = [one.vectors for one in reader.write(llm, chunks)]
    found = {}
    for way in WAYS:
        read = written if way == "memory" else [one[:0] for one in written]
        prompts = [
            layout.build(question, passages=[chunk] * (way == "text"), memory_tokens=len(vectors))
            for question, chunk, vectors in zip(questions, chunks, read, strict=True)
        ]
        memory = [(vectors, np.zeros(len(vectors), np.int64)) for vectors in read]
        said = generate(llm, prompts, memory, adapter=reader, decoding=Decoding(max_new_tokens=longest))
        found[way] = _means([(one.text, [answer]) for one, answer in zip(said, right, strict=True)])
    return found


def _means(pairs: Sequence[tuple[str, Sequence[str]]]) -> tuple[float, float]:
    scores: NDArray[np.float64] = np.array([(exact_match(*pair), f1(*pair)) for pair in pairs])
    exact, overlap = (100 * scores.mean(axis=0)).round(1).tolist()
    return exact, overlap


def normal(answer: str) -> str:
    """Lower case, no punctuation, no articles, single spaces: as SQuAD compares answers."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, right: Sequence[str]) -> float:
    """1 when an answer equals one of the right ones, 0 otherwise."""
    return float(any(normal(answer) == normal(accepted) for accepted in right))


def f1(answer: str, right: Sequence[str]) -> float:
    """Overlap of words with the nearest right answer, in [0, 1]."""
    return max((_f1(normal(answer).split(), normal(accepted).split()) for accepted in right), default=0.0)


def _f1(found: list[str], right: list[str]) -> float:
    if not found or not right:
        return float(found == right)
    shared = sum((Counter(found) & Counter(right)).values())
    return 2 * shared / (len(found) + len(right))
