"""Walk and scan over the search image: chunks of the arrays, those that rare words lead to, and newer ones.

It goes where `search.walk` goes, but by embeddings of 8 bits, so at the edges of its beam, and of what it
keeps, another chunk may be in; and it keeps all nodes of the beam where a ranker's margin would drop some,
for here they cost less than to decide. What it keeps is ranked by the same exact scores.

Shapes: b queries, l levels that a query is given for (1 where it is the same on all), m vectors per query,
n chunks that a query reached, R rows of the arrays, d dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mllm_plugin.config import LexicalConfig
from mllm_plugin.hierarchy.leaf import NO_MEANING
from mllm_plugin.image import Delta, Found, Plan, Space, SpaceWindows, compare, lexical, walk
from mllm_plugin.image.kernels import kernels
from mllm_plugin.search.query import Query, View
from mllm_plugin.search.rank import Candidates, best_candidates, joined
from mllm_plugin.search.walk import Beam
from mllm_plugin.shapes import Float32, Float64, Int64, UInt32
from mllm_plugin.store.snapshot import MOST_ROUTED, rare_terms
from mllm_plugin.text.lexical import QueryTerms

_LISTED_FROM = 1000  # chunks; what was written since the arrays were made is soon other chunks
_LISTED_MOST = 1 << 17  # and to here: the lists are held in memory, nine bytes an entry
_LISTED_SHARE = 4


def candidates_of(
    view: View, queries: Sequence[Query], beam: Beam | None, most: int, space: Space, delta: Delta
) -> list[Candidates]:
    """The `most` best chunks of each query; the rankers must go by products, see `Hierarchy.by_products`.

    Args:
        view: Where.
        queries: What is looked for.
        beam: How much is kept on the way; None to compare every chunk.
        most: Candidates kept per query.
        space: The namespace's arrays.
        delta: What the view has beyond them.
    """
    levels = len(space.bounds) - 1
    asked = [_asked(view, 1 if beam is None else levels, query) for query in queries]
    parts = [_Part.of(view, space, delta.live, delta)]
    if delta.added is not None:
        parts.append(_Part.of(view, delta.added, delta.added.live, delta.added))
    plan = None if beam is None else Plan(beam.width, beam.need, _paths(view, levels))
    words = view.words(queries, space.frequencies_of if delta.version == space.version else None)
    results: dict[int, Candidates] = {}
    for length in {len(query.vectors) for query in queries}:
        places = [place for place, query in enumerate(queries) if len(query.vectors) == length]
        weighed = [words[place] for place in places]
        vectors = np.stack([asked[place] for place in places])
        reached = [part.all(vectors) for part in (parts if plan is None else parts[1:])]
        if plan is not None:
            routed = [space.routed(rare_terms(known), MOST_ROUTED) for _, known in weighed]
            reached.insert(0, parts[0].walked(vectors, plan, routed))
        for row, place in enumerate(places):
            found = [own[row] for own in reached]
            results[place] = _best(view, parts, found, weighed[row][0], most)
    return [results[place] for place in range(len(queries))]


@dataclass(frozen=True)
class _Part:
    """Arrays, and which of their chunks may be returned.

    Attributes:
        counts: Such chunks below each row.
    """

    space: Space
    counts: UInt32[np.ndarray, " R"]

    @classmethod
    def of(cls, view: View, space: Space, live: UInt32[np.ndarray, " R"], owner: Space | Delta) -> _Part:
        """Those that are live and that the filter lets through, kept with `owner` for the next search."""
        if view.allowed is None:
            return cls(space, live)
        counts = owner.chosen.get(view.allowed)
        if counts is None:
            chosen = np.zeros(len(space.chunk_ids), bool)
            chosen[space.places(view.allowed.chunk_ids)] = True
            counts = space.counts(chosen & (live[space.nodes :] > 0))
            owner.chosen[view.allowed] = counts
        return cls(space, counts)

    def walked(
        self,
        vectors: Float32[np.ndarray, "b l m d"],
        plan: Plan,
        routed: Sequence[Int64[np.ndarray, " _"]],
    ) -> list[Found]:
        """Chunks below the best nodes for each query, and those that rare words lead to."""
        found = walk(self.space, vectors, plan, self.counts)
        more = [_others(*pair, len(self.space.chunk_ids)) for pair in zip(routed, found, strict=True)]
        if not any(map(len, more)):
            return found
        compared = compare(self.space, vectors, more, self.counts)
        return [_joined(*pair) for pair in zip(found, compared, strict=True)]

    def all(self, vectors: Float32[np.ndarray, "b l m d"]) -> list[Found]:
        """Every chunk, for each query."""
        return walk(self.space, vectors[:, -1], Plan(None), self.counts)


def _others(chunks: Int64[np.ndarray, " _"], found: Found, count: int) -> Int64[np.ndarray, " _"]:
    """Those of the chunks that were not found; places are below `count`."""
    met = np.zeros(count, bool)
    met[found.chunks] = True
    return chunks[~met[chunks]]


def _joined(one: Found, other: Found) -> Found:
    return replace(
        one,
        chunks=np.concatenate([one.chunks, other.chunks]),
        scores=np.concatenate([one.scores, other.scores]),
        scored=one.scored + other.scored,
    )


def _asked(view: View, levels: int, query: Query) -> Float32[np.ndarray, "l m d"]:
    """What a query's vectors are on every level."""
    vectors, hierarchy = query.vectors[None], view.hierarchy
    rankers = [(id(hierarchy.ranker(level)), level) for level in range(levels, 0, -1)]
    made = {ranker: hierarchy.asked(level, vectors) for ranker, level in dict(rankers).items()}
    found = [made[ranker] for ranker, _ in rankers]
    return vectors if all(one is vectors for one in found) else np.concatenate(found)


