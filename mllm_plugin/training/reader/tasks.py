"""What a step asks of the reader: repeat, continue, fill a blank, answer; with memory, text, both or neither.

A step takes some chunks, each written as windows of one size, and asks about them in rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.llm.reading import RATIOS
from mllm_plugin.training.reader.prompts import Ids, Prompts
from mllm_plugin.training.reader.rows import GROUP, Memory, Row, Sizes, prompt_row
from mllm_plugin.training.reader.steps import Step, assemble
from mllm_plugin.training.reader.texts import HELD_OUT, LONGEST, NUMBER, YEAR, ReaderTexts

REPEAT, CONTINUE, FILL, ANSWER, REFUSE = "repeat", "continue", "fill", "answer", "refuse"
_DROPPED_WORDS = 0.12


@dataclass
class Sampler:
    """Draws steps.

    Args:
        texts: What there is.
        prompts: The model's.
        sizes: Shapes.
        asked: Share of the groups of chunks that come with questions.
        alike: Share of these in which a chunk's company is not its neighbours but what a search for one of
            its questions finds beside it, since that is what a reader reads in use.
    """

    texts: ReaderTexts
    prompts: Prompts
    sizes: Sizes = field(default_factory=Sizes)
    asked: float = 0.3
    alike: float = 0.5

    def __post_init__(self) -> None:
        texts = self.texts
        self._free = np.flatnonzero(texts.sources != HELD_OUT)
        self._questions: dict[int, list[int]] = {}
        for number, (chunk, held_out) in enumerate(zip(texts.asked, texts.held_out, strict=True)):
            if not held_out:
                self._questions.setdefault(int(chunk), []).append(number)
        self._with_questions = np.array(sorted(self._questions))
        self._blanks: dict[int, list[int]] = {}
        for number, row in enumerate(texts.blanks):
            self._blanks.setdefault(int(row[0]), []).append(number)

    def step(self, rng: np.random.Generator) -> Step:
        """One step's arrays."""
        chunks = self._draw(rng)
        size = rng.choice(RATIOS, len(chunks), p=(0.1, 0.45, 0.3, 0.15))
        tokens = [self.texts.chunks[chunk][:LONGEST] for chunk in chunks]
        memory = Memory(self.sizes, np.array([len(token) for token in tokens]), size)
        rows = self._rows(chunks, tokens, memory, rng)
        return assemble(tokens, size, rows, self.sizes, rng)

    def _draw(self, rng: np.random.Generator) -> list[int]:
        """Groups of neighbouring chunks."""
        sizes, found = self.sizes, []
        for group in range(sizes.groups):
            asked = len(self._with_questions) and group < self.asked * sizes.groups
            start = int(rng.choice(self._with_questions if asked else self._free))
            if asked and rng.random() < self.alike:
                company = self._alike(start, int(rng.choice(self._questions[start])))
                if len(company) == GROUP - 1:
                    found += [start, *company]
                    continue
            start = min(start, len(self._free) - GROUP)
            found += range(start, start + GROUP)
        return found

    def _alike(self, chunk: int, question: int) -> list[int]:
        """Others of the chunk's document that share the rarest tokens with a question, the best first."""
        texts = self.texts
        same = np.flatnonzero(texts.documents == texts.documents[chunk])
        same = same[same != chunk]
        asked = np.unique(texts.questions[question])
        shared = [texts.idf[np.intersect1d(asked, texts.chunks[int(other)])].sum() for other in same]
        return same[np.argsort(-np.array(shared), kind="stable")][: GROUP - 1].tolist()

    def _rows(
        self, chunks: Sequence[int], tokens: Sequence[Ids], memory: Memory, rng: np.random.Generator
    ) -> list[Row]:
        rows: list[Row] = []
        for place, chunk in enumerate(chunks):
            near = [n for n in range(len(chunks)) if n // GROUP == place // GROUP]
            others = [neighbour for neighbour in near if neighbour != place]
            same = chunks[place]
            far = [n for n, one in enumerate(chunks) if n not in near and one != same]
            write = _Writer(self.prompts, tokens, memory, place, others, far, rng)
            asked = self._questions.get(chunk, [])
            for number in rng.permutation(asked)[:2]:
                rows += write.question(self.texts.questions[number], self.texts.answers[number], ANSWER)
            blanks = self._blanks.get(chunk, [])
            wanted = rng.choice((0, 1)) if asked else rng.choice((1, 2))
            for number in rng.permutation(blanks)[:wanted]:
                blank = self.texts.blanks[number]
                rows += write.question(
                    self.cloze(tokens[place], blank, rng), self.texts.fillings[number], FILL
                )
            if rng.random() < 0.35:
                rows.append(write.repeat())
            follows = chunk + 1 < len(self.texts.documents)
            if (
                follows
                and rng.random() < 0.35
                and self.texts.documents[chunk] == self.texts.documents[chunk + 1]
            ):
                rows.append(write.go_on(self.texts.chunks[chunk + 1]))
        return rows

    def cloze(self, ids: Ids, blank: NDArray[np.int32], rng: np.random.Generator) -> Ids:
        """A question for what stands in a blank: part of its sentence, some words left out."""
        _, begin, start, end, finish, kind = blank.tolist()
        left = self._thin(ids[max(begin, start - int(rng.integers(5, 24))) : start], rng)
        right = self._thin(ids[end : min(finish, end + int(rng.integers(2, 20)))], rng)
        if rng.random() < 0.5:
            return np.concatenate([self.prompts["fill"], left, self.prompts["blank"], right])
        word = {YEAR: "year", NUMBER: "many"}.get(kind, "what")
        return np.concatenate([left, self.prompts[word], right[:-1], self.prompts["mark"]])

    def _thin(self, ids: Ids, rng: np.random.Generator) -> Ids:
        """Whole words only, and with an even chance some of them left out."""
        words = np.cumsum([token in self.prompts.word_starts for token in ids.tolist()])
        keep = rng.random(int(words[-1]) + 1 if len(words) else 1) >= (
            _DROPPED_WORDS if rng.random() < 0.5 else 0
        )
        return ids[keep[words]] if len(ids) else ids


@dataclass
class _Writer:
    """Rows about one chunk."""

    prompts: Prompts
    tokens: Sequence[Ids]
    memory: Memory
    place: int
    others: Sequence[int]
    far: Sequence[int]
    rng: np.random.Generator

    def question(self, question: Ids, answer: Ids, kind: str) -> list[Row]:
        """A question in one or two ways; the second teaches the first."""
        rng, number = self.rng, int(self.rng.integers(1 << 60))
        said = np.concatenate([answer, self.prompts["end"]])
        chance = rng.random()
        if chance < 0.1 and self.far:
            far = rng.choice(self.far, min(len(self.others), len(self.far)), replace=False)
            return [self._refusal(question, self.others if kind == ANSWER else far.tolist())]
        found = []
        if chance < 0.58:
            block = self._block(several=rng.random() < 0.6)
            found.append(self._row(block, [], question, said, kind, number))
        elif chance < 0.74:  # the text is another's, the memory has the answer
            other = [int(rng.choice(self.others))]
            block = self._block(several=rng.random() < 0.6)
            found.append(self._row(block, other, question, said, kind, number))
        if chance >= 0.74 or rng.random() < 0.3:  # the text has the answer, the memory may or may not
            block = (self._elsewhere, self._nothing, self._block)[int(rng.integers(3))]()
            found.append(self._row(block, [self.place], question, said, kind, number, teaches=True))
        return found

    def _elsewhere(self) -> Ids:
        """Memory of neighbours alone."""
        chosen = self.rng.permutation(self.others)[: int(self.rng.integers(1, len(self.others) + 1))]
        return np.concatenate([self.memory.windows(int(chunk)) for chunk in chosen])

    def _nothing(self) -> Ids:
        return np.zeros(0, np.int64)

    def repeat(self) -> Row:
        """The chunk from its windows."""
        target = self.tokens[self.place][:160]
        return self._row(
            self.memory.windows(self.place), [], self.prompts["repeat"], self._ended(target), REPEAT
        )

    def go_on(self, following: Ids) -> Row:
        """What follows the chunk."""
        block = self._block()
        return self._row(block, [], self.prompts["continue"], following[:48], CONTINUE)

    def _refusal(self, question: Ids, others: Sequence[int]) -> Row:
        """Memory or text, but not of what was asked; a blank's word may well stand in a neighbour, too."""
        said = self._ended(self.prompts["unknown"])
        others = self.rng.permutation(others)[: int(self.rng.integers(1, len(others) + 1))].tolist()
        chance = self.rng.random()
        spelled = others[:1] if 0.45 <= chance < 0.95 else []
        written = others[len(spelled) :] if chance < 0.75 else []
        block = np.concatenate([self._nothing(), *(self.memory.windows(one) for one in written)])
        return self._row(block, spelled, question, said, REFUSE)

    def _block(self, several: bool = False) -> Ids:
        """Memory of the chunk, at times of its neighbours too, at times with the levels above."""
        chunks = [self.place]
        if several:
            chunks += list(self.others)[: int(self.rng.integers(1, len(self.others) + 1))]
            self.rng.shuffle(chunks)
        coarse = self.memory.coarse(chunks) if self.rng.random() < 0.3 else np.zeros(0, np.int64)
        return np.concatenate([coarse, *(self.memory.windows(chunk) for chunk in chunks)])

    def _ended(self, ids: Ids) -> Ids:
        return np.concatenate([ids, self.prompts["end"]])

    def _row(
        self,
        block: Ids,
        passages: Sequence[int],
        question: Ids,
        answer: Ids,
        kind: str,
        number: int = -1,
        *,
        teaches: bool = False,
    ) -> Row:
        return prompt_row(
            self.prompts,
            block,
            [self.tokens[passage] for passage in passages],
            question,
            answer,
            kind,
            number,
            teaches,
        )
