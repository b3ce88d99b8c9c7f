"""What a step asks of the reader: repeat, continue, fill a blank, answer; with memory, text, both or neither.

A step takes some chunks, each written as windows of one size, and rows of tokens and places in these chunks'
memory. Shapes are the same at every step, so that a device can be given one compiled program.

Shapes: c chunks, t their tokens, s windows each, g groups, r rows, w tokens per row, p predicted tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.llm.reading import RATIOS
from mllm_plugin.training.reader.prompts import Ids, Prompts
from mllm_plugin.training.reader.texts import HELD_OUT, LONGEST, NUMBER, YEAR, ReaderTexts

REPEAT, CONTINUE, FILL, ANSWER, REFUSE = "repeat", "continue", "fill", "answer", "refuse"
_DROPPED_WORDS = 0.12


@dataclass(frozen=True)
class Sizes:
    """Shapes of a step.

    Args:
        chunks: c, a multiple of `group`.
        group: Neighbouring chunks; what distracts, and what a node stands for.
        asked: Share of chunks that come with questions.
        short, long: Rows of each length.
        short_tokens, long_tokens: The lengths.
        predicted: p.
    """

    chunks: int = 96
    group: int = 4
    asked: float = 0.3
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
        return self.chunks // self.group


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
class Step:
    """Arrays of one step; rows of `short` come first.

    Attributes:
        ids, live: Chunks' tokens and where there are some [c, t].
        size: Tokens per window of each chunk [c].
        rows: For each length the tokens [r, w] and the places in the memory [r, w].
        rows_at: Predicted positions in the rows laid end to end [p].
        targets, weights: What is to be predicted there, and how much it counts [p].
        taught, teacher: Pairs of predicted positions of which the second teaches the first [p'].
        kinds: Predicted positions by kind, for reports.
    """

    ids: Ids
    live: NDArray[np.bool_]
    size: Ids
    rows: list[tuple[Ids, Ids]]
    rows_at: Ids
    targets: Ids
    weights: NDArray[np.float32]
    taught: Ids
    teacher: Ids
    kinds: dict[str, Ids]


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
        groups = sorted({chunk // self.sizes.group for chunk in chunks})
        return np.array(
            [first + self.sizes.chunks + group for group in groups] + [first + one for one in chunks]
        )


@dataclass
class Sampler:
    """Draws steps.

    Args:
        texts: What there is.
        prompts: The model's.
        sizes: Shapes.
    """

    texts: ReaderTexts
    prompts: Prompts
    sizes: Sizes = field(default_factory=Sizes)

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
        tokens = [self.texts.chunks[one][:LONGEST] for one in chunks]
        memory = Memory(self.sizes, np.array([len(one) for one in tokens]), size)
        rows = self._rows(chunks, tokens, memory, rng)
        return assemble(tokens, size, rows, self.sizes, rng)

    def _draw(self, rng: np.random.Generator) -> list[int]:
        """Groups of neighbouring chunks."""
        sizes, found = self.sizes, []
        for group in range(sizes.groups):
            asked = len(self._with_questions) and group < sizes.asked * sizes.groups
            start = int(rng.choice(self._with_questions if asked else self._free))
            start = min(start, len(self._free) - sizes.group)
            found += range(start, start + sizes.group)
        return found

    def _rows(
        self, chunks: Sequence[int], tokens: Sequence[Ids], memory: Memory, rng: np.random.Generator
    ) -> list[Row]:
        rows: list[Row] = []
        for place, chunk in enumerate(chunks):
            near = [n for n in range(len(chunks)) if n // self.sizes.group == place // self.sizes.group]
            others = [one for one in near if one != place]
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
        words = np.cumsum([one in self.prompts.word_starts for one in ids.tolist()])
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
        if chance < 0.08 and self.far:
            far = [int(rng.choice(self.far))]
            return [self._refusal(question, self.others if kind == ANSWER else far)]
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
        return np.concatenate([self.memory.windows(int(one)) for one in chosen])

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
        none = np.zeros(0, np.int64)
        said = self._ended(self.prompts["unknown"])
        chance = self.rng.random()
        if chance < 0.7:
            chosen = others[: int(self.rng.integers(1, len(others) + 1))]
            block = np.concatenate([self.memory.windows(one) for one in chosen])
            return self._row(block, [], question, said, REFUSE)
        if chance < 0.9:
            return self._row(none, [int(self.rng.choice(others))], question, said, REFUSE)
        return self._row(none, [], question, said, REFUSE)

    def _block(self, several: bool = False) -> Ids:
        """Memory of the chunk, at times of its neighbours too, at times with the levels above."""
        chunks = [self.place]
        if several:
            chunks += list(self.others)[: int(self.rng.integers(1, len(self.others) + 1))]
            self.rng.shuffle(chunks)
        coarse = self.memory.coarse(chunks) if self.rng.random() < 0.3 else np.zeros(0, np.int64)
        return np.concatenate([coarse, *(self.memory.windows(one) for one in chunks)])

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
            [self.tokens[one] for one in passages],
            question,
            answer,
            kind,
            number,
            teaches,
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
    text = [part for one in passages for part in (one, prompts["gap"])]
    after = np.concatenate([*text, question, prompts["tail"]])
    ids = np.concatenate([prompts["head"], np.zeros(len(block), np.int64), after])
    places = np.full(len(ids), -1)
    places[len(prompts["head"]) : len(prompts["head"]) + len(block)] = block
    return Row(ids, places, answer, kind, float(np.sqrt(len(answer))), number, teaches)


def assemble(
    tokens: Sequence[Ids],
    size: Ids,
    rows: Sequence[Row],
    sizes: Sizes,
    rng: np.random.Generator | None = None,
) -> Step:
    """Lays chunks and rows into arrays of fixed shapes; rows that find no room are left out."""
    ids = np.zeros((sizes.chunks, LONGEST), np.int64)
    live = np.zeros(ids.shape, bool)
    for place, one in enumerate(tokens):
        ids[place, : len(one)], live[place, : len(one)] = one, True
    lengths = (sizes.short_tokens, sizes.long_tokens)
    counts = (sizes.short, sizes.long)
    arrays = [(np.zeros((n, w), np.int64), np.full((n, w), -1)) for n, w in zip(counts, lengths, strict=True)]
    filled, at, targets, weights, kinds, spans = [0, 0], [], [], [], {}, {}
    order = range(len(rows)) if rng is None else rng.permutation(len(rows)).tolist()
    total, pairs = 0, []
    for number in order:
        row = rows[number]
        bucket = 0 if len(row) <= lengths[0] and filled[0] < counts[0] else 1
        room = filled[bucket] < counts[bucket] and len(row) <= lengths[bucket]
        if not room or total + len(row.answer) > sizes.predicted:
            continue
        line = filled[bucket]
        filled[bucket] += 1
        own_ids, own_places = arrays[bucket]
        own_ids[line, : len(row)] = np.concatenate([row.ids, row.answer[:-1]])
        own_places[line, : len(row.places)] = row.places
        base = (0 if bucket == 0 else counts[0] * lengths[0]) + line * lengths[bucket]
        at.append(base + len(row.ids) - 1 + np.arange(len(row.answer)))
        targets.append(row.answer)
        weights.append(np.full(len(row.answer), row.weight / len(row.answer)))
        kinds.setdefault(row.kind, []).append(np.arange(total, total + len(row.answer)))
        if row.question >= 0:
            pairs.append((row.question, row.teaches, total, len(row.answer)))
            if row.teaches:
                spans[row.question] = total
        total += len(row.answer)
    taught = [
        (total_ + n, spans[q] + n)
        for q, teaches, total_, count in pairs
        if not teaches and q in spans
        for n in range(count)
    ]
    padded = np.zeros((3, sizes.predicted))
    for line, parts in zip(padded, (at, targets, weights), strict=True):
        line[:total] = np.concatenate(parts) if parts else ()
    given = np.full(sizes.chunks, RATIOS[1])
    given[: len(size)] = size
    return Step(
        ids,
        live,
        given,
        arrays,
        padded[0].astype(np.int64),
        padded[1].astype(np.int64),
        padded[2].astype(np.float32),
        np.array([one[0] for one in taught], np.int64),
        np.array([one[1] for one in taught], np.int64),
        {kind: np.concatenate(one) for kind, one in kinds.items()},
    )
