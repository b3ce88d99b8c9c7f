"""The arrays of one namespace: every level contiguous, the top first; children of a node contiguous.

Shapes: R rows of all levels together, L levels, N nodes (rows above the chunks), c chunks, d dimensions,
p chunks of rare terms, t terms, w windows; n rows of one level, or chosen chunks; b queries, m vectors per
query.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from mllm_plugin.image.kernels import kernels
from mllm_plugin.shapes import Bool, Float, Float16, Float32, Float64, Int8, Int64, UInt32
from mllm_plugin.store.codec import Windows
from mllm_plugin.store.snapshot import Frequency
from mllm_plugin.text.lexical import TermCounts

_FEW = 256
_HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)  # quicker than a cast


@dataclass(frozen=True)
class Space:
    """A namespace as of one write.

    Attributes:
        version: That write.
        bounds: First row of each level, and the end of the last [L + 1]; the last level is the chunks'.
        versions: Write that last changed each node's own embedding chunk.
        first: First child of each node, and the end of the last one's children.
        ids: Node ids, and below them chunk ids.
        live: Unmasked chunks below each row; 0 or 1 for a chunk.
        scales: What a code of each row is worth.
        codes: Embeddings as int8.
        halves: Embeddings of the chunks as stored.
        terms: Term counts of the chunks.
        rare_terms: Terms that few chunks have, once for each of these, ascending.
        rare_chunks: These chunks, by their place.
        vocabulary: Every term of the namespace, ascending.
        frequencies: Of each, as `Frequency`.
        window_sizes: How many windows each chunk has [c]; empty where they are left in the file.
        window_scales: What a code of each is worth.
        window_codes: Windows as stored, one chunk after another [w, d].
    """

    version: int
    bounds: Int64[np.ndarray, " _"]
    versions: Int64[np.ndarray, " N"]
    first: Int64[np.ndarray, " N+1"]
    ids: Int64[np.ndarray, " R"]
    live: UInt32[np.ndarray, " R"]
    scales: Float32[np.ndarray, " R"]
    codes: Int8[np.ndarray, "R d"]
    halves: Float16[np.ndarray, "c d"]
    terms: TermCounts
    rare_terms: UInt32[np.ndarray, " p"] = field(default_factory=lambda: np.zeros(0, np.uint32))
    rare_chunks: UInt32[np.ndarray, " p"] = field(default_factory=lambda: np.zeros(0, np.uint32))
    vocabulary: UInt32[np.ndarray, " t"] = field(default_factory=lambda: np.zeros(0, np.uint32))
    frequencies: UInt32[np.ndarray, "t 3"] = field(default_factory=lambda: np.zeros((0, 3), np.uint32))
    window_sizes: UInt32[np.ndarray, " _"] = field(default_factory=lambda: np.zeros(0, np.uint32))
    window_scales: Float32[np.ndarray, " w"] = field(default_factory=lambda: np.zeros(0, np.float32))
    window_codes: Int8[np.ndarray, "w _"] = field(default_factory=lambda: np.zeros((0, 0), np.int8))

    @property
    def nodes(self) -> int:
        """Rows above the chunks."""
        return int(self.bounds[-2])

    @property
    def lowest(self) -> tuple[int, int]:
        """First and last row of the nodes whose children are chunks; empty when the root's are."""
        return (int(self.bounds[-3]), self.nodes) if len(self.bounds) > 2 else (0, 0)

    @cached_property
    def term_ends(self) -> Int64[np.ndarray, " c"]:
        """Where the term entries of each chunk end."""
        return np.cumsum(self.terms.sizes, dtype=np.int64)

    @cached_property
    def chosen(self) -> WeakKeyDictionary[Any, UInt32[np.ndarray, " R"]]:
        """Counts under filters, by what the filter lets through, as long as that is kept."""
        return WeakKeyDictionary()

    @cached_property
    def by_id(self) -> tuple[Int64[np.ndarray, " c"], Int64[np.ndarray, " c"]]:
        """Ids of the chunks, ascending, and their places among the chunks."""
        order = np.argsort(self.chunk_ids)
        return self.chunk_ids[order], order

    def places(self, ids: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " _"]:
        """Where those of some chunks are that are here."""
        known, order = self.by_id
        found = np.searchsorted(known, ids).clip(max=len(known) - 1)
        return order[found[known[found] == ids]]

    def frequencies_of(self, terms: Collection[int]) -> dict[int, Frequency]:
        """How many chunks had each term at the write that the arrays are of; without those that none had."""
        asked = np.array(sorted(terms), np.uint32)
        at = np.searchsorted(self.vocabulary, asked)
        found = np.flatnonzero(at < len(self.vocabulary))
        found = found[self.vocabulary[at[found]] == asked[found]]
        counts = self.frequencies[at[found]].tolist()
        return {term: Frequency(*own) for term, own in zip(asked[found].tolist(), counts, strict=True)}

    def routed(self, rare: Sequence[tuple[int, int]], most: int) -> Int64[np.ndarray, " _"]:
        """Places of the chunks that have the rarest terms, about `most` of them.

        Args:
            rare: How many chunks have it, and the term; the rarest first.
            most: No other term is followed where that might lead to more.
        """
        found: set[int] = set()
        names = np.array([term for _, term in rare], np.uint32)
        ranges = [np.searchsorted(self.rare_terms, names, side=side) for side in ("left", "right")]
        self.check_rare(*ranges)
        for (total, _), first, last in zip(rare, *(one.tolist() for one in ranges), strict=True):
            if len(found) + total > most:
                break
            found.update(self.rare_chunks[first:last].tolist())
        return np.array(sorted(found), np.int64)

    @cached_property
    def window_ends(self) -> Int64[np.ndarray, " c"]:
        """Where the windows of each chunk end."""
        return np.cumsum(self.window_sizes, dtype=np.int64)

    def check_rare(self, starts: Int64[np.ndarray, " n"], ends: Int64[np.ndarray, " n"]) -> None:
        """As `check`, of ranges of `rare_chunks`."""

    def check_windows(self, starts: Int64[np.ndarray, " n"], ends: Int64[np.ndarray, " n"]) -> None:
        """As `check`, of ranges of windows."""

    @property
    def chunk_ids(self) -> Int64[np.ndarray, " c"]:
        """Ids of the chunks."""
        return self.ids[self.nodes :]

    @property
    def checked(self) -> bool:
        """Whether everything is known to be what was written, so that nothing need be checked before use."""
        return True

    def check_vectors(self, chunks: Int64[np.ndarray, " n"]) -> None:
        """Makes sure of the embeddings of chunks, as `check` does of their codes."""

    def check(self, starts: Int64[np.ndarray, " n"], ends: Int64[np.ndarray, " n"]) -> None:
        """Makes sure that what ranges of chunks hold is what was written; memory of its own always is."""

    @property
    def kernels(self) -> ModuleType:
        """What compares rows of this space."""
        return kernels()

    @property
    def children(self) -> Any:
        """`first`, as the kernels take it."""
        return self.first

    def tree(self, live: UInt32[np.ndarray, " R"]) -> tuple[Any, Any, Any]:
        """Codes, scales and counts below each row, as the kernels take them."""
        return self.codes, self.scales, live

    def vectors(self, chunks: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, "n d"]:
        """Embeddings of chunks by their place among the chunks, as stored."""
        self.check_vectors(chunks)
        return kernels().widen(self.halves.view(np.uint16), _HALVES, chunks)

    def exact(
        self, chunks: Sequence[Int64[np.ndarray, " _"]], queries: Float32[np.ndarray, "b m d"]
    ) -> list[Float64[np.ndarray, " _"]]:
        """The best inner products of each query's chunks, as stored, with the vectors of the query."""
        self.check_vectors(np.concatenate([np.zeros(0, np.int64), *chunks]))
        bits, exact = self.halves.view(np.uint16), kernels().exact
        return [exact(bits, _HALVES, *pair) for pair in zip(chunks, queries, strict=True)]

    def counts(self, chosen: Bool[np.ndarray, " c"]) -> UInt32[np.ndarray, " R"]:
        """Chosen chunks below each row, in place of `live` under a filter."""
        counts = np.zeros(len(self.ids), np.uint32)
        counts[self.nodes :] = chosen
        for level in range(len(self.bounds) - 3, -1, -1):
            first, last, end = self.bounds[level : level + 3]
            counts[first:last] = np.add.reduceat(counts[:end], self.first[first:last])
        return counts


