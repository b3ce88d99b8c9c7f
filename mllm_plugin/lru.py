"""Values that are kept while they are used."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


class LRU(Generic[_Key, _Value]):
    """The most recently used values, at most `capacity` bytes of them; shared by threads.

    Args:
        capacity: Bytes, or whatever else the sizes given to `put` count.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._entries: OrderedDict[_Key, tuple[_Value, int]] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """The sizes of what is kept, added up."""
        return self._size

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[_Key]:
        """The keys, the least recently used first."""
        with self._lock:
            return iter(list(self._entries))

    def get(self, key: _Key) -> _Value | None:
        """The value under a key, which counts as used; None where there is none."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry[0]

    def put(self, key: _Key, value: _Value, size: int) -> None:
        """Keeps a value in place of what was under its key, and lets the least recently used ones go.

        A value that is larger than the capacity is not kept, and nothing goes for it.
        """
        with self._lock:
            self._remove(key)
            if size > self.capacity:
                return
            self._entries[key] = value, size
            self._size += size
            while self._size > self.capacity:
                self._size -= self._entries.popitem(last=False)[1][1]

    def pop(self, key: _Key) -> None:
        """Forgets a key; none is fine too."""
        with self._lock:
            self._remove(key)

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._entries.clear()
            self._size = 0

    def _remove(self, key: _Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._size -= entry[1]
