"""What a reader makes of held-out chunks: losses and answers, by what is read as memory and as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mllm_plugin.training.reader.modules import Reader
from mllm_plugin.training.reader.prompts import Ids, Prompts
from mllm_plugin.training.reader.rows import GROUP, Memory, Row, Sizes, prompt_row
from mllm_plugin.training.reader.stack import Weights
from mllm_plugin.training.reader.steps import TensorStep, assemble
from mllm_plugin.training.reader.texts import LONGEST, ReaderTexts

_REPEATED = 64  # tokens
_NOTHING = np.zeros(0, np.int64)
WAYS = ("own", "foreign", "none", "text")
MIXED = ("beside", "neighbour", "elsewhere", "absent")


@dataclass(frozen=True)
class _Read:
    """Numbers of the chunks that are read for a question, as memory and as text."""

    memory: tuple[int, ...] = ()
    text: tuple[int, ...] = ()


@dataclass
class Held:
    """Held-out questions, a batch of chunks at a time.

    Ways to read, of the chunk that answers ("own") and its neighbours in the document: as memory "own",
    "foreign" (another question's), "none"; as text "text", with the neighbours' memory "beside", and
    "neighbour" (one's text, which hardly ever answers) alone; with it, in memory, "elsewhere" (own and the
    others) or "absent" (the others only).

    Attributes:
        reader: What is measured.
        texts: Where they are from.
        prompts: The model's.
    """

    reader: Reader
    texts: ReaderTexts
    prompts: Prompts

    def questions(self, most: int | None = None) -> NDArray[np.int64]:
        """Numbers of the held-out ones that fit the shapes, in an order that mixes them."""
        found = [n for n in np.flatnonzero(self.texts.held_out) if self._fits(int(n))]
        return np.random.default_rng(0).permutation(found)[:most]

    def _fits(self, number: int) -> bool:
        texts, prompts = self.texts, self.prompts
        answer = len(texts.answers[number]) + 1
        parts = [texts.chunks[int(texts.asked[number])][:LONGEST], texts.questions[number]]
        parts += [prompts[name] for name in ("head", "tail", "gap")]
        return answer <= _REPEATED and sum(map(len, parts)) + answer <= self.reader.sizes.long_tokens

    def _others(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """A question about another chunk for each, half way round where that is one."""
        asked, count = self.texts.asked[numbers], len(numbers)
        found = []
        for place, chunk in enumerate(asked):
            turned = [(place + count // 2 + n) % count for n in range(count)]
            found.append(next((other for other in turned if asked[other] != chunk), place))
        return numbers[found]

    def _read(self, numbers: NDArray[np.int64], way: str) -> list[_Read]:
        """What is read for each question."""
        asked = self.texts.asked
        if way == "foreign":
            return [_Read(memory=(int(one),)) for one in asked[self._others(numbers)]]
        return [self._read_one(int(one), way) for one in asked[numbers]]

    def _read_one(self, own: int, way: str) -> _Read:
        near = self._neighbours(own)
        ways = {
            "own": _Read(memory=(own,)),
            "none": _Read(),
            "text": _Read(text=(own,)),
            "beside": _Read(near, (own,)),
            "neighbour": _Read(text=near[:1]),
            "elsewhere": _Read((*near[1:2], own, *near[2:]), near[:1]),
            "absent": _Read(near[1:], near[:1]),
        }
        return ways[way]

    def _neighbours(self, chunk: int) -> tuple[int, ...]:
        """The nearest chunks of its document."""
        documents = self.texts.documents
        same = np.flatnonzero(documents == documents[chunk])
        same = same[same != chunk]
        return tuple(same[np.argsort(abs(same - chunk), kind="stable")][: GROUP - 1].tolist())

    def _batches(
        self, numbers: NDArray[np.int64], way: str
    ) -> Iterator[tuple[NDArray[np.int64], list[_Read]]]:
        """Questions, and what is read for them, as many as there is room for their chunks."""
        read = self._read(numbers, way)
        size = self.reader.sizes.chunks // max(1, *(len(one.memory) for one in read))
        for start in range(0, len(numbers), size):
            yield numbers[start : start + size], read[start : start + size]

    def _tokens(self, chunk: int) -> Ids:
        return self.texts.chunks[chunk][:LONGEST]

    def _sizes(self, rows: Sequence[Row]) -> Sizes:
        """Shapes with room for just these rows."""
        sizes = self.reader.sizes
        short = sum(len(row) <= sizes.short_tokens for row in rows)
        longest = max([sizes.long_tokens, *map(len, rows)])
        return replace(
            sizes, short=short, long=len(rows) - short, long_tokens=longest, predicted=len(rows) * _REPEATED
        )

    def _rows(
        self, numbers: NDArray[np.int64], read: list[_Read], ratio: int, way: str, *, repeat: bool = False
    ) -> tuple[list[Row], list[Ids], Ids]:
        """Rows, and the chunks that their memory is of, with the tokens per window of each."""
        chunks = [self._tokens(chunk) for one in read for chunk in one.memory]
        size, rows, first = np.full(len(chunks), ratio), [], 0
        memory = Memory(self.reader.sizes, np.array([len(one) for one in chunks], np.int64), size)
        for number, one in zip(numbers.tolist(), read, strict=True):
            places = range(first, first := first + len(one.memory))
            soft = np.concatenate([_NOTHING, *(memory.windows(place) for place in places)])
            if repeat:
                question = self.prompts["repeat"]
                said = self._tokens(int(self.texts.asked[number]))[:_REPEATED]
            else:
                question = self.texts.questions[number]
                said = np.concatenate([self.texts.answers[number], self.prompts["end"]])
            passages = [self._tokens(chunk) for chunk in one.text]
            rows.append(prompt_row(self.prompts, soft, passages, question, said, way))
        return rows, chunks, size

    @torch.no_grad()
    def losses(
        self, numbers: NDArray[np.int64], ratio: int, way: str, *, repeat: bool = False
    ) -> NDArray[np.float64]:
        """Mean loss per token of each answer (with its end), or of repeating each chunk [q]."""
        found = []
        for batch, read in self._batches(numbers, way):
            rows, chunks, size = self._rows(batch, read, ratio, way, repeat=repeat)
            for row in rows:
                row.weight = 1.0
            step = assemble(chunks, size, rows, self._sizes(rows))
            given = TensorStep.of(step, self.reader.stack.embeddings.device)
            values = self.reader.loss(given)[1].cpu().numpy()
            places = step.kinds[way]
            ends = np.cumsum([len(row.answer) for row in rows])
            if len(places) != ends[-1]:
                raise RuntimeError("a held-out row found no room in the step's shapes")
            found += [float(part.mean()) for part in np.split(values[places], ends[:-1])]
        return np.array(found)

    @torch.no_grad()
    def answers(self, numbers: NDArray[np.int64], ratio: int, way: str, most: int = 16) -> list[list[int]]:
        """Greedy answers as token ids."""
        writes = self.reader.writer.added(self.reader.stack)
        weights = self.reader.reader.added(self.reader.stack)
        found: list[list[int]] = []
        for batch, read in self._batches(numbers, way):
            rows, chunks, size = self._rows(batch, read, ratio, way)
            step = TensorStep.of(
                assemble(chunks, size, [], self.reader.sizes), self.reader.stack.embeddings.device
            )
            memory = self.reader.memory(step.ids, step.live, step.size, writes)
            found += self._greedy(rows, memory, weights, most)
        return found

    def _greedy(self, rows: Sequence[Row], memory: Tensor, weights: Weights, most: int) -> list[list[int]]:
        device, stack = memory.device, self.reader.stack
        longest = max(len(row.ids) for row in rows) + most
        ids = torch.zeros(len(rows), longest, dtype=torch.long, device=device)
        places = torch.full_like(ids, -1)
        last = torch.tensor([len(row.ids) for row in rows], device=device) - 1
        for line, row in enumerate(rows):
            ids[line, : len(row.ids)] = torch.as_tensor(row.ids, device=device)
            places[line, : len(row.places)] = torch.as_tensor(row.places, device=device)
        lines, said = torch.arange(len(rows), device=device), []
        for _ in range(most):
            states = self.reader.states(memory, [(ids, places)], weights).unflatten(0, ids.shape)
            chosen = stack.logits(stack.normed(states[lines, last])).argmax(dim=-1)
            said.append(chosen)
            last = last + 1
            ids[lines, last] = chosen
        end = int(self.prompts["end"][0])
        written = torch.stack(said, dim=1).tolist()
        return [row[: row.index(end)] if end in row else row for row in written]


def credit(losses: Mapping[str, NDArray[np.float64]]) -> float:
    """Nats per token that one's own memory gives over another's."""
    return float(losses["foreign"].mean() - losses["own"].mean())