def quantise(
    vectors: Float[np.ndarray, "*n d"],
) -> tuple[Int8[np.ndarray, "*n d"], Float32[np.ndarray, "*n"]]:
    """Vectors as int8 codes and what a code of each is worth."""
    vectors = np.asarray(vectors, dtype=np.float32)
    peaks = np.abs(vectors).max(axis=-1, initial=0.0)
    scales = (np.where(peaks > 0, peaks, 1.0) / np.float32(127)).astype(np.float32)
    return np.rint(vectors / scales[..., None]).astype(np.int8), scales


def _quantised(
    vectors: Float16[np.ndarray, "n d"],
) -> tuple[Int8[np.ndarray, "n d"], Float32[np.ndarray, " n"]]:
    """`quantise` for many, a few at a time, which a cache holds."""
    codes, scales = np.empty(vectors.shape, np.int8), np.empty(len(vectors), np.float32)
    for first in range(0, len(vectors), _FEW):
        some = slice(first, first + _FEW)
        codes[some], scales[some] = quantise(vectors[some])
    return codes, scales


@dataclass(frozen=True)
class Level:
    """Rows of one level, in the order of their parents.

    Attributes:
        ids, live, versions: Of each row; versions of chunks are ignored.
        vectors: Embeddings as stored.
        sizes: Children of each row [n]; empty for chunks.
    """

    ids: Int64[np.ndarray, " n"]
    live: Int64[np.ndarray, " n"]
    versions: Int64[np.ndarray, " n"]
    vectors: Float16[np.ndarray, "n d"]
    sizes: Int64[np.ndarray, " _"]


