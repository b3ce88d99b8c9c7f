"""Names that came already, in a few bytes each."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

_RECENT = 1 << 16  # marks that wait to be sorted in


class Seen:
    """Tells names that come a second time; a name takes 8 bytes, so that streams may be long."""

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._sorted: NDArray[np.uint64] = np.zeros(0, dtype=np.uint64)

    def again(self, *name: str) -> bool:
        """Notes a name; whether it came before."""
        mark = _mark(name)
        known = mark in self._recent or self._is_sorted_in(mark)
        self._recent.add(mark)
        if len(self._recent) >= _RECENT:
            recent = np.fromiter(self._recent, dtype=np.uint64, count=len(self._recent))
            self._sorted = np.union1d(self._sorted, recent)
            self._recent.clear()
        return known

    def _is_sorted_in(self, mark: int) -> bool:
        place = int(np.searchsorted(self._sorted, np.uint64(mark)))
        return place < len(self._sorted) and int(self._sorted[place]) == mark


def _mark(name: tuple[str, ...]) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for part in name:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return int.from_bytes(digest.digest(), "little")
