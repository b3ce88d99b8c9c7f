"""The walk over the arrays of one namespace: level by level over contiguous ranges, for a batch of queries;
and words and windows of chunks, scored where they lie.

Shapes: b queries, l levels that a query is given for (1 or left out where it is the same on all), m vectors
per query, d dimensions, R rows of the arrays, w ranges of rows, n chunks found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from mllm_plugin.config import LexicalConfig
from mllm_plugin.image.kernels import kernels
from mllm_plugin.image.space import Space, quantise
from mllm_plugin.shapes import Float, Float32, Float64, Int8, Int64, UInt32
from mllm_plugin.store.codec import Windows, whole_numbers
from mllm_plugin.text.lexical import QueryTerms

UPPER_SHARE = 2  # above the lowest nodes the beam is so many times narrower: each leads to many of them
UPPER_LEAST = 4
FINALISTS = 14  # so many more than wanted are compared exactly: the codes' order is nearly right


@dataclass(frozen=True)
class Plan:
    """How to walk.

    Attributes:
        width: Lowest nodes kept; None keeps everything on every level, which is the scan.
        need: Live chunks that the nodes kept must hold at least.
        paths: Weight of the parent's score, by level from the top; none where left out.
    """

    width: int | None
    need: int = 10
    paths: Sequence[float] = ()


@dataclass(frozen=True)
class Found:
    """Chunks that one query reached, in the order of the walk.

    Attributes:
        chunks: Their places among the chunks of the space.
        scores: Cosines of their codes with the query's; they order, and are not exact.
        scored: Embeddings compared with the query.
        visited: Nodes gone into.
    """

    chunks: Int64[np.ndarray, " n"]
    scores: Float32[np.ndarray, " n"]
    scored: int
    visited: int = 0

    def best(self, most: int, evidence: Float[np.ndarray, " n"] | None = None) -> Int64[np.ndarray, " _"]:
        """The `most` best chunks by score, or by evidence in its place; lower places first on ties."""
        order = -(self.scores if evidence is None else evidence)
        rows = np.arange(len(order))
        if most < len(order):
            rows = np.flatnonzero(order <= np.partition(order, most - 1)[most - 1])
        return self.chunks[rows[np.lexsort((self.chunks[rows], order[rows]))][:most]]


def walk(
    space: Space,
    queries: Float32[np.ndarray, "b *l m d"],
    plan: Plan,
    counts: UInt32[np.ndarray, " R"] | None = None,
) -> list[Found]:
    """Finds, for each query, the chunks below the best nodes of every level.

    Args:
        space: The namespace's arrays.
        queries: By level, top level first, where the rankers of the levels map the query.
        plan: How wide.
        counts: Chunks that may be returned below each row (`Space.counts`); all live ones by default.

    Returns:
        What each query found.
    """
    asked = quantise(queries if queries.ndim == 4 else queries[:, None])
    live = space.live if counts is None else counts
    starts, ends, sizes, scored, visited = _ranges(space, *asked, plan, live)
    found = _scored(space, (starts, ends, sizes), asked, live)
    return [
        replace(one, scored=one.scored + nodes, visited=into)
        for one, nodes, into in zip(found, scored.tolist(), visited.tolist(), strict=True)
    ]


def compare(
    space: Space,
    queries: Float32[np.ndarray, "b *l m d"],
    chunks: Sequence[Int64[np.ndarray, " _"]],
    counts: UInt32[np.ndarray, " R"] | None = None,
) -> list[Found]:
    """Compares each query with chosen chunks of its own; those that may not be returned are left out.

    Args:
        space, queries, counts: As `walk` takes them.
        chunks: Places among the chunks, of each query.
    """
    starts = space.nodes + np.concatenate([np.zeros(0, np.int64), *chunks])
    ranges = starts, starts + 1, np.array([len(chunk) for chunk in chunks], np.int64)
    asked = quantise(queries if queries.ndim == 4 else queries[:, None])
    return _scored(space, ranges, asked, space.live if counts is None else counts)


def _scored(
    space: Space,
    ranges: tuple[Int64[np.ndarray, " w"], Int64[np.ndarray, " w"], Int64[np.ndarray, " b"]],
    asked: tuple[Int8[np.ndarray, "b l m d"], Float32[np.ndarray, "b l m"]],
    live: UInt32[np.ndarray, " R"],
) -> list[Found]:
    """Scores the chunks of ranges: starts, ends, and how many each query has."""
    space.check(*ranges[:2])
    rows, scores, lengths, compared = space.kernels.score(*space.tree(live), *ranges, *asked)
    lasts = np.cumsum(lengths).tolist()
    return [
        Found(rows[first:last] - space.nodes, scores[first:last], total)
        for first, last, total in zip([0, *lasts], lasts, compared.tolist(), strict=False)
    ]


def nearest(
    space: Space,
    queries: Float32[np.ndarray, "b *l m d"],
    plan: Plan,
    k: int,
    counts: UInt32[np.ndarray, " R"] | None = None,
) -> tuple[list[Int64[np.ndarray, " _"]], Int64[np.ndarray, " b"]]:
    """The k best chunks of each query by vectors alone: `walk`, then the exact cosines of some more than k.

    Args:
        space, queries, plan, counts: As `walk` takes them.
        k: Results wanted.

    Returns:
        Places among the chunks, best first, of each query; embeddings compared with each.
    """
    most = k + max(FINALISTS, k // 2)
    if plan.width is None or len(space.bounds) == 2 or not space.checked:
        found = walk(space, queries, plan, counts)
        reached = [one.best(most) for one in found]
        scored = np.array([one.scored for one in found])
    else:
        codes, worth = quantise(queries if queries.ndim == 4 else queries[:, None])
        args = _walk_args(space, codes, worth, plan, space.live if counts is None else counts)
        rows, scored = space.kernels.nearest(*args, most)
        reached = [row[row >= 0] - space.nodes for row in rows]
    return [chunks for chunks, _ in exact_order(space, queries, reached, k)], scored


def exact_order(
    space: Space,
    queries: Float32[np.ndarray, "b *l m d"],
    chunks: Sequence[Int64[np.ndarray, " _"]],
    k: int,
) -> list[tuple[Int64[np.ndarray, " _"], Float64[np.ndarray, " _"]]]:
    """The k best of each query's chunks by the inner product of what is stored with it, and these.

    Args:
        queries: As `walk` takes them; the last level's count.
    """
    asked = queries if queries.ndim == 3 else queries[:, -1]
    cosines = space.exact(chunks, asked)
    orders = [np.lexsort((own, -found))[:k] for own, found in zip(chunks, cosines, strict=True)]
    return [(own[order], found[order]) for own, found, order in zip(chunks, cosines, orders, strict=True)]


def lexical(
    space: Space, query: QueryTerms, chunks: Int64[np.ndarray, " n"], config: LexicalConfig
) -> Float64[np.ndarray, " n"]:
    """BM25 over its bound, in [0, 1), of some chunks, equal to `QueryTerms.score` to the bit."""
    return kernels().weigh(
        space.terms.hashes,
        space.terms.counts,
        space.term_ends,
        space.terms.lengths,
        chunks,
        query.hashes,
        query.terms,
        query.weights,
        (config.k1, config.b, query.mean_length),
    )


def _ranges(
    space: Space,
    codes: Int8[np.ndarray, "b l m d"],
    worth: Float32[np.ndarray, "b l m"],
    plan: Plan,
    live: UInt32[np.ndarray, " R"],
) -> tuple[
    Int64[np.ndarray, " w"],
    Int64[np.ndarray, " w"],
    Int64[np.ndarray, " b"],
    Int64[np.ndarray, " b"],
    Int64[np.ndarray, " b"],
]:
    """Ranges of chunk rows to score: starts, ends, and per query ranges, nodes compared and gone into."""
    many, levels = len(codes), len(space.bounds) - 1
    if plan.width is None or levels == 1:
        starts, ends = np.full(many, space.nodes), np.full(many, len(space.ids))
        none = np.zeros(many, np.int64)
        return starts, ends, np.ones(many, np.int64), none, none
    return space.kernels.descend(*_walk_args(space, codes, worth, plan, live))


def _walk_args(
    space: Space,
    codes: Int8[np.ndarray, "b l m d"],
    worth: Float32[np.ndarray, "b l m"],
    plan: Plan,
    live: UInt32[np.ndarray, " R"],
) -> tuple[Any, ...]:
    """What the kernels take to descend."""
    levels, width = len(space.bounds) - 1, plan.width or 1
    beams = np.full(levels - 1, max(UPPER_LEAST, width // UPPER_SHARE), np.int64)
    beams[-1] = width
    paths = np.zeros(levels, np.float32)
    paths[: len(plan.paths)] = plan.paths
    return (
        *(*space.tree(live), space.children, space.bounds),
        *(codes, worth, paths, beams, plan.need),
    )


@dataclass(frozen=True)
class SpaceWindows:
    """Windows of some chunks of a namespace: of those in its arrays, then of those read from the file.

    Attributes:
        space: Its arrays.
        chunks: Places among their chunks; none where they hold no windows.
        read: Windows of further chunks.
    """

    space: Space
    chunks: Int64[np.ndarray, " n"]
    read: Windows | None = None

    @cached_property
    def _here(self) -> Int64[np.ndarray, " n"]:
        return self.space.window_sizes[self.chunks].astype(np.int64)

    @property
    def sizes(self) -> Int64[np.ndarray, " _"]:
        """How many each chunk has."""
        return self._here if self.read is None else np.concatenate([self._here, self.read.sizes])

    def best(self, probes: Float32[np.ndarray, "m d"]) -> Float64[np.ndarray, "m _"]:
        """As `Windows.best`, to the bit."""
        scales, asked = whole_numbers(probes)
        space, worth = self.space, (asked.astype(np.int32), scales)
        found = []
        if len(self.chunks):
            ranges = _ranges_of(space.window_ends[self.chunks], self._here)
            space.check_windows(*ranges)
            found.append(kernels().best_windows(space.window_codes, space.window_scales, *ranges, *worth))
        if self.read is not None:
            ranges = _ranges_of(np.cumsum(self.read.sizes), self.read.sizes)
            found.append(kernels().best_windows(self.read.codes, self.read.scales, *ranges, *worth))
        return found[0] if len(found) == 1 else np.concatenate(found, axis=1)


def _ranges_of(
    ends: Int64[np.ndarray, " n"], sizes: Int64[np.ndarray, " n"]
) -> tuple[Int64[np.ndarray, " _"], Int64[np.ndarray, " _"]]:
    """Where the windows of each chunk that has any start and end."""
    if not sizes.all():
        ends, sizes = ends[sizes > 0], sizes[sizes > 0]
    return ends - sizes, ends
