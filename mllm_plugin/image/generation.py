"""One generation on disk: the arrays of many namespaces in one file, written once and mapped.

Layout, little endian: segments, one per namespace; then the checksums of all blocks before; then a JSON
footer with the directory of segments; then its length, its CRC-32 and a mark. A file cut anywhere lacks the
mark, a damaged footer fails its checksum, and every block of 64 KiB is compared with its own before its first
use: those of nodes when a namespace is opened, those of chunks when a walk first comes to them.

Shapes: n ranges of bytes or of rows, or chosen chunks; k blocks.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import sys
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.errors import DamagedStoreError
from mllm_plugin.image.space import Space
from mllm_plugin.shapes import Int64, UInt32
from mllm_plugin.text.lexical import TermCounts

FORMAT = 1
_MARK = b"MLLMIMG\x03"
_TAIL = struct.Struct("<QI8s")  # length of the footer, its CRC-32, the mark
_BLOCK = 1 << 16
_ALIGNED = 64
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)
_AT_ONCE = 1 << 20  # bytes that are written before it is asked again whether to go on
_SYNCED = 1 << 25  # and bytes that may wait to be seen onto the disk, so that the last sync is short, too
_ARRAYS: dict[str, str] = {
    "bounds": "<i8",
    "first": "<i8",
    "versions": "<i8",
    "ids": "<i8",
    "live": "<u4",
    "scales": "<f4",
    "sizes": "<u4",
    "lengths": "<u4",
    "codes": "|i1",
    "halves": "<f2",
    "hashes": "<u4",
    "counts": "|u1",
    "rare_terms": "<u4",
    "rare_chunks": "<u4",
    "vocabulary": "<u4",
    "frequencies": "<u4",
    "window_sizes": "<u4",
    "window_scales": "<f4",
    "window_codes": "|i1",
}
# checked when touched; so are the codes of chunks
_BY_CHUNK = ("halves", "hashes", "counts", "rare_chunks", "window_scales", "window_codes")


class DamagedImageError(DamagedStoreError):
    """A generation does not hold what was written; it is dropped and made again from the file."""


class BrokenOffError(Exception):
    """The writing of a generation was to end."""


class Blocks:
    """Which blocks of a mapped file were compared with their checksums; shared by threads."""

    def __init__(self, path: Path, data: memoryview, sums: UInt32[np.ndarray, " k"]) -> None:
        self._path, self._data, self._sums = path, data, sums
        self._seen = np.zeros(len(sums), bool)
        self.complete = False

    def check_all(self, go_on: Callable[[], bool] = lambda: True) -> None:
        """Compares every block, so that none need be looked up afterwards; for a thread of its own.

        It reads the file, not what is mapped, which would then count as memory of the process.

        Args:
            go_on: Asked before each; it is broken off at the first no.

        Raises:
            DamagedImageError: One differs.
            OSError: The file was removed, or cannot be read.
        """
        with self._path.open("rb") as stream:
            for block in range(len(self._sums)):
                if not go_on():
                    return
                self._compare(block, stream.read(min(_BLOCK, len(self._data) - block * _BLOCK)))
        self.complete = True

    def check(self, starts: Int64[np.ndarray, " n"], ends: Int64[np.ndarray, " n"]) -> None:
        """Compares the blocks that ranges of bytes touch, each once.

        Raises:
            DamagedImageError: One differs.
        """
        firsts, lasts = starts // _BLOCK, np.maximum(starts, ends - 1) // _BLOCK
        longest = int((lasts - firsts).max(initial=0)) + 1
        touched = np.minimum(firsts[:, None] + np.arange(longest), lasts[:, None])
        for block in np.unique(touched[~self._seen[touched]]).tolist():
            self._compare(block, self._data[block * _BLOCK : (block + 1) * _BLOCK])

    def _compare(self, block: int, data: memoryview | bytes) -> None:
        if zlib.crc32(data) != int(self._sums[block]):
            raise DamagedImageError(f"block {block} of a search image differs from its checksum")
        self._seen[block] = True


class MappedSpace(Space):
    """A namespace in a mapped file, which checks what it is asked for."""

    _places: dict[str, int]
    _blocks: Blocks

    def __init__(
        self, arrays: dict[str, NDArray], places: dict[str, int], version: int, blocks: Blocks
    ) -> None:
        terms = TermCounts(*(arrays[name] for name in ("sizes", "lengths", "hashes", "counts")))
        rest = {field.name: arrays[field.name] for field in fields(Space) if field.name in arrays}
        super().__init__(version=version, terms=terms, **rest)
        self.__dict__.update(_places=places, _blocks=blocks)

    def check(self, starts: Int64[np.ndarray, " n"], ends: Int64[np.ndarray, " n"]) -> None:
        """Checks the codes and term entries of ranges of rows.

        Raises:
            DamagedImageError: They are not what was written.
        """
        if self.checked or not len(starts):
            return
        dim, nodes, places = self.codes.shape[1], self.nodes, self._places
        self._blocks.check(places["codes"] + starts * dim, places["codes"] + ends * dim)
        lower = np.where(starts > nodes, self.term_ends[starts - nodes - 1], 0)
        upper = np.where(ends > nodes, self.term_ends[ends - nodes - 1], 0)
        self._blocks.check(places["hashes"] + 4 * lower, places["hashes"] + 4 * upper)
        self._blocks.check(places["counts"] + lower, places["counts"] + upper)

    def check_vectors(self, chunks: Int64[np.ndarray, " n"]) -> None:
        """Checks embeddings of chunks.

        Raises:
            DamagedImageError: They are not what was written.
        """
        if len(chunks) and not self.checked:
            starts = self._places["halves"] + chunks * (2 * self.codes.shape[1])
            self._blocks.check(starts, starts + 2 * self.codes.shape[1])

    def check_rare(self, starts: Int64[np.ndarray, " n"], ends: Int64[np.ndarray, " n"]) -> None:
        """Checks ranges of `rare_chunks`.

        Raises:
            DamagedImageError: They are not what was written.
        """
        self._check("rare_chunks", 4, starts, ends)

    def check_windows(self, starts: Int64[np.ndarray, " n"], ends: Int64[np.ndarray, " n"]) -> None:
        """Checks ranges of windows.

        Raises:
            DamagedImageError: They are not what was written.
        """
        self._check("window_scales", 4, starts, ends)
        self._check("window_codes", self.codes.shape[1], starts, ends)

    def _check(
        self, name: str, width: int, starts: Int64[np.ndarray, " n"], ends: Int64[np.ndarray, " n"]
    ) -> None:
        if len(starts) and not self.checked:
            place = self._places[name]
            self._blocks.check(place + width * starts, place + width * ends)

    @property
    def checked(self) -> bool:
        """Whether all blocks of the file were compared."""
        return self._blocks.complete


@dataclass(frozen=True)
class Generation:
    """A mapped file.

    Attributes:
        path: Where it is.
        identity: What it was derived from, as `write_generation` was told.
        directory: Segments by namespace id.
    """

    path: Path
    identity: str
    directory: dict[int, dict[str, Any]]
    data: memoryview
    blocks: Blocks

    @classmethod
    def open(cls, path: Path) -> Generation:
        """Maps a file and checks its footer; reads nothing else.

        Raises:
            DamagedImageError: The file is cut, damaged or of another format.
        """
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size < _TAIL.size:
                raise DamagedImageError(f"{path} is cut: {size} bytes")
            data = memoryview(_mapped(stream.fileno()))
        length, checksum, mark = _TAIL.unpack(data[-_TAIL.size :])
        footer = data[max(0, size - _TAIL.size - length) : size - _TAIL.size]
        if mark != _MARK or zlib.crc32(footer) != checksum:
            raise DamagedImageError(f"{path} is cut, damaged or of another release")
        found = json.loads(bytes(footer))
        sums = np.frombuffer(data, "<u4", found["blocks"], found["sums"])
        if zlib.crc32(sums.tobytes()) != found["sums_crc"]:
            raise DamagedImageError(f"the checksums of {path} are damaged")
        directory = {entry["namespace"]: entry for entry in found["directory"]}
        arrays = data[: found["end"]]
        return cls(path, found["identity"], directory, arrays, Blocks(path, arrays, sums))

    def space(self, namespace_id: int) -> Space | None:
        """The arrays of a namespace; all but those of chunks are checked.

        Raises:
            DamagedImageError: They are not what was written.
        """
        entry = self.directory.get(namespace_id)
        if entry is None:
            return None
        arrays, places, checked = {}, {}, []
        for name, kind in _ARRAYS.items():
            offset, shape = entry["arrays"][name]
            count = int(np.prod(shape))
            arrays[name] = np.frombuffer(self.data, kind, count, offset).reshape(shape)
            places[name] = offset
            if name not in _BY_CHUNK and name != "codes":
                checked.append((offset, offset + arrays[name].nbytes))
        self._check(checked)
        nodes, dim = int(arrays["bounds"][-2]), arrays["codes"].shape[1]
        self._check([(places["codes"], places["codes"] + nodes * dim)])
        return MappedSpace(arrays, places, entry["version"], self.blocks)

    def _check(self, ranges: list[tuple[int, int]]) -> None:
        starts, ends = np.array(ranges, np.int64).T
        self.blocks.check(starts, ends)


def _mapped(file: int) -> mmap.mmap:
    """A file as private memory, so that arrays have one type wherever they come from; nothing writes to it.

    Linux would set aside as much memory for what might be written, and refuse where it has not got that.
    """
    if sys.platform != "linux":
        return mmap.mmap(file, 0, access=mmap.ACCESS_COPY)
    return mmap.mmap(file, 0, mmap.MAP_PRIVATE | _NO_RESERVE, mmap.PROT_READ | mmap.PROT_WRITE)


def write_generation(
    path: Path,
    identity: str,
    spaces: Iterable[tuple[int, Space]],
    go_on: Callable[[], bool] = lambda: True,
) -> None:
    """Writes the arrays of namespaces, one after another, and sees them onto the disk.

    Args:
        path: A name that no reader looks for yet.
        identity: Of the memory and of what else the arrays depend on.
        spaces: By namespace id; only one is held at a time.
        go_on: Asked on the way.

    Raises:
        BrokenOffError: At the first no.
    """
    with path.open("wb") as stream:
        writer = _Writer(stream, go_on)
        directory = [_segment(writer, namespace_id, space) for namespace_id, space in spaces]
        end = writer.offset
        sums = np.array(writer.sums(), "<u4")
        start = writer.align()
        stream.write(sums.tobytes())
        found = {"format": FORMAT, "identity": identity, "directory": directory, "end": end}
        found |= {"sums": start, "blocks": len(sums), "sums_crc": zlib.crc32(sums.tobytes())}
        footer = json.dumps(found).encode()
        stream.write(footer + _TAIL.pack(len(footer), zlib.crc32(footer), _MARK))
        stream.flush()
        os.fsync(stream.fileno())


def _segment(writer: _Writer, namespace_id: int, space: Space) -> dict[str, Any]:
    columns = {field.name: getattr(space, field.name) for field in fields(Space) if field.name in _ARRAYS}
    columns |= {name: getattr(space.terms, name) for name in ("sizes", "lengths", "hashes", "counts")}
    arrays = {}
    for name, kind in _ARRAYS.items():
        column = np.ascontiguousarray(columns[name], dtype=kind)
        arrays[name] = (writer.align(), column.shape)
        writer.write(column)
    return {"namespace": namespace_id, "version": space.version, "arrays": arrays}


class _Writer:
    """Appends to a file while `go_on` says so, and keeps the checksum of every block."""

    def __init__(self, stream: Any, go_on: Callable[[], bool]) -> None:
        self._stream, self._go_on, self.offset = stream, go_on, 0
        self._sums: list[int] = []
        self._crc, self._synced = 0, 0

    def write(self, data: NDArray | bytes) -> None:
        """Appends bytes."""
        view = memoryview(data if isinstance(data, bytes) else data.reshape(-1).view(np.uint8).data)
        for first in range(0, len(view), _AT_ONCE):
            if not self._go_on():
                raise BrokenOffError
            self._append(view[first : first + _AT_ONCE])
            if self.offset - self._synced >= _SYNCED:
                self._stream.flush()
                os.fsync(self._stream.fileno())
                self._synced = self.offset

    def _append(self, view: memoryview) -> None:
        self._stream.write(view)
        while len(view):
            part = view[: _BLOCK - self.offset % _BLOCK]
            self._crc = zlib.crc32(part, self._crc)
            self.offset += len(part)
            view = view[len(part) :]
            if self.offset % _BLOCK == 0:
                self._sums.append(self._crc)
                self._crc = 0

    def align(self) -> int:
        """Fills up to where the next array may begin, and tells where that is."""
        self.write(bytes(-self.offset % _ALIGNED))
        return self.offset

    def sums(self) -> list[int]:
        """Checksums of all blocks, the last one however long it is."""
        return [*self._sums, self._crc] if self.offset % _BLOCK else self._sums
