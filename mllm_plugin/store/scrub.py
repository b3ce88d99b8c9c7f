"""Zeroes the free space inside of pages on their way into the file.

`secure_delete` overwrites what is deleted, but when SQLite rebuilds a page it leaves copies of moved cells in
the page's gap, and these outlive their originals. The writer's connection, the only one that moves pages from
the log into the file, goes through this VFS, which zeroes the gap and the free blocks of every b-tree page.

Source: SQLite file format, sections 1.6 (b-tree pages) and 1.8 (pointer map pages).
"""

from __future__ import annotations

import threading

import apsw

from mllm_plugin.store.schema import CHECKSUM_BYTES, PAGE_SIZE

_HEADER = {0x02: 12, 0x05: 12, 0x0A: 8, 0x0D: 8}  # size of the page header by page type
_USABLE = PAGE_SIZE - CHECKSUM_BYTES
_registered: dict[str, ScrubVFS] = {}
_lock = threading.Lock()
_POINTER_MAP_STEP = _USABLE // 5 + 1  # every so many pages one is a pointer map, from page 2 on


def scrub_page(data: bytes, number: int) -> bytes:
    """A page of the file, numbered from 1, with its free space zeroed; other kinds of pages as they are."""
    base = 100 if number == 1 else 0
    header = _HEADER.get(data[base])
    if header is None or (number - 2) % _POINTER_MAP_STEP == 0:
        return data
    cells = _u16(data, base + 3)
    gap, content = base + header + 2 * cells, _u16(data, base + 5) or 65536
    blocks = list(_free_blocks(data, base, content))
    if not gap <= content <= _USABLE or None in blocks:
        return data  # no page of ours; SQLite's own checks will say so
    page = bytearray(data)
    page[gap:content] = bytes(content - gap)
    for block in blocks:
        if block is not None:
            start, size = block
            page[start + 4 : start + size] = bytes(size - 4)
    return bytes(page)


def _free_blocks(data: bytes, base: int, content: int):  # noqa: ANN202 - (start, size), or None for a broken chain
    at = _u16(data, base + 1)
    while at:
        size = _u16(data, at + 2) if content <= at <= _USABLE - 4 else 0
        following = _u16(data, at) if size else 0
        if size < 4 or at + size > _USABLE or (following and following < at + size):
            yield None
            return
        yield at, size
        at = following


def _u16(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")


class _ScrubFile(apsw.VFSFile):
    """A file whose b-tree pages are scrubbed as they are written."""

    def xWrite(self, data: bytes, offset: int) -> None:
        if len(data) == PAGE_SIZE and offset % PAGE_SIZE == 0:
            data = scrub_page(bytes(data), offset // PAGE_SIZE + 1)
        super().xWrite(data, offset)


class ScrubVFS(apsw.VFS):
    """The VFS of the writer's connection, on top of the one that checks pages.

    Args:
        name: Its own name.
        base: Name of the VFS below.
    """

    def __init__(self, name: str, base: str) -> None:
        self._below = base
        super().__init__(name, base)

    def xOpen(self, name: apsw.URIFilename | str | None, flags: list[int]) -> apsw.VFSFile:
        """Opens the memory's own file so that it scrubs, any other as it is."""
        kind = _ScrubFile if flags[0] & apsw.SQLITE_OPEN_MAIN_DB else apsw.VFSFile
        return kind(self._below, name, flags)  # type: ignore[arg-type]


def scrub_vfs(base: str) -> str:
    """Name of the scrubbing VFS over another one, registered once per process."""
    with _lock:
        if base not in _registered:
            _registered[base] = ScrubVFS(f"scrub-{base}", base)
    return f"scrub-{base}"
