"""What a check remembers of a whole namespace, in a few bytes a row, to compare it with what the file says.

Shapes: n rows.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.shapes import Bool, Int64

_MASK = (1 << 64) - 1
_WAITING = 1 << 20  # terms that wait to be counted
_READ = 1 << 16


class Tally:
    """Rows in any order: their count and the sum of their hashes. Two that agree hold the same rows."""

    def __init__(self) -> None:
        self.count = self._sum = 0

    def add(self, rows: Iterable[tuple]) -> None:
        """Counts rows."""
        for row in rows:
            self.count += 1
            self._sum = (self._sum + hash(row)) & _MASK

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tally) and (self.count, self._sum) == (other.count, other._sum)

    __hash__ = None  # type: ignore[assignment]


class Homes:
    """The node that holds each chunk, and whether the chunk is live; asked after all are added.

    Attributes:
        alive: Live chunks.
    """

    def __init__(self) -> None:
        self._ids, self._nodes, self._live = array("q"), array("q"), array("b")
        self.alive = 0

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, node_id: int, ids: Int64[np.ndarray, " c"], live: Int64[np.ndarray, " c"]) -> None:
        """Notes the chunks of a node."""
        self._ids.extend(ids.tolist())
        self._nodes.extend([node_id] * len(ids))
        self._live.extend((live > 0).tolist())
        self.alive += int((live > 0).sum())

    def of(self, chunk_id: int) -> tuple[int, int] | tuple[None, None]:
        """The node of a chunk, and 1 where it is live; nothing for one that no node holds."""
        ids, places = self._by_id
        at = int(np.searchsorted(ids, chunk_id))
        if at == len(ids) or ids[at] != chunk_id:
            return None, None
        return self._nodes[places[at]], self._live[places[at]]

    def repeated(self) -> list[int]:
        """Chunks that two nodes hold."""
        ids, _ = self._by_id
        return np.unique(ids[1:][np.diff(ids) == 0]).tolist()

    @cached_property
    def _by_id(self) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        ids = np.frombuffer(self._ids, dtype=np.int64)
        places = np.argsort(ids, kind="stable")
        return ids[places], places


class TermTally:
    """How many chunks, and how many live ones, have each term."""

    def __init__(self) -> None:
        self._known = _Counts(*(np.zeros(0, np.int64) for _ in range(3)))
        self._waiting: list[_Counts] = []
        self._size = 0

    def add(self, terms: NDArray[np.uint32], live: Bool[np.ndarray, " n"]) -> None:
        """Counts the terms of some chunks, each with whether its chunk is live."""
        known = terms.astype(np.int64)
        self._waiting.append(_Counts(known, live.astype(np.int64), np.ones_like(known)))
        self._size += len(terms)
        if self._size >= _WAITING:
            self._merge()

    def equals(self, rows: Iterator[tuple[int, int, int]]) -> bool:
        """Whether these are the terms, in ascending order, with their live and all chunks."""
        self._merge()
        at = 0
        while found := list(islice(rows, _READ)):
            part = _Counts(*(column[at : at + len(found)] for column in self._known))
            if not np.array_equal(np.stack(part, axis=1), found):
                return False
            at += len(found)
        return at == len(self._known.terms)

    def _merge(self) -> None:
        parts = [self._known, *self._waiting]
        terms, places = np.unique(np.concatenate([part.terms for part in parts]), return_inverse=True)
        live, total = np.zeros(len(terms), np.int64), np.zeros(len(terms), np.int64)
        np.add.at(live, places.reshape(-1), np.concatenate([part.live for part in parts]))
        np.add.at(total, places.reshape(-1), np.concatenate([part.total for part in parts]))
        self._known, self._waiting, self._size = _Counts(terms, live, total), [], 0


class _Counts(NamedTuple):
    terms: NDArray[np.int64]
    live: NDArray[np.int64]
    total: NDArray[np.int64]
