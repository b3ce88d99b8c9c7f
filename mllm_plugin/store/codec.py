"""Vectors to bytes and back. Little endian; d dimensions, w windows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.errors import DamagedStoreError

_SCALE_BYTES = 4


def text_digest(text: bytes, split: bool) -> bytes:
    """Identifies a text (UTF-8) and whether it may be cut."""
    return hashlib.blake2b(text, digest_size=16, salt=b"split" if split else b"whole").digest()


def unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Scales rows of [..., d] to unit length; zero rows stay zero."""
    vectors = np.asarray(vectors, dtype=np.float64)
    peaks = np.abs(vectors).max(axis=-1, keepdims=True, initial=0.0)
    vectors = vectors / np.where(peaks > 0, peaks, 1.0)  # so that squares stay within range
    norms = np.sqrt((vectors * vectors).sum(axis=-1, keepdims=True))
    return (vectors / np.where(norms > 0, norms, 1.0)).astype(np.float32)


def pack_windows(windows: NDArray[np.float32]) -> bytes:
    """Windows [w, d] as int8 with a float32 scale each: (4 + d) bytes a window."""
    peaks = np.abs(windows).max(axis=1, initial=0.0)
    scales = (np.where(peaks > 0, peaks, 1.0) / 127.0).astype("<f4")
    codes = np.rint(windows / scales[:, None]).astype(np.int8)
    return scales.tobytes() + codes.tobytes()


def unpack_windows(data: bytes, dim: int) -> NDArray[np.float32]:
    """Windows [w, d] from `pack_windows`."""
    count = len(data) // (_SCALE_BYTES + dim)
    data = data[: count * (_SCALE_BYTES + dim)]
    scales = np.frombuffer(data, dtype="<f4", count=count)
    codes = np.frombuffer(data, dtype=np.int8, offset=_SCALE_BYTES * count).reshape(count, dim)
    return codes.astype(np.float32) * scales[:, None]


class Windows(NamedTuple):
    """Windows of n chunks, one chunk after another: vectors [sum of sizes, d] and how many each has [n]."""

    vectors: NDArray[np.float32]
    sizes: NDArray[np.int64]

    @property
    def starts(self) -> NDArray[np.int64]:
        """First window of each chunk [n]."""
        return np.cumsum(self.sizes) - self.sizes


def unpack_all(packed: Sequence[bytes], dim: int) -> Windows:
    """Windows of many chunks at once; an empty entry has none."""
    width = _SCALE_BYTES + dim
    if bad := [len(data) for data in packed if len(data) % width]:
        raise DamagedStoreError(
            f"the windows of a chunk have {bad[0]} bytes, expected a multiple of {width}; `mllm verify` says "
            f"which, `mllm repair` makes them anew"
        )
    sizes = np.array([len(data) // width for data in packed], dtype=np.int64)
    windows = Windows(np.empty((int(sizes.sum()), dim), dtype=np.float32), sizes)
    for size in np.unique(sizes[sizes > 0]).tolist():
        rows = np.flatnonzero(sizes == size)
        joined = b"".join(packed[row] for row in rows.tolist())
        table = np.frombuffer(joined, dtype=np.int8).reshape(len(rows), size * width)
        scales = np.ascontiguousarray(table[:, : _SCALE_BYTES * size]).view("<f4")
        codes = table[:, _SCALE_BYTES * size :].reshape(len(rows), size, dim)
        places = windows.starts[rows][:, None] + np.arange(size)
        windows.vectors[places] = codes.astype(np.float32) * scales[:, :, None]
    return windows
