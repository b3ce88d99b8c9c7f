"""Packs prompts into rows so that questions about one text share its tokens and nothing is padded much.

A unit is a shared beginning (with its memory block) and branches. Every branch sees the beginning and itself,
never another branch, so one pass over the beginning serves all of them. Units lie beside one another in a row
and do not see each other either.

Shapes: r rows, t tokens per row, p answer positions, v embeddings, d dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Memories:
    """Embeddings [v, d] of a memory block in the order the LLM reads them, and their levels [v]."""

    vectors: NDArray[np.float32]
    levels: NDArray[np.int64]


@dataclass(frozen=True)
class Branch:
    """What follows the shared part: the end of a prompt, and the answer.

    Attributes:
        prompt: Token ids, at least one.
        answer: Token ids of the answer, the end included.
        mode: "memory", "both", "text", "none" or "recite".
        question: Number of the question; branches of one question may teach each other.
        teacher: Whether it sees the full text.
        weight: Of its loss.
    """

    prompt: Sequence[int]
    answer: Sequence[int]
    mode: str
    question: int = -1
    teacher: bool = False
    weight: float = 1.0


@dataclass(frozen=True)
class Unit:
    """A shared beginning, token ids around an optional memory block, and the branches that go on from it."""

    before: Sequence[int]
    memories: Memories | None
    after: Sequence[int]
    branches: Sequence[Branch]

    def length(self, per_embedding: int) -> int:
        """Tokens that the unit takes in a row."""
        block = 0 if self.memories is None else per_embedding * len(self.memories.levels)
        return len(self.before) + block + len(self.after) + sum(_size(one) for one in self.branches)


def _size(branch: Branch) -> int:
    return len(branch.prompt) + len(branch.answer) - 1


@dataclass(frozen=True)
class Packed:
    """Rows ready for the LLM.

    Attributes:
        tokens: Ids [r, t].
        places: Which memory token stands in a place [r, t]; -1 for none.
        positions: Position ids [r, t].
        mask: What each token sees, True = seen [r, t, t].
        vectors, levels: Embeddings of all memory blocks, one after another [v, d] and [v].
        rows, columns: Where an answer token is predicted [p].
        targets: Its id [p].
        owners: Its branch [p].
        branches: All branches, in order.
        lengths: Tokens of each row without padding.
    """

    tokens: Tensor
    places: Tensor
    positions: Tensor
    mask: Tensor
    vectors: Tensor
    levels: Tensor
    rows: Tensor
    columns: Tensor
    targets: Tensor
    owners: Tensor
    branches: list[Branch]
    lengths: list[int]

    def to(self, device: torch.device) -> Packed:
        """The same on a device."""
        moved = {name: value.to(device) for name, value in self.__dict__.items() if isinstance(value, Tensor)}
        return replace(self, **moved)


@dataclass
class _Row:
    """A row being filled."""

    tokens: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    units: list[int] = field(default_factory=list)
    branches: list[int] = field(default_factory=list)  # 0 = the shared beginning

    def put(self, ids: Sequence[int], places: Sequence[int], start: int, unit: int, branch: int) -> None:
        self.tokens += ids
        self.places += places
        self.positions += range(start, start + len(ids))
        self.units += [unit] * len(ids)
        self.branches += [branch] * len(ids)


def pack(units: Sequence[Unit], row_tokens: int, per_embedding: int = 1) -> Packed:
    """Lays units into rows, longest first, each where it fits.

    Args:
        units: In any order; the branches of the result follow the order of packing.
        row_tokens: Tokens per row; a longer unit makes the rows longer.
        per_embedding: Memory tokens per embedding.
    """
    sizes = [unit.length(per_embedding) for unit in units]
    capacity = max([row_tokens, *sizes])
    filled: list[tuple[_Row, list[int]]] = []
    packer = _Packer(per_embedding)
    for place in sorted(range(len(units)), key=lambda one: (-sizes[one], one)):
        row = next(
            (n for n, (one, _) in enumerate(filled) if len(one.tokens) + sizes[place] <= capacity), None
        )
        if row is None:
            row = len(filled)
            filled.append((_Row(), []))
        packer.add(units[place], row, filled[row][0], place)
    return packer.finish([row for row, _ in filled])


class _Packer:
    def __init__(self, per_embedding: int) -> None:
        self.per_embedding, self.count = per_embedding, 0
        self.branches: list[Branch] = []
        self.vectors: list[NDArray[np.float32]] = []
        self.levels: list[NDArray[np.int64]] = []
        self.found: list[tuple[int, int, int, int]] = []  # row, column, target, branch

    def add(self, unit: Unit, number: int, row: _Row, name: int) -> None:
        block = [] if unit.memories is None else self._block(unit.memories)
        places = [*([-1] * len(unit.before)), *block, *([-1] * len(unit.after))]
        shared = [*unit.before, *([0] * len(block)), *unit.after]
        row.put(shared, places, 0, name, 0)
        for branch in unit.branches:
            self.branches.append(branch)
            ids = [*branch.prompt, *branch.answer[:-1]]
            first = len(row.tokens) + len(branch.prompt) - 1
            row.put(ids, [-1] * len(ids), len(shared), name, len(self.branches))
            number_of = len(self.branches) - 1
            self.found += [(number, first + n, one, number_of) for n, one in enumerate(branch.answer)]

    def _block(self, memories: Memories) -> list[int]:
        size = self.per_embedding * len(memories.levels)
        places = list(range(self.count, self.count + size))
        self.count += size
        self.vectors.append(memories.vectors)
        self.levels.append(memories.levels)
        return places

    def finish(self, rows: list[_Row]) -> Packed:
        length = max(len(row.tokens) for row in rows)

        def table(name: str, pad: int) -> Tensor:
            lists = [getattr(row, name) for row in rows]
            return torch.tensor([one + [pad] * (length - len(one)) for one in lists])

        units, branches = table("units", -1), table("branches", -1)
        same = units[:, :, None] == units[:, None, :]
        own = (branches[:, None, :] == 0) | (branches[:, :, None] == branches[:, None, :])
        mask = same & own & torch.ones(length, length, dtype=torch.bool).tril()
        found = torch.tensor(self.found, dtype=torch.long).reshape(-1, 4)
        dim = self.vectors[0].shape[1] if self.vectors else 0
        return Packed(
            tokens=table("tokens", 0),
            places=table("places", -1),
            positions=table("positions", 0),
            mask=mask,
            vectors=torch.from_numpy(np.concatenate([*self.vectors, np.zeros((0, dim), np.float32)])).float(),
            levels=torch.from_numpy(np.concatenate([*self.levels, np.zeros(0, np.int64)])).long(),
            rows=found[:, 0],
            columns=found[:, 1],
            targets=found[:, 2],
            owners=found[:, 3],
            branches=self.branches,
            lengths=[len(row.tokens) for row in rows],
        )
