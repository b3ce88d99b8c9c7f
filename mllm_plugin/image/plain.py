"""The kernels in numpy; their results equal those of `jitted` to the bit.

Products of int8 codes add up exactly in float32 while the sum stays below 2 ** 24, in whatever order, so
matrix products may be used. All else is done in the same order of operations.
Shapes: b queries, L levels, l levels that a query is given for (1 where it is the same on all), m vectors per
query, d dimensions, R rows, c chunks, w ranges of rows, n rows or chunks scored, e term entries, t terms of a
query with their forms, s stored windows.
"""

from __future__ import annotations

import numpy as np

from mllm_plugin.shapes import Float32, Float64, Int8, Int32, Int64, UInt8, UInt16, UInt32

LANES = 8
LONGEST = 2**24 // 127**2  # dimensions up to which float32 adds products of codes exactly


def descend(
    codes: Int8[np.ndarray, "R d"],
    scales: Float32[np.ndarray, " R"],
    live: UInt32[np.ndarray, " R"],
    first: Int64[np.ndarray, " _"],
    bounds: Int64[np.ndarray, " _"],
    queries: Int8[np.ndarray, "b l m d"],
    worth: Float32[np.ndarray, "b l m"],
    paths: Float32[np.ndarray, " L"],
    beams: Int64[np.ndarray, " L-1"],
    need: int,
) -> tuple[
    Int64[np.ndarray, " w"],
    Int64[np.ndarray, " w"],
    Int64[np.ndarray, " b"],
    Int64[np.ndarray, " b"],
    Int64[np.ndarray, " b"],
]:
    """Ranges of chunks below the best lowest nodes of each query.

    Args:
        codes, scales, live, first, bounds: As a `Space` has them.
        queries: Codes by level.
        worth: What a code of each is worth.
        paths: Weight of the parent's score by level.
        beams: Nodes kept by level.
        need: Live chunks that the nodes kept must hold at least.

    Returns:
        Starts and ends of the ranges of all queries, best first; how many each query has; embeddings
        compared with each; nodes gone into.
    """
    starts, ends, sizes, scored, visited = [], [], [], [], []
    for query, own in zip(queries, worth, strict=True):
        lower, upper = np.array([0], np.int64), np.array([bounds[1]], np.int64)
        above = np.zeros(1, np.float32)
        compared, into = 0, 0
        for level, width in enumerate(beams.tolist()):
            rows = expand(lower, upper)
            place = min(level, len(query) - 1)
            found = score_rows(codes, scales, rows, query[place], own[place])
            found = found + paths[level] * np.repeat(above, upper - lower)
            compared += len(rows)
            into += len(lower)
            kept = _best(found, rows, live, width, need)
            above = found[kept]
            lower, upper = first[rows[kept]], first[rows[kept] + 1]
        starts.append(lower)
        ends.append(upper)
        sizes.append(len(lower))
        scored.append(compared)
        visited.append(into + len(lower))
    ranges = np.concatenate(starts), np.concatenate(ends), np.array(sizes, np.int64)
    return *ranges, np.array(scored, np.int64), np.array(visited, np.int64)


def score(
    codes: Int8[np.ndarray, "R d"],
    scales: Float32[np.ndarray, " R"],
    live: UInt32[np.ndarray, " R"],
    starts: Int64[np.ndarray, " w"],
    ends: Int64[np.ndarray, " w"],
    sizes: Int64[np.ndarray, " b"],
    queries: Int8[np.ndarray, "b l m d"],
    worth: Float32[np.ndarray, "b l m"],
) -> tuple[
    Int64[np.ndarray, " n"], Float32[np.ndarray, " n"], Int64[np.ndarray, " b"], Int64[np.ndarray, " b"]
]:
    """Scores the live rows of ranges.

    Args:
        codes, scales, live: As a `Space` has them.
        starts, ends: Ranges of all queries, one query after another; sizes: how many each query has.
        queries, worth: As `descend` takes them; the last level's count.

    Returns:
        Rows of all queries and their scores; how many each query has; embeddings compared with each.
    """
    rows, found, compared = [], [], []
    last = np.cumsum(sizes)
    for place, (query, own) in enumerate(zip(queries, worth, strict=True)):
        mine = slice(last[place] - sizes[place], last[place])
        reached = expand(starts[mine], ends[mine])
        compared.append(len(reached))
        rows.append(reached[live[reached] > 0])
        found.append(score_rows(codes, scales, rows[-1], query[-1], own[-1]))
    lengths = np.array([len(row) for row in rows], np.int64)
    return np.concatenate(rows), np.concatenate(found), lengths, np.array(compared, np.int64)


