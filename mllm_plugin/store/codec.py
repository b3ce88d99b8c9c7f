"""Vectors to bytes and back. Little endian; d dimensions, w windows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.errors import DamagedStoreError
from mllm_plugin.text.lexical import TermCounts
from mllm_plugin.tree.node import EmbeddingChunk

_SCALE_BYTES = 4


def text_digest(text: bytes, split: bool) -> bytes:
    """Identifies a text (UTF-8) and whether it may be cut."""
    return hashlib.blake2b(text, digest_size=16, salt=b"split" if split else b"whole").digest()


def vector_of(ids: NDArray[np.int64], vectors: NDArray[Any], child_id: int) -> NDArray[Any]:
    """The embedding [r, d] of one child among `vectors` [c, r, d] of an embedding chunk; `ids` [c] ascend."""
    return vectors[int(np.searchsorted(ids, child_id))]


def children_of(block: Sequence[Any], dim: int) -> EmbeddingChunk:
    """Decodes the columns of an embedding chunk: ids, vectors, live, total, versions, terms."""
    ids, vectors, live, total, versions, terms = block
    count, children = len(ids) // 8, np.frombuffer(ids, dtype="<i8")
    if (children[1:] <= children[:-1]).any():
        raise ValueError("its ids are not in order")
    return EmbeddingChunk(
        ids=children,
        vectors=np.frombuffer(vectors, dtype="<f2").reshape(count, -1, dim),
        live=np.frombuffer(live, dtype="<u4", count=count).astype(np.int64),
        total=np.frombuffer(total, dtype="<u4", count=count).astype(np.int64),
        versions=np.frombuffer(versions, dtype="<i8", count=count),
        terms=None if terms is None else TermCounts.from_bytes(terms, count),
    )


def pack_windows(windows: NDArray[np.float32]) -> bytes:
    """Windows [w, d] as int8 with a float32 scale each: (4 + d) bytes a window."""
    peaks = np.abs(windows).max(axis=1, initial=0.0)
    scales = (np.where(peaks > 0, peaks, 1.0) / 127.0).astype("<f4")
    codes = np.rint(windows / scales[:, None]).astype(np.int8)
    return scales.tobytes() + codes.tobytes()


def packed_size(count: int, dim: int) -> int:
    """Bytes of so many windows."""
    return count * (_SCALE_BYTES + dim)


def unpack_windows(data: bytes, dim: int) -> NDArray[np.float32]:
    """Windows [w, d] from `pack_windows`."""
    count = len(data) // (_SCALE_BYTES + dim)
    data = data[: count * (_SCALE_BYTES + dim)]
    scales = np.frombuffer(data, dtype="<f4", count=count)
    codes = np.frombuffer(data, dtype=np.int8, offset=_SCALE_BYTES * count).reshape(count, dim)
    return codes.astype(np.float32) * scales[:, None]


def are_windows(data: bytes, dim: int) -> bool:
    """Whether bytes may come from `pack_windows`: whole windows of finite numbers."""
    with np.errstate(all="ignore"):
        return len(data) % (_SCALE_BYTES + dim) == 0 and bool(np.isfinite(unpack_windows(data, dim)).all())


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
