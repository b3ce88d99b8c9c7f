"""A step of training as arrays: chunks, the rows that read their memory, and what is to be predicted.

Shapes are the same at every step, so that a device can be given one compiled program: c chunks, t their
tokens, s windows each, g groups, r rows, w tokens per row, p predicted tokens,
q pairs of taught and teaching ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mllm_plugin.llm.reading import RATIOS
from mllm_plugin.shapes import Bool, Float32, Int64
from mllm_plugin.training.reader.prompts import Ids
from mllm_plugin.training.reader.rows import Row, Sizes
from mllm_plugin.training.reader.texts import LONGEST

_PAIRS = 512


@dataclass
class Step:
    """Arrays of one step; rows of `short` come first.

    Attributes:
        ids, live: Chunks' tokens and where there are some [c, t].
        size: Tokens per window of each chunk [c].
        rows: For each length the tokens [r, w] and the places in the memory [r, w].
        rows_at: Predicted positions in the rows laid end to end [p].
        targets, weights: What is to be predicted there, and how much it counts [p].
        taught, teacher: Pairs of predicted positions of which the second teaches the first [q].
        kinds: Predicted positions by kind, for reports.
    """

    ids: Int64[np.ndarray, "c t"]
    live: Bool[np.ndarray, "c t"]
    size: Int64[np.ndarray, " c"]
    rows: list[tuple[Ids, Ids]]
    rows_at: Int64[np.ndarray, " p"]
    targets: Int64[np.ndarray, " p"]
    weights: Float32[np.ndarray, " p"]
    taught: Int64[np.ndarray, " q"]
    teacher: Int64[np.ndarray, " q"]
    kinds: dict[str, Ids]


def assemble(
    tokens: Sequence[Ids],
    size: Ids,
    rows: Sequence[Row],
    sizes: Sizes,
    rng: np.random.Generator | None = None,
) -> Step:
    """Lays chunks and rows into arrays of fixed shapes; rows that find no room are left out.

    Args:
        tokens: Of each chunk.
        size: Tokens per window of each chunk.
        rows: What is asked.
        sizes: The shapes.
        rng: Mixes the rows; they are taken as they come when left out.
    """
    ids = np.zeros((sizes.chunks, LONGEST), np.int64)
    live = np.zeros(ids.shape, bool)
    for place, one in enumerate(tokens):
        ids[place, : len(one)], live[place, : len(one)] = one, True
    given = np.full(sizes.chunks, RATIOS[1])
    given[: len(size)] = size
    layout = _Layout(sizes)
    for number in range(len(rows)) if rng is None else rng.permutation(len(rows)).tolist():
        layout.add(rows[number])
    return Step(ids, live, given, layout.rows, *layout.predicted(), *layout.pairs(), layout.kinds())


class _Layout:
    """Rows of two lengths, filled line by line, and what is predicted in them."""

    def __init__(self, sizes: Sizes) -> None:
        self.lengths, self.counts = (sizes.short_tokens, sizes.long_tokens), (sizes.short, sizes.long)
        shapes = zip(self.counts, self.lengths, strict=True)
        self.rows = [(np.zeros(shape, np.int64), np.full(shape, -1)) for shape in shapes]
        self.most, self.total, self.filled = sizes.predicted, 0, [0, 0]
        self.kept: list[tuple[Row, int, int]] = []  # with its first prediction in the rows, and among all

    def add(self, row: Row) -> None:
        """Lays a row down, if there is room."""
        lengths, counts, filled = self.lengths, self.counts, self.filled
        bucket = 0 if len(row) <= lengths[0] and filled[0] < counts[0] else 1
        room = filled[bucket] < counts[bucket] and len(row) <= lengths[bucket]
        if not room or self.total + len(row.answer) > self.most:
            return
        line, (ids, places) = filled[bucket], self.rows[bucket]
        ids[line, : len(row)] = np.concatenate([row.ids, row.answer[:-1]])
        places[line, : len(row.places)] = row.places
        before = bucket * counts[0] * lengths[0] + line * lengths[bucket]
        self.kept.append((row, before + len(row.ids) - 1, self.total))
        self.total += len(row.answer)
        filled[bucket] += 1

    def predicted(
        self,
    ) -> tuple[Int64[np.ndarray, " p"], Int64[np.ndarray, " p"], Float32[np.ndarray, " p"]]:
        """Positions in the rows, targets and weights."""
        at, targets = np.zeros((2, self.most), np.int64)
        weights = np.zeros(self.most, np.float32)
        for row, first, start in self.kept:
            part = slice(start, start + len(row.answer))
            at[part], targets[part] = first + np.arange(len(row.answer)), row.answer
            weights[part] = row.weight / len(row.answer)
        return at, targets, weights

    def pairs(self) -> tuple[Int64[np.ndarray, " q"], Int64[np.ndarray, " q"]]:
        """Predicted positions that are taught, and those that teach them."""
        asked = [(row, start) for row, _, start in self.kept if row.question >= 0]
        teachers = {row.question: start for row, start in asked if row.teaches}
        taught = [(row, start) for row, start in asked if not row.teaches and row.question in teachers]
        steps = [np.arange(len(row.answer)) for row, _ in taught]
        none = np.zeros(0, np.int64)
        own = [start + step for (_, start), step in zip(taught, steps, strict=True)]
        theirs = [teachers[row.question] + step for (row, _), step in zip(taught, steps, strict=True)]
        return np.concatenate([none, *own]), np.concatenate([none, *theirs])

    def kinds(self) -> dict[str, Ids]:
        """Predicted positions by kind of row."""
        found: dict[str, list[Ids]] = {}
        for row, _, start in self.kept:
            found.setdefault(row.kind, []).append(start + np.arange(len(row.answer)))
        return {kind: np.concatenate(parts) for kind, parts in found.items()}


def compact(step: Step) -> Step:
    """The same step in arrays as small as may be, for devices that run any shape: on a CPU half of the work.

    What is predicted stays in its order.
    """
    width = int(step.live.sum(axis=1).max())
    real = np.zeros(len(step.rows_at), bool)
    real[np.concatenate([*step.kinds.values(), np.zeros(0, np.int64)])] = True
    rows, at, base, moved = [], np.zeros_like(step.rows_at), 0, 0
    for ids, places in step.rows:
        count, length = ids.shape
        inside = real & (step.rows_at >= base) & (step.rows_at < base + count * length)
        lines, columns = np.divmod(step.rows_at[inside] - base, length)
        kept, wide = (int(positions.max(initial=0)) + 1 for positions in (lines, columns))
        rows.append((ids[:kept, :wide], places[:kept, :wide]))
        at[inside] = moved + lines * wide + columns
        base, moved = base + count * length, moved + kept * wide
    return replace(step, ids=step.ids[:, :width], live=step.live[:, :width], rows=rows, rows_at=at)


@dataclass
class TensorStep:
    """A `Step` on a device."""

    ids: Int64[Tensor, "c t"]
    live: Bool[Tensor, "c t"]
    size: Int64[Tensor, " c"]
    rows: list[tuple[Tensor, Tensor]]
    rows_at: Int64[Tensor, " p"]
    targets: Int64[Tensor, " p"]
    weights: Float32[Tensor, " p"]
    taught: Int64[Tensor, " q"]
    teacher: Int64[Tensor, " q"]
    counted: Float32[Tensor, " q"]

    @classmethod
    def of(cls, step: Step, device: Any) -> TensorStep:
        """Moves arrays; pairs of teachers and taught are padded to a fixed number."""

        def moved(value: Any) -> Tensor:
            return torch.as_tensor(value).to(device, non_blocking=True)

        count = min(len(step.taught), _PAIRS)
        taught, teacher = torch.zeros(2, _PAIRS, dtype=torch.long)
        taught[:count], teacher[:count] = (
            torch.as_tensor(step.taught[:count]),
            torch.as_tensor(step.teacher[:count]),
        )
        return cls(
            moved(step.ids),
            moved(step.live),
            moved(step.size),
            [(moved(ids), moved(places)) for ids, places in step.rows],
            moved(step.rows_at),
            moved(step.targets),
            moved(step.weights),
            moved(taught),
            moved(teacher),
            moved((torch.arange(_PAIRS) < count).float()),
        )