def nearest(
    codes: Int8[np.ndarray, "R d"],
    scales: Float32[np.ndarray, " R"],
    live: UInt32[np.ndarray, " R"],
    first: Int64[np.ndarray, " _"],
    bounds: Int64[np.ndarray, " _"],
    queries: Int8[np.ndarray, "b l m d"],
    worth: Float32[np.ndarray, "b l m"],
    paths: Float32[np.ndarray, " L"],
    beams: Int64[np.ndarray, " L-1"],
    need: int,
    most: int,
) -> tuple[Int64[np.ndarray, "b {most}"], Int64[np.ndarray, " b"]]:
    """`descend` and `score` in one, where only the best are wanted.

    Returns:
        Rows of the `most` best live chunks of each query, -1 where there are fewer; embeddings
        compared with each.
    """
    tree, asked = (codes, scales, live), (queries, worth)
    starts, ends, sizes, scored, _ = descend(*tree, first, bounds, *asked, paths, beams, need)
    rows, found, lengths, compared = score(*tree, starts, ends, sizes, *asked)
    best, last = np.full((len(queries), most), -1, np.int64), np.cumsum(lengths)
    for place, length in enumerate(lengths.tolist()):
        mine = slice(last[place] - length, last[place])
        order = np.lexsort((rows[mine], -found[mine]))[:most]
        best[place, : len(order)] = rows[mine][order]
    return best, scored + compared


def exact(
    bits: UInt16[np.ndarray, "c d"],
    table: Float32[np.ndarray, " 65536"],
    chunks: Int64[np.ndarray, " n"],
    query: Float32[np.ndarray, "m d"],
) -> Float64[np.ndarray, " n"]:
    """The best exact inner product of chunks with the vectors of a query.

    Eight running sums, every eighth place each, are added up at the end: an order that both kernels keep.

    Args:
        bits: Stored embeddings, their float16 as integers.
        table: What each of these is worth.
        chunks: Which of them.
        query: Vectors.
    """
    padding = -bits.shape[1] % LANES
    values = np.pad(table[bits[chunks]].astype(np.float64), ((0, 0), (0, padding)))
    asked = np.pad(query.astype(np.float64), ((0, 0), (0, padding)))
    products = (values[:, None] * asked).reshape(len(chunks), len(query), -1, LANES)
    return products.cumsum(axis=2)[:, :, -1].cumsum(axis=2)[:, :, -1].max(axis=1)


def weigh(
    hashes: UInt32[np.ndarray, " e"],
    counts: UInt8[np.ndarray, " e"],
    ends: Int64[np.ndarray, " c"],
    lengths: UInt32[np.ndarray, " c"],
    chunks: Int64[np.ndarray, " n"],
    asked: UInt32[np.ndarray, " t"],
    terms: Int64[np.ndarray, " t"],
    weights: Float64[np.ndarray, " t"],
    saturation: tuple[float, float, float],
) -> Float64[np.ndarray, " n"]:
    """Lexical evidence of chunks: for every term of the query the best of its forms, added up.

    Args:
        hashes, counts: Term entries of all chunks; ends: where those of each end.
        lengths: Terms per chunk, repeats counted.
        chunks: Which chunks.
        asked, terms, weights: Hash, term and weight of each entry of the query, terms ascending.
        saturation: k1, b and the mean length.
    """
    k1, b, mean = saturation
    total = np.zeros(len(chunks))
    lower = np.where(chunks > 0, ends[chunks - 1], 0)
    entries = expand(lower, ends[chunks])
    owner = np.repeat(np.arange(len(chunks)), ends[chunks] - lower)
    norm = k1 * (1 - b + b * lengths[chunks] / mean)
    for term in range(int(terms.max(initial=-1)) + 1):
        best = np.zeros(len(chunks))
        for place in np.flatnonzero(terms == term).tolist():
            hit = np.flatnonzero(hashes[entries] == asked[place])
            count = counts[entries[hit]].astype(np.float64)
            part = weights[place] * (count / (count + norm[owner[hit]]))
            best[owner[hit]] = np.maximum(best[owner[hit]], part)
        total += best
    return total


