"""SQLite's write-ahead log, read beside SQLite.

SQLite takes the first frame that does not check out for the log's end: after a power failure it is. Damage in
the middle of a log looks the same, and then the writes after it are lost without an error; their frames are
still there, and tell.

Source: SQLite file format, section 4 (the write-ahead log).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mllm_plugin.store.checksums import checksum
from mllm_plugin.store.schema import PAGE_SIZE

_HEADER, _FRAME_HEADER = 32, 24
_FRAME = _FRAME_HEADER + PAGE_SIZE
_MAGIC = {0x377F0682: "<", 0x377F0683: ">"}
_EMPTY = (0, 0)


class Log(NamedTuple):
    """What a log holds.

    Attributes:
        places: Of each page's last committed frame, the page's offset in the log.
        size: Pages of the file after the last commit; 0 when there is none.
        lost: Whole transactions that lie after a frame that does not check out.
    """

    places: dict[int, int]
    size: int
    lost: int


class _Frame(NamedTuple):
    number: int
    size: int  # of the file, in pages; 0 but in the last frame of a transaction
    sums: tuple[int, int]
    follows: bool  # on the frame before, by its own checksum


def log_of(path: Path) -> Path:
    """The log of a file."""
    return path.with_name(f"{path.name}-wal")


def read_log(path: Path) -> Log:
    """Reads a log; what is being written meanwhile counts as not yet there."""
    if not path.is_file():
        return Log({}, 0, 0)
    while True:
        with path.open("rb") as file:
            header = file.read(_HEADER)
            found = _read(file, header)
            file.seek(0)
            if file.read(_HEADER) == header:  # it was not begun anew meanwhile
                return found


def _read(file, header: bytes) -> Log:  # noqa: ANN001 - a binary file
    places: dict[int, int] = {}
    pending: dict[int, int] = {}
    size = lost = 0
    sound = True
    for place, frame in enumerate(_frames(file, header)):
        sound = sound and frame.follows
        if sound:
            pending[frame.number] = _HEADER + place * _FRAME + _FRAME_HEADER
            if frame.size:
                places.update(pending)
                pending, size = {}, frame.size
        elif frame.follows and frame.size:
            lost += 1
    return Log(places, size, lost)


def _frames(file, header: bytes) -> Iterator[_Frame]:  # noqa: ANN001 - a binary file
    """The frames of this generation, each judged by the checksum that the one before it carries."""
    order = _MAGIC.get(_u32(header, 0))
    if order is None or len(header) < _HEADER or _u32(header, 8) != PAGE_SIZE:
        return
    sums = checksum(header[:24], _EMPTY, order)
    if sums != (_u32(header, 24), _u32(header, 28)):
        return
    while len(data := file.read(_FRAME)) == _FRAME:
        written = _u32(data, 16), _u32(data, 20)
        computed = checksum(data[:8] + data[_FRAME_HEADER:], sums, order)
        follows = computed == written and data[8:16] == header[16:24]
        yield _Frame(_u32(data, 0), _u32(data, 4), written, follows)
        sums = written


def _u32(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "big")
