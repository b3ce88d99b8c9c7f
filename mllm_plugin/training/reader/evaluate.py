"""What a reader makes of held-out chunks: losses with its own memory, another's, none, text; answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mllm_plugin.training.reader.modules import Reader
from mllm_plugin.training.reader.prompts import Ids, Prompts
from mllm_plugin.training.reader.rows import Memory, Row, Sizes, prompt_row
from mllm_plugin.training.reader.stack import Weights
from mllm_plugin.training.reader.steps import TensorStep, assemble
from mllm_plugin.training.reader.texts import LONGEST, ReaderTexts

_REPEATED = 64  # tokens
_NOTHING = np.zeros(0, np.int64)
WAYS = ("own", "foreign", "none", "text")


@dataclass
class Held:
    """Held-out questions, a batch of chunks at a time.

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

    def _tokens(self, numbers: NDArray[np.int64]) -> list[Ids]:
        return [self.texts.chunks[int(self.texts.asked[n])][:LONGEST] for n in numbers]

    def _batches(self, numbers: NDArray[np.int64], way: str) -> Iterator[tuple[NDArray[np.int64], list[Ids]]]:
        """Questions, and the chunks whose memory is read."""
        read = self._tokens(self._others(numbers) if way == "foreign" else numbers)
        size = self.reader.sizes.chunks
        for start in range(0, len(numbers), size):
            yield numbers[start : start + size], read[start : start + size]

    def _sizes(self, rows: Sequence[Row]) -> Sizes:
        """Shapes with room for just these rows."""
        sizes = self.reader.sizes
        short = sum(len(row) <= sizes.short_tokens for row in rows)
        return replace(sizes, short=short, long=len(rows) - short, predicted=len(rows) * _REPEATED)

    def _rows(
        self, numbers: NDArray[np.int64], read: list[Ids], size: Ids, way: str, *, repeat: bool
    ) -> list[Row]:
        own, rows = self._tokens(numbers), []
        memory = Memory(self.reader.sizes, np.array([len(vectors) for vectors in read]), size)
        for place, number in enumerate(numbers):
            soft = memory.windows(place) if way in ("own", "foreign") else _NOTHING
            if repeat:
                rows.append(
                    prompt_row(self.prompts, soft, [], self.prompts["repeat"], own[place][:_REPEATED], way)
                )
                continue
            said = np.concatenate([self.texts.answers[int(number)], self.prompts["end"]])
            passages = [own[place]] if way == "text" else []
            rows.append(
                prompt_row(self.prompts, soft, passages, self.texts.questions[int(number)], said, way)
            )
        return rows

    @torch.no_grad()
    def losses(
        self, numbers: NDArray[np.int64], ratio: int, way: str, *, repeat: bool = False
    ) -> NDArray[np.float64]:
        """Mean loss per token of each answer (with its end), or of repeating each chunk [q]."""
        found = []
        for batch, read in self._batches(numbers, way):
            size = np.full(len(batch), ratio)
            rows = self._rows(batch, read, size, way, repeat=repeat)
            for row in rows:
                row.weight = 1.0
            step = assemble(read, size, rows, self._sizes(rows))
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
            size = np.full(len(batch), ratio)
            rows = self._rows(batch, read, size, way, repeat=False)
            step = TensorStep.of(
                assemble(read, size, [], self.reader.sizes), self.reader.stack.embeddings.device
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