def arrange(levels: Sequence[Level], terms: TermCounts, version: int) -> Space:
    """Puts levels, the top first and the chunks last, into one set of arrays."""
    bounds = np.cumsum([0, *(len(level.ids) for level in levels)])
    sizes = np.concatenate([np.zeros(0, np.int64), *(level.sizes for level in levels[:-1])])
    coded = [_quantised(level.vectors) for level in levels]
    above = [level.versions for level in levels[:-1]]
    return Space(
        version=version,
        bounds=bounds,
        first=bounds[1] + np.cumsum([0, *sizes.tolist()]),
        ids=np.concatenate([level.ids for level in levels]),
        versions=np.concatenate([np.zeros(0, np.int64), *above]),
        live=np.concatenate([level.live for level in levels]).astype(np.uint32),
        scales=np.concatenate([scales for _, scales in coded]),
        codes=np.concatenate([codes for codes, _ in coded]),
        halves=np.ascontiguousarray(levels[-1].vectors, dtype=np.float16),
        terms=terms,
    )


def with_rare_terms(space: Space, most: int) -> Space:
    """The same arrays with the terms that at most so many chunks have, and these chunks."""
    order = np.argsort(space.terms.hashes, kind="stable")
    hashes = space.terms.hashes[order]
    starts = np.flatnonzero(np.diff(hashes, prepend=hashes[:1] ^ 1))
    sizes = np.diff(starts, append=len(hashes))
    rare = np.repeat(sizes <= most, sizes)
    chunks = space.terms.rows()[order[rare]].astype(np.uint32)
    return replace(space, rare_terms=hashes[rare], rare_chunks=chunks)


def with_windows(space: Space, windows: Windows) -> Space:
    """The same arrays with the windows of the chunks, in their order."""
    sizes = windows.sizes.astype(np.uint32)
    return replace(space, window_sizes=sizes, window_scales=windows.scales, window_codes=windows.codes)
