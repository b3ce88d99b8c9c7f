"""Vectors to bytes and back, and values to a parameter. Little endian; d dimensions, w windows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.errors import DamagedStoreError
from mllm_plugin.text.lexical import TermCounts
from mllm_plugin.tree.node import EmbeddingChunk

# Rows of many values in one statement: `FROM {WANTED} chunks ON chunk_id = wanted.value`, `(wanted(ids),)`
WANTED = "json_each(?) wanted CROSS JOIN"  # CROSS: the values lead, however many rows the table has
_SCALE_BYTES = 4
_BASE = 128
_WINDOWS = ("codes", "scales", "sizes")
_LONGEST = 2**24 // 127**2  # dimensions up to which float32 adds products of codes exactly


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


@dataclass(frozen=True)
class Windows:
    """Windows of n chunks as stored, one chunk after another.

    Attributes:
        codes: Of all windows [sum of sizes, d].
        scales: What a code of each is worth [sum of sizes].
        sizes: How many each chunk has [n].
    """

    codes: NDArray[np.int8]
    scales: NDArray[np.float32]
    sizes: NDArray[np.int64]

    @classmethod
    def concat(cls, parts: Sequence[Windows]) -> Windows:
        """Windows of several lots of chunks, one lot after another."""
        if len(parts) == 1:
            return parts[0]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in _WINDOWS))

    @property
    def starts(self) -> NDArray[np.int64]:
        """First window of each chunk [n]."""
        return np.cumsum(self.sizes) - self.sizes

    def best(self, probes: NDArray[np.float32]) -> NDArray[np.float64]:
        """The best inner product of a window of each chunk that has any with probes [m, d]: [m, chunks]."""
        has = np.flatnonzero(self.sizes)
        return np.maximum.reduceat(self.cosines(probes), self.starts[has], axis=0).T

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        """Embeddings [sum of sizes, d]."""
        return self.codes.astype(np.float32) * self.scales[:, None]

    def cosines(self, probes: NDArray[np.float32]) -> NDArray[np.float64]:
        """Inner products [sum of sizes, m] with probes [m, d], the same bits whatever else is among both.

        A probe is taken as three digits of base 128 per dimension: products of codes are whole numbers that
        a matrix product adds exactly in any order, where floats would depend on how many rows there are.
        """
        scales, digits = _digits(probes)
        sums = np.zeros((len(self.codes), digits.shape[0] * digits.shape[1]))
        for first in range(0, self.codes.shape[1], _LONGEST):
            part = slice(first, first + _LONGEST)
            sums += self.codes[:, part].astype(np.float32) @ digits[:, :, part].reshape(sums.shape[1], -1).T
        high, middle, low = np.moveaxis(sums.reshape(len(sums), *digits.shape[:2]), 1, 0)
        return ((high * _BASE + middle) * _BASE + low) * self.scales[:, None] * scales


def whole_numbers(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What one is worth in each of some vectors [m], and the vectors in these [m, d], of 21 bits."""
    peaks = np.abs(vectors).max(axis=1, initial=0.0).astype(np.float64)
    scales = np.where(peaks > 0, peaks, 1.0) / (126 * _BASE**2)
    return scales, np.rint(vectors / scales[:, None])


def _digits(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Vectors [m, d] as digits [3, m, d] in -127 … 127, and what the lowest of each is worth [m]."""
    scales, rest = whole_numbers(vectors)
    high = np.rint(rest / _BASE**2)
    rest -= high * _BASE**2
    middle = np.rint(rest / _BASE)
    return scales, np.stack([high, middle, rest - middle * _BASE]).astype(np.float32)


_WHAT_TO_DO = "`mllm verify` says which, `mllm repair` makes them anew"


def unpack_all(packed: Sequence[bytes], dim: int) -> Windows:
    """Windows of many chunks at once; an empty entry has none."""
    width = _SCALE_BYTES + dim
    if bad := [len(data) for data in packed if len(data) % width]:
        raise DamagedStoreError(
            f"the windows of a chunk have {bad[0]} bytes, expected a multiple of {width}; {_WHAT_TO_DO}"
        )
    sizes = [len(data) // width for data in packed]
    cuts = [_SCALE_BYTES * size for size in sizes]
    scales = bytearray().join([data[:cut] for data, cut in zip(packed, cuts, strict=True)])
    codes = bytearray().join([data[cut:] for data, cut in zip(packed, cuts, strict=True)])
    worth = np.frombuffer(scales, dtype="<f4")
    if not np.isfinite(worth).all():
        raise DamagedStoreError(f"the windows of a chunk are no numbers; {_WHAT_TO_DO}")
    return Windows(
        np.frombuffer(codes, dtype=np.int8).reshape(-1, dim), worth, np.array(sizes, dtype=np.int64)
    )


def wanted(values: Iterable[Any]) -> str:
    """The parameter that goes with `WANTED`."""
    return json.dumps(list(values))