def _paths(view: View, levels: int) -> list[float]:
    """What the parent's score counts on every level above the chunks, from the top."""
    return [view.hierarchy.ranker(level).path_weight for level in range(levels, 1, -1)]


def _best(
    view: View, parts: Sequence[_Part], found: Sequence[Found], terms: QueryTerms, most: int
) -> Candidates:
    """The best of what a query reached in each of the parts."""
    pairs = list(zip(parts, found, strict=True))
    words = joined([_words(part.space, terms, own.chunks, view.lexical) for part, own in pairs])
    cosine = joined([_cosines(*pair) for pair in pairs])
    ids = joined([part.space.chunk_ids[own.chunks] for part, own in pairs])
    partial = view.hierarchy.leaf_ranker.partial(cosine, words)
    best = np.sort(best_candidates(view, partial, ids, most))  # part after part
    first, chosen = 0, []
    for own in found:
        mine = best[(best >= first) & (best < first + len(own.chunks))]
        chosen.append(own.chunks[mine - first])
        first += len(own.chunks)
    vectors = [part.space.vectors(own) for part, own in zip(parts, chosen, strict=True)]
    return Candidates(
        ids=ids[best],
        vectors=joined(vectors),
        lexical=words[best],
        complete=len(best) == len(ids) == view.answers,
        scored=sum(own.scored for own in found),
        visited=sum(own.visited for own in found),
        windows=_windows(view, parts, chosen),
    )


def _words(
    space: Space, terms: QueryTerms, chunks: Int64[np.ndarray, " n"], config: LexicalConfig
) -> Float64[np.ndarray, " n"]:
    """Lexical evidence of chunks; where they are a good part of all, from the lists of the terms."""
    count = len(space.chunk_ids)
    if not _LISTED_FROM <= count <= _LISTED_MOST or _LISTED_SHARE * len(chunks) < count:
        return lexical(space, terms, chunks, config)
    lists, saturation = space.terms.lists, (config.k1, config.b, terms.mean_length)
    known = (lists.rows, lists.counts, *lists.bounds(terms.hashes), space.terms.lengths)
    return kernels().weigh_lists(*known, terms.terms, terms.weights, saturation)[chunks]


def _windows(view: View, parts: Sequence[_Part], chosen: Sequence[Int64[np.ndarray, " _"]]) -> SpaceWindows:
    """Windows of the chunks chosen of each part; those that the arrays lack are read from the file."""
    held = len(parts[0].space.window_sizes) > 0
    here = chosen[0] if held else np.zeros(0, np.int64)
    away = [part.space.chunk_ids[own] for part, own in zip(parts, chosen, strict=True)][held:]
    missing = joined(away, np.int64)
    return SpaceWindows(
        parts[0].space, here, view.snapshot.windows(missing) if len(missing) or not held else None
    )


def _cosines(part: _Part, found: Found) -> Float32[np.ndarray, " n"]:
    """Cosines of the codes, and `NO_MEANING` where all of them are zero."""
    rows = np.flatnonzero(found.scores == 0)
    if len(rows):
        codes = part.space.codes[part.space.nodes + found.chunks[rows]]
        found.scores[rows[~codes.any(axis=1)]] = NO_MEANING
    return found.scores
