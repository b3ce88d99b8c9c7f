"""A step of training as arrays: chunks, the rows that read their memory, and what is to be predicted.

Shapes are the same at every step, so that a device can be given one compiled program: c chunks, t their
tokens, s windows each, g groups, r rows, w tokens per row, p predicted tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mllm_plugin.llm.reading import RATIOS
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
        kept, wide = (int(one.max(initial=0)) + 1 for one in (lines, columns))
        rows.append((ids[:kept, :wide], places[:kept, :wide]))
        at[inside] = moved + lines * wide + columns
        base, moved = base + count * length, moved + kept * wide
    return replace(step, ids=step.ids[:, :width], live=step.live[:, :width], rows=rows, rows_at=at)


@dataclass
class TensorStep:
    """A `Step` on a device."""

    ids: Tensor
    live: Tensor
    size: Tensor
    rows: list[tuple[Tensor, Tensor]]
    rows_at: Tensor
    targets: Tensor
    weights: Tensor
    taught: Tensor
    teacher: Tensor
    counted: Tensor

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
