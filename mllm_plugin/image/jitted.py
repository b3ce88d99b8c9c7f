"""The kernels compiled by numba; see `plain` for what they compute."""

from __future__ import annotations

import numpy as np
from numba import njit

from mllm_plugin.image.plain import LANES as _LANES

_SLOTS = 1 << 13  # by their lowest bits most words of a chunk are told from those asked for


@njit(nogil=True, cache=True)
def _score_range(codes, scales, query, worth, first, last, found, at):  # noqa: ANN001, ANN202
    """Scores rows first … last - 1 for a query's vectors; the casts keep sums in 32 bits, many at once."""
    for vector in range(query.shape[0]):
        asked, value = query[vector], worth[vector]
        for row in range(first, last):
            dot = np.int32(0)
            for place in range(asked.shape[0]):
                dot = np.int32(dot + np.int32(np.int32(codes[row, place]) * np.int32(asked[place])))
            score = np.float32(dot) * scales[row] * value
            if vector == 0 or score > found[at + row - first]:
                found[at + row - first] = score


@njit(nogil=True, cache=True)
def _sift(rows, scores, count, row, score):  # noqa: ANN001, ANN202
    """Puts a row into the `count` best, worst last, whose last place is free."""
    place = count - 1
    while place > 0 and (scores[place - 1] < score or (scores[place - 1] == score and rows[place - 1] > row)):
        scores[place], rows[place] = scores[place - 1], rows[place - 1]
        place -= 1
    scores[place], rows[place] = score, row


@njit(nogil=True, cache=True)
def _better(row, score, other, other_score):  # noqa: ANN001, ANN202
    return score > other_score or (score == other_score and row < other)


@njit(nogil=True, cache=True)
def _keep(found, rows, live, width, need):  # noqa: ANN001, ANN202
    """The best rows with something live below, best first; more than `width` until `need` is held."""
    while True:
        width = min(width, len(rows))
        kept, scores = np.empty(width, np.int64), np.empty(width, np.float32)
        count, held = 0, 0
        for place in range(len(rows)):
            row, score = rows[place], found[place]
            if live[row] == 0:
                continue
            if count < width:
                count += 1
            elif not _better(row, score, kept[count - 1], scores[count - 1]):
                continue
            _sift(kept, scores, count, row, score)
        for place in range(count):
            held += live[kept[place]]
        if held >= need or width == len(rows):
            return kept[:count], scores[:count]
        width *= 2


@njit(nogil=True, cache=True)
def _fewest(kept, live, width, need):  # noqa: ANN001, ANN202
    """How many of the best to keep: `width`, or as many as hold `need`."""
    held = 0
    for place in range(len(kept)):
        held += live[kept[place]]
        if held >= need:
            return max(width, place + 1)
    return len(kept)


@njit(nogil=True, cache=True)
def _descend(codes, scales, live, first, bounds, query, worth, paths, beams, need):  # noqa: ANN001, ANN202
    """Ranges of chunks below the best lowest nodes of one query, nodes scored and nodes gone into."""
    lower, upper = np.zeros(1, np.int64), np.full(1, bounds[1], np.int64)
    above, scored, visited = np.zeros(1, np.float32), 0, 0
    for level in range(len(beams)):
        own = min(level, len(query) - 1)
        count = (upper - lower).sum()
        rows, found = np.empty(count, np.int64), np.empty(count, np.float32)
        at = 0
        for parent in range(len(lower)):
            some, path = upper[parent] - lower[parent], paths[level] * above[parent]
            _score_range(codes, scales, query[own], worth[own], lower[parent], upper[parent], found, at)
            for place in range(some):
                rows[at + place] = lower[parent] + place
                found[at + place] += path
            at += some
        scored += count
        visited += len(lower)
        kept, above = _keep(found, rows, live, beams[level], need)
        some = min(len(kept), _fewest(kept, live, beams[level], need))
        kept, above = kept[:some], above[:some]
        lower, upper = first[kept], first[kept + 1]
    return lower, upper, scored, visited + len(lower)


