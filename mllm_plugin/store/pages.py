"""SQLite's pages read beside SQLite, so that one damaged page costs what lies on it and nothing else.

A page that does not check out hides the pages below it from SQLite. Here the pointer map (of auto_vacuum)
still names them, by their parent.

Source: SQLite file format, sections 1.6 (b-tree pages), 1.7 (overflow), 1.8 (pointer map), 2.1 (records).
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from mllm_plugin.store.checksums import page_is_sound
from mllm_plugin.store.log import log_of, read_log
from mllm_plugin.store.schema import CHECKSUM_BYTES, PAGE_SIZE

_USABLE = PAGE_SIZE - CHECKSUM_BYTES
_MAP_STEP = _USABLE // 5 + 1
_BELOW = 5  # kind of a pointer map's entry: a page of a b-tree that is no root
_INDEX_INTERIOR, _TABLE_INTERIOR, _INDEX_LEAF, _TABLE_LEAF = 0x02, 0x05, 0x0A, 0x0D
_MOST_INDEX = (_USABLE - 12) * 64 // 255 - 23
_LEAST = (_USABLE - 12) * 32 // 255 - 23
_MOST_TABLE = _USABLE - 35
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
_BROKEN = (IndexError, ValueError, struct.error)


class Cell(NamedTuple):
    """Where a row is: the page, the start of its payload there, its whole size, its rowid (0 in an index)."""

    page: int
    at: int
    size: int
    rowid: int


class Pages:
    """The pages of a file under its log.

    Args:
        path: A file that this process has not open in SQLite.

    Attributes:
        damaged: Numbers of pages that were needed and do not check out.
    """

    def __init__(self, path: Path) -> None:
        self._file, self._log = path.open("rb"), None
        self._places: dict[int, int] = {}
        log = log_of(path)
        if log.is_file():
            self._places, self._log = read_log(log).places, log.open("rb")
        self.count = max(path.stat().st_size // PAGE_SIZE, *self._places, 0)
        self.damaged: set[int] = set()

    def close(self) -> None:
        """Closes the files."""
        for file in (self._file, self._log):
            if file is not None:
                file.close()

    def page(self, number: int) -> bytes | None:
        """A page by its number, from 1; None when it does not check out."""
        data = self._read(number)
        if len(data) == PAGE_SIZE and (number in self._places or page_is_sound(data)):
            return data
        self.damaged.add(number)
        return None

    def _read(self, number: int) -> bytes:
        in_log = self._places.get(number)
        file = self._file if in_log is None else self._log
        try:
            file.seek((number - 1) * PAGE_SIZE if in_log is None else in_log)  # type: ignore[union-attr]
            return file.read(PAGE_SIZE)  # type: ignore[union-attr]
        except OSError:
            return b""

    # -- trees
    # ---------------------------------------------------------------------------------------------------

    def cells(self, root: int) -> Iterator[Cell]:
        """The rows of a table or index as far as they can be reached."""
        waiting, seen = [root], set()
        while waiting:
            number = waiting.pop()
            if number in seen or not 0 < number <= self.count:
                continue
            seen.add(number)
            data = self.page(number)
            if data is None:
                waiting += self._below[number]
                continue
            try:
                below, rows = _entries(data, number)
            except _BROKEN:
                self.damaged.add(number)
                below, rows = self._below[number], []
            waiting += below
            yield from rows

    @cached_property
    def _below(self) -> dict[int, list[int]]:
        """Pages by their parent, as pointer maps have it."""
        found: dict[int, list[int]] = defaultdict(list)
        for at in range(2, self.count + 1, _MAP_STEP):
            data = self.page(at) or b""
            for place in range(min(len(data) // 5, _MAP_STEP - 1)):
                kind, parent = struct.unpack_from(">BI", data, 5 * place)
                if kind == _BELOW:
                    found[parent].append(at + 1 + place)
        return found

    # -- rows
    # ----------------------------------------------------------------------------------------------------

    def row(self, cell: Cell, *, index: bool = False) -> list[Any] | None:
        """The columns of a row; None when a page that it lies on does not check out."""
        try:
            payload = self._payload(cell, index)
            return None if payload is None else _columns(payload)
        except _BROKEN:
            self.damaged.add(cell.page)
            return None

    def _payload(self, cell: Cell, index: bool) -> bytes | None:
        data = self.page(cell.page)
        if data is None:
            return None
        most = _MOST_INDEX if index else _MOST_TABLE
        local = cell.size
        if local > most:
            local = _LEAST + (cell.size - _LEAST) % (_USABLE - 4)
            local = local if local <= most else _LEAST
        parts, left = [data[cell.at : cell.at + local]], cell.size - local
        following = _u32(data, cell.at + local) if left else 0
        while left > 0:
            data = self.page(following) if 0 < following <= self.count else None
            if data is None:
                return None
            parts.append(data[4 : 4 + min(left, _USABLE - 4)])
            left, following = left - len(parts[-1]), _u32(data, 0)
        return b"".join(parts)


def _entries(data: bytes, number: int) -> tuple[list[int], list[Cell]]:
    """Pages below a page, and the rows on it."""
    base = 100 if number == 1 else 0
    kind, count = data[base], struct.unpack_from(">H", data, base + 3)[0]
    if kind not in (_INDEX_INTERIOR, _TABLE_INTERIOR, _INDEX_LEAF, _TABLE_LEAF):
        raise ValueError(f"page {number} is of kind {kind}")
    interior = kind in (_INDEX_INTERIOR, _TABLE_INTERIOR)
    below = [_u32(data, base + 8)] if interior else []
    rows = []
    for at in struct.unpack_from(f">{count}H", data, base + (12 if interior else 8)):
        if interior:
            below.append(_u32(data, at))
            at += 4
        if kind == _TABLE_INTERIOR:
            continue
        size, at = _varint(data, at)
        rowid, at = _varint(data, at) if kind == _TABLE_LEAF else (0, at)
        rows.append(Cell(number, at, size, rowid))
    return below, rows


def _columns(payload: bytes) -> list[Any]:
    size, at = _varint(payload, 0)
    place, found = size, []
    while at < size:
        kind, at = _varint(payload, at)
        value, place = _value(payload, kind, place)
        found.append(value)
    return found


def _value(payload: bytes, kind: int, at: int) -> tuple[Any, int]:
    if kind >= 12:
        end = at + (kind - 12) // 2
        if end > len(payload):
            raise ValueError("a value ends outside of its row")
        data = payload[at:end]
        return (data.decode("utf-8") if kind % 2 else data), end
    if kind in _INTEGERS:
        end = at + _INTEGERS[kind]
        return int.from_bytes(payload[at:end], "big", signed=True), end
    if kind == 7:
        return struct.unpack_from(">d", payload, at)[0], at + 8
    return {0: None, 8: 0, 9: 1}[kind], at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place in range(9):
        byte = data[at + place]
        if place == 8:
            return value << 8 | byte, at + 9
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError("unreachable")


def _u32(data: bytes, at: int) -> int:
    return struct.unpack_from(">I", data, at)[0]