def weigh_lists(
    rows: UInt32[np.ndarray, " e"],
    counts: UInt8[np.ndarray, " e"],
    starts: Int64[np.ndarray, " t"],
    ends: Int64[np.ndarray, " t"],
    lengths: UInt32[np.ndarray, " c"],
    terms: Int64[np.ndarray, " t"],
    weights: Float64[np.ndarray, " t"],
    saturation: tuple[float, float, float],
) -> Float64[np.ndarray, " c"]:
    """As `weigh`, of all chunks, from lists of the chunks that have a term.

    Args:
        rows, counts: Entries of all lists: the chunk, and how often it has the term.
        starts, ends: Of the list of each entry of the query.
        lengths, terms, weights, saturation: As `weigh` takes them.
    """
    k1, b, mean = saturation
    norms = k1 * (1 - b + b * lengths / mean)
    total = np.zeros(len(lengths))
    for term in range(int(terms.max(initial=-1)) + 1):
        best = np.zeros(len(lengths))
        for place in np.flatnonzero(terms == term).tolist():
            own = slice(starts[place], ends[place])
            chunks, count = rows[own], counts[own].astype(np.float64)
            best[chunks] = np.maximum(best[chunks], weights[place] * (count / (count + norms[chunks])))
        total += best
    return total


def widen(
    bits: UInt16[np.ndarray, "c d"], table: Float32[np.ndarray, " 65536"], chunks: Int64[np.ndarray, " n"]
) -> Float32[np.ndarray, "n d"]:
    """Embeddings of chunks, their float16 given as integers, by what each of these is worth."""
    return table[bits[chunks]]


def best_windows(
    codes: Int8[np.ndarray, "s d"],
    scales: Float32[np.ndarray, " s"],
    starts: Int64[np.ndarray, " n"],
    ends: Int64[np.ndarray, " n"],
    asked: Int32[np.ndarray, "m d"],
    worth: Float64[np.ndarray, " m"],
) -> Float64[np.ndarray, "m n"]:
    """The best inner product of each range of windows with each probe; no range is empty.

    Args:
        codes, scales: Of all windows.
        starts, ends: Ranges.
        asked, worth: Probes as whole numbers, and what one of each is worth.
    """
    rows = expand(starts, ends)
    sums = codes[rows].astype(np.float64) @ asked.T.astype(np.float64)  # whole numbers below 2 ** 53
    cosines = sums * scales[rows, None] * worth
    return np.maximum.reduceat(cosines, np.cumsum(ends - starts) - (ends - starts), axis=0).T


def expand(starts: Int64[np.ndarray, " w"], ends: Int64[np.ndarray, " w"]) -> Int64[np.ndarray, " n"]:
    """All rows of ranges, one range after another."""
    sizes = ends - starts
    shift = starts - (np.cumsum(sizes) - sizes)
    return np.repeat(shift, sizes) + np.arange(int(sizes.sum()))


def score_rows(
    codes: Int8[np.ndarray, "R d"],
    scales: Float32[np.ndarray, " R"],
    rows: Int64[np.ndarray, " n"],
    query: Int8[np.ndarray, "m d"],
    worth: Float32[np.ndarray, " m"],
) -> Float32[np.ndarray, " n"]:
    """The best score of some rows for the vectors of a query."""
    wide = np.float32 if codes.shape[1] <= LONGEST else np.float64
    dots = (codes[rows].astype(wide) @ query.astype(wide).T).astype(np.float32)
    return (dots * scales[rows, None] * worth).max(axis=1)


def _best(
    found: Float32[np.ndarray, " n"],
    rows: Int64[np.ndarray, " n"],
    live: UInt32[np.ndarray, " R"],
    width: int,
    need: int,
) -> Int64[np.ndarray, " _"]:
    """Places of the `width` best rows with something live below, best first; more until `need` is held."""
    order = np.lexsort((rows, -found))
    order = order[live[rows[order]] > 0]
    held = np.cumsum(live[rows[order]], dtype=np.int64)
    return order[: max(width, int(np.searchsorted(held, need)) + 1)]
