"""Rows of tokens and places in a memory: what a step asks is laid out with them.

Shapes as in `steps`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mllm_plugin.llm.reading import RATIOS
from mllm_plugin.training.reader.prompts import Ids, Prompts
from mllm_plugin.training.reader.texts import LONGEST

GROUP = 4  # neighbouring chunks: what distracts, and what a node stands for


@dataclass(frozen=True)
class Sizes:
    """Shapes of a step.

    Args:
        chunks: c, a multiple of `GROUP`.
        short, long: Rows of each length.
        short_tokens, long_tokens: The lengths.
        predicted: p.
    """

    chunks: int = 96
    short: int = 128
    long: int = 64
    short_tokens: int = 128
    long_tokens: int = 320
    predicted: int = 5120

    @property
    def windows(self) -> int:
        """s."""
        return LONGEST // RATIOS[0]

    @property
    def groups(self) -> int:
        """g."""
        return self.chunks // GROUP


@dataclass
class Row:
    """A row before it has its place.

    Attributes:
        ids: Tokens, 0 where memory stands.
        places: Places in the memory, -1 where a token stands.
        answer: Tokens to predict.
        kind: What is asked.
        weight: Of its mean loss.
        question: Rows of one question share it; -1 for none.
        teaches: Whether it sees the text that answers.
    """

    ids: Ids
    places: Ids
    answer: Ids
    kind: str
    weight: float
    question: int = -1
    teaches: bool = False

    def __len__(self) -> int:
        return len(self.ids) + len(self.answer) - 1


@dataclass
class Memory:
    """Places in the memory of one step: windows of chunk n, its mean, the mean of its group."""

    sizes: Sizes
    lengths: Ids
    size: Ids

    def windows(self, chunk: int) -> Ids:
        """Places of a chunk's windows."""
        count = -(-int(self.lengths[chunk]) // int(self.size[chunk]))
        return chunk * self.sizes.windows + np.arange(count)

    def coarse(self, chunks: Sequence[int]) -> Ids:
        """Places of the groups of chunks, then of the chunks."""
        first = self.sizes.chunks * self.sizes.windows
        groups = sorted({chunk // GROUP for chunk in chunks})
        return np.array(
            [first + self.sizes.chunks + group for group in groups] + [first + one for one in chunks]
        )


def prompt_row(
    prompts: Prompts,
    block: Ids,
    passages: Sequence[Ids],
    question: Ids,
    answer: Ids,
    kind: str,
    number: int = -1,
    teaches: bool = False,
) -> Row:
    """A row in the one prompt layout: memory, passages, question, and what is to be said."""
    text = [part for passage in passages for part in (passage, prompts["gap"])]
    after = np.concatenate([*text, question, prompts["tail"]])
    ids = np.concatenate([prompts["head"], np.zeros(len(block), np.int64), after])
    places = np.full(len(ids), -1)
    places[len(prompts["head"]) : len(prompts["head"]) + len(block)] = block
    return Row(ids, places, answer, kind, float(np.sqrt(len(answer))), number, teaches)