@njit(nogil=True, cache=True)
def descend(codes, scales, live, first, bounds, queries, worth, paths, beams, need):  # noqa: ANN001, ANN201
    """As `plain.descend`."""
    many = len(queries)
    sizes, scored, visited = np.zeros(many, np.int64), np.zeros(many, np.int64), np.zeros(many, np.int64)
    starts, ends = np.empty(many * 64, np.int64), np.empty(many * 64, np.int64)
    used = 0
    for query in range(many):
        lower, upper, scored[query], visited[query] = _descend(
            codes, scales, live, first, bounds, queries[query], worth[query], paths, beams, need
        )
        while used + len(lower) > len(starts):
            starts, ends = np.append(starts, starts), np.append(ends, ends)
        starts[used : used + len(lower)] = lower
        ends[used : used + len(lower)] = upper
        used += len(lower)
        sizes[query] = len(lower)
    return starts[:used], ends[:used], sizes, scored, visited


@njit(nogil=True, cache=True)
def nearest(codes, scales, live, first, bounds, queries, worth, paths, beams, need, most):  # noqa: ANN001, ANN201
    """As `plain.nearest`."""
    many = len(queries)
    rows, scored = np.full((many, most), -1, np.int64), np.zeros(many, np.int64)
    best, found = np.empty(most, np.float32), np.empty(1024, np.float32)
    for query in range(many):
        lower, upper, scored[query], _ = _descend(
            codes, scales, live, first, bounds, queries[query], worth[query], paths, beams, need
        )
        count = 0
        for part in range(len(lower)):
            for start in range(lower[part], upper[part], len(found)):
                end = min(start + len(found), upper[part])
                _score_range(codes, scales, queries[query, -1], worth[query, -1], start, end, found, 0)
                scored[query] += end - start
                for row in range(start, end):
                    score = found[row - start]
                    if live[row] == 0 or (
                        count == most and not _better(row, score, rows[query, count - 1], best[count - 1])
                    ):
                        continue
                    count = min(count + 1, most)
                    _sift(rows[query], best, count, row, score)
    return rows, scored


@njit(nogil=True, cache=True)
def exact(bits, table, chunks, query):  # noqa: ANN001, ANN201
    """As `plain.exact`."""
    found = np.empty(len(chunks), np.float64)
    lanes = np.empty(_LANES)
    for place in range(len(chunks)):
        best = -np.inf
        for vector in range(len(query)):
            lanes[:] = 0.0
            for start in range(0, query.shape[1], _LANES):
                for lane in range(min(_LANES, query.shape[1] - start)):
                    value = np.float64(table[bits[chunks[place], start + lane]])
                    lanes[lane] += value * np.float64(query[vector, start + lane])
            total = 0.0
            for lane in range(_LANES):
                total += lanes[lane]
            best = max(best, total)
        found[place] = best
    return found


@njit(nogil=True, cache=True)
def score(codes, scales, live, starts, ends, sizes, queries, worth):  # noqa: ANN001, ANN201
    """As `plain.score`."""
    count = (ends - starts).sum()
    rows, found = np.empty(count, np.int64), np.empty(count, np.float32)
    lengths, compared = np.zeros(len(sizes), np.int64), np.zeros(len(sizes), np.int64)
    at, part = 0, 0
    for query in range(len(sizes)):
        before = at
        for _ in range(sizes[query]):
            first, last = starts[part], ends[part]
            _score_range(codes, scales, queries[query, -1], worth[query, -1], first, last, found, at)
            compared[query] += last - first
            start = at
            for row in range(first, last):
                if live[row] > 0:
                    rows[at], found[at] = row, found[start + row - first]
                    at += 1
            part += 1
        lengths[query] = at - before
    return rows[:at], found[:at], lengths, compared


