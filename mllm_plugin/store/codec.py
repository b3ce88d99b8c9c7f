"""Vectors to bytes and back. Little endian; d dimensions, w windows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_SCALE_BYTES = 4


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