@njit(nogil=True, cache=True)
def weigh(hashes, counts, ends, lengths, chunks, asked, terms, weights, saturation):  # noqa: ANN001, ANN201
    """As `plain.weigh`."""
    k1, b, mean = saturation
    slots, following = np.zeros(_SLOTS, np.int64), np.zeros(len(asked) + 1, np.int64)  # entries + 1, or 0
    for place in range(len(asked)):
        slot = asked[place] % np.uint32(_SLOTS)
        following[place + 1], slots[slot] = slots[slot], place + 1
    starts = np.array([ends[chunk - 1] if chunk > 0 else 0 for chunk in chunks], np.int64)
    many = terms[-1] + 1 if len(terms) else 0
    best, total = np.zeros(many), np.zeros(len(chunks))
    met = np.empty((ends[chunks] - starts).max() + 1 if len(chunks) else 1, np.int64)
    for place in range(len(chunks)):
        count = 0
        for entry in range(starts[place], ends[chunks[place]]):  # without a branch that nobody can foresee
            met[count] = entry
            count += slots[hashes[entry] % np.uint32(_SLOTS)] > 0
        if not count:
            continue
        best[:] = 0.0
        norm = k1 * (1 - b + b * lengths[chunks[place]] / mean)
        for entry in met[:count]:
            at, times = slots[hashes[entry] % np.uint32(_SLOTS)], np.float64(counts[entry])
            while at:
                query, at = at - 1, following[at]
                if asked[query] == hashes[entry]:
                    part = weights[query] * (times / (times + norm))
                    best[terms[query]] = max(best[terms[query]], part)
        for term in range(many):
            total[place] += best[term]
    return total


@njit(
    "f8[::1](u4[::1], u1[::1], i8[::1], i8[::1], u4[::1], i8[::1], f8[::1], UniTuple(f8, 3))",
    nogil=True,
    cache=True,
)
def weigh_lists(rows, counts, starts, ends, lengths, terms, weights, saturation):  # noqa: ANN001, ANN201
    """As `plain.weigh_lists`."""
    k1, b, mean = saturation
    norms = k1 * (1 - b + b * lengths / mean)
    best, total = np.zeros(len(lengths)), np.zeros(len(lengths))
    first = 0
    for last in range(1, len(terms) + 1):
        if last < len(terms) and terms[last] == terms[first]:
            continue
        alone = last - first == 1
        for form in range(first, last):
            for entry in range(starts[form], ends[form]):
                chunk, times = rows[entry], np.float64(counts[entry])
                part = weights[form] * (times / (times + norms[chunk]))
                if alone:
                    total[chunk] += part
                else:
                    best[chunk] = max(best[chunk], part)
        for form in range(last if alone else first, last):
            for entry in range(starts[form], ends[form]):
                chunk = rows[entry]
                total[chunk] += best[chunk]
                best[chunk] = 0.0
        first = last
    return total


@njit(nogil=True, cache=True)
def widen(bits, table, chunks):  # noqa: ANN001, ANN201
    """As `plain.widen`."""
    words = np.empty((len(chunks), bits.shape[1]), np.uint32)
    found, less = words.view(np.float32), np.empty(bits.shape[1], np.float32)
    for place in range(len(chunks)):  # by arithmetic: the table alone would fill a cache
        row, word, value = bits[chunks[place]], words[place], found[place]
        for one in range(len(row)):
            size = np.uint32(row[one]) & np.uint32(0x7FFF)
            tiny = np.uint32(size < np.uint32(0x0400))  # without the first digit, which is 1 elsewhere
            word[one] = (size << np.uint32(13)) + ((np.uint32(112) + tiny) << np.uint32(23))
            less[one] = np.float32(tiny) * np.float32(2.0**-14)
        for one in range(len(row)):
            sign = np.float32(1.0) - np.float32(2.0) * np.float32(row[one] >> np.uint16(15))
            value[one] = (value[one] - less[one]) * sign
    return found


@njit(nogil=True, cache=True)
def best_windows(codes, scales, starts, ends, asked, worth):  # noqa: ANN001, ANN201
    """As `plain.best_windows`."""
    best = np.empty((len(asked), len(starts)))
    for place in range(len(starts)):
        for probe in range(len(asked)):
            most = -np.inf
            for row in range(starts[place], ends[place]):
                total = np.int64(0)
                for one in range(codes.shape[1]):
                    total += np.int64(np.int32(codes[row, one]) * asked[probe, one])
                most = max(most, np.float64(total) * np.float64(scales[row]) * worth[probe])
            best[probe, place] = most
    return best
