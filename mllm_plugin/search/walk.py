"""The walk: from the top level down, the best nodes of each level, their children, and at the end chunks.

Shapes: n embeddings, r vectors per embedding, k of the embeddings, d dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from mllm_plugin.errors import DamagedStoreError
from mllm_plugin.image.descent import UPPER_LEAST, UPPER_SHARE
from mllm_plugin.search.query import Query, View
from mllm_plugin.search.rank import Candidates, best_candidates, cosines_of, joined, scores_of
from mllm_plugin.shapes import Float, Float32, Int64
from mllm_plugin.store.decoded import CachedChunk, NodeRef
from mllm_plugin.text.lexical import TermCounts, score_terms
from mllm_plugin.tree.editor import LOWEST_LEVEL

BEST_LEAST = 10  # the slack is measured from this result, or from the last one wanted
_FIRST_SHARE = 8  # one node in so many of the beam is looked into before the others are judged by it
_FIRST_LEAST = 4


# -- how much of a level a walk goes into: pure rules, for what simulates it too


def beam_at(level: int, width: int) -> int:
    """Nodes kept on a level when `width` are kept on the lowest."""
    return width if level <= LOWEST_LEVEL else max(UPPER_LEAST, width // UPPER_SHARE)


def likely(scores: Float[np.ndarray, " n"], level: int, slack: float | None) -> int:
    """How many nodes may still hold a result.

    Args:
        scores: Best first.
        level: Theirs; the lowest are judged by `promising`.
        slack: How far below the best they may lie; None keeps all.
    """
    if slack is None or level <= LOWEST_LEVEL or not len(scores):
        return len(scores)
    return int(np.searchsorted(-scores, slack - scores[0], side="right"))


def looked_into(width: int) -> int:
    """Lowest nodes that are looked into first; what is found there tells which others are worth it."""
    return max(_FIRST_LEAST, width // _FIRST_SHARE)


def promising(
    scores: Float[np.ndarray, " n"], found: Float[np.ndarray, " c"], first: int, want: int, slack: float
) -> int:
    """How many of the lowest nodes are gone into.

    Args:
        scores: Of the nodes, best first.
        found: Cosines of the chunks below the `first` of them.
        first: Nodes that were looked into.
        want: Which of the best results the slack is measured from; all nodes stay where there are fewer.
        slack: How far below that result a node may lie.
    """
    if len(found) < want:
        return len(scores)
    least = np.partition(found, len(found) - want)[len(found) - want] - slack
    return max(first, int((scores >= least).sum()))


@dataclass(frozen=True)
class Beam:
    """How much a walk keeps.

    Attributes:
        width: Lowest nodes kept; more where they hold fewer than `need` chunks that may be returned.
        need: Results wanted.
        least: Nodes kept per level, if there are as many, even where the ranker would drop them.
    """

    width: int
    need: int
    least: int = 1


@dataclass(frozen=True)
class Frontier:
    """Nodes to go into for one query, best first.

    Attributes:
        scores: The path's included.
        vectors: Embeddings as stored; none for a root.
        live: Live chunks below each.
        parents: Place of each one's parent in the frontier above.
        scored: Embeddings compared with the query so far.
        visited: Nodes gone into so far, these not included.
    """

    refs: tuple[NodeRef, ...]
    scores: Float32[np.ndarray, " n"]
    vectors: Float32[np.ndarray, "n r d"]
    live: Int64[np.ndarray, " n"]
    parents: Int64[np.ndarray, " n"]
    scored: int = 0
    visited: int = 0

    @classmethod
    def root(cls, view: View) -> Frontier:
        """The root alone, where every walk begins."""
        live, none = np.array([view.row.live_chunks]), np.zeros(1, np.int64)
        vectors = np.zeros((1, 0, view.snapshot.dim), np.float32)
        return cls((view.root(),), np.zeros(1, np.float32), vectors, live, none)

    def head(self, count: int) -> Frontier:
        """The best `count`."""
        return replace(
            self,
            refs=self.refs[:count],
            scores=self.scores[:count],
            vectors=self.vectors[:count],
            live=self.live[:count],
            parents=self.parents[:count],
        )


@dataclass(frozen=True)
class Fetched:
    """Embedding chunks of some nodes, one after another."""

    embedding_chunks: Sequence[CachedChunk]
    spans: Mapping[NodeRef, tuple[int, int]]
    ids: Int64[np.ndarray, " n"]
    live: Int64[np.ndarray, " n"]

    @classmethod
    def of(cls, view: View, refs: Iterable[NodeRef]) -> Fetched:
        """Reads the embedding chunks, each once."""
        union = sorted(set(refs))
        embedding_chunks = [view.children(ref) for ref in union]
        bounds = np.cumsum([0, *(len(children.ids) for children in embedding_chunks)]).tolist()
        spans = dict(zip(union, pairwise(bounds), strict=True))
        ids, live = (
            joined([b.ids for b in embedding_chunks], np.int64),
            joined([b.live for b in embedding_chunks], np.int64),
        )
        return cls(embedding_chunks, spans, ids, live)

    @classmethod
    def below(cls, view: View, frontiers: Iterable[Frontier]) -> Fetched:
        """Reads what lies below the nodes of all frontiers.

        Raises:
            DamagedStoreError: A node has two parents, so that walks would grow without bounds.
        """
        frontiers = list(frontiers)
        if any(len(set(frontier.refs)) < len(frontier.refs) for frontier in frontiers):
            raise DamagedStoreError(
                "a node of the tree has two parents; `mllm verify` lists what is wrong, `mllm repair` keeps "
                "every document that can be read"
            )
        return cls.of(view, (ref for frontier in frontiers for ref in frontier.refs))

    def rows(self, refs: Iterable[NodeRef]) -> Int64[np.ndarray, " k"]:
        """The rows of some of the nodes, in the order of the nodes."""
        return joined([np.arange(*self.spans[ref]) for ref in refs], np.int64)

    def sizes(self, refs: Iterable[NodeRef]) -> list[int]:
        """How many rows each of the nodes has."""
        return [last - first for first, last in (self.spans[ref] for ref in refs)]

    def chunk_vectors(self, dim: int) -> Float32[np.ndarray, "n {dim}"]:
        """Pooled embeddings below nodes of the lowest level."""
        if not self.embedding_chunks:
            return np.zeros((0, dim), np.float32)
        return np.concatenate([children.vectors[:, 0] for children in self.embedding_chunks])

    def terms(self) -> TermCounts:
        """Term counts below nodes of the lowest level."""
        parts = [children.terms for children in self.embedding_chunks if children.terms is not None]
        return TermCounts.concat(parts) if parts else TermCounts.empty()


def walk(view: View, queries: Sequence[Query], beam: Beam, *, most: int) -> list[Candidates]:
    """Walks from the top level down, keeping the best nodes of each level (`beam_at`).

    A trained ranker also says which of these cannot hold a result any more; they are not visited.

    Args:
        view: Where.
        queries: What is looked for.
        beam: How much is kept on the way.
        most: Candidates kept per query.
    """
    *_, frontiers = descend(view, queries, beam)
    return _leaves(view, queries, _promising(view, queries, frontiers, beam), most)


def descend(view: View, queries: Sequence[Query], beam: Beam) -> Iterator[list[Frontier]]:
    """Yields the frontier of every query, level by level, from the root down to level 2."""
    frontiers = [Frontier.root(view)] * len(queries)
    yield frontiers
    for level in range(view.root_level() - 1, LOWEST_LEVEL - 1, -1):
        step = _Step.of(view, frontiers, level, beam)
        scores = scores_of(view, level, queries, step.vectors)
        frontiers = [step.down(*pair) for pair in zip(frontiers, scores, strict=True)]
        yield frontiers


@dataclass(frozen=True)
class _Step:
    """One step down: what lies below all frontiers, and how the best of it is chosen.

    Attributes:
        below: Chunks that may be returned below each embedding.
        path_weight: What the parent's score counts.
        slack: The ranker's slack; None without one.
        width: Nodes kept.
    """

    fetched: Fetched
    vectors: Float32[np.ndarray, "n r d"]
    versions: Int64[np.ndarray, " n"]
    below: Int64[np.ndarray, " n"]
    path_weight: float
    slack: float | None
    level: int
    width: int
    beam: Beam

    @classmethod
    def of(cls, view: View, frontiers: Sequence[Frontier], level: int, beam: Beam) -> _Step:
        fetched = Fetched.below(view, frontiers)
        ranker = view.hierarchy.ranker(level)
        return cls(
            fetched=fetched,
            vectors=np.concatenate([children.vectors for children in fetched.embedding_chunks]),
            versions=joined([children.versions for children in fetched.embedding_chunks], np.int64),
            below=view.below(fetched.live, fetched.ids),
            path_weight=ranker.path_weight,
            slack=ranker.slack,
            level=level,
            width=beam_at(level, beam.width),
            beam=beam,
        )

    def down(self, frontier: Frontier, scores: Float32[np.ndarray, " n"]) -> Frontier:
        """The best embeddings below a frontier, given the scores of all that was fetched."""
        fetched, rows = self.fetched, self.fetched.rows(frontier.refs)
        scored = frontier.scored + len(rows) * self.vectors.shape[1]
        scores = scores[rows]
        parents = np.repeat(np.arange(len(frontier.refs)), fetched.sizes(frontier.refs))
        if self.path_weight:
            scores = (scores + self.path_weight * frontier.scores[parents]).astype(np.float32)
        order = np.lexsort((fetched.ids[rows], -scores))
        order = order[self.below[rows[order]] > 0]
        order = order[: self._count(rows[order], scores[order])]
        kept = rows[order]
        return Frontier(
            refs=tuple(map(NodeRef, fetched.ids[kept].tolist(), self.versions[kept].tolist())),
            scores=scores[order],
            vectors=self.vectors[kept],
            live=fetched.live[kept],
            parents=parents[order],
            scored=scored,
            visited=frontier.visited + len(frontier.refs),
        )

    def _count(self, rows: Int64[np.ndarray, " k"], scores: Float32[np.ndarray, " k"]) -> int:
        """How many to keep of rows in order of their scores."""
        enough = int(np.searchsorted(np.cumsum(self.below[rows]), self.beam.need)) + 1
        return max(min(self.width, likely(scores, self.level, self.slack)), self.beam.least, enough)


def _promising(
    view: View, queries: Sequence[Query], frontiers: Sequence[Frontier], beam: Beam
) -> list[Frontier]:
    """Looks into the best nodes first and drops those that fall too short of what was found there."""
    slack = view.hierarchy.ranker(LOWEST_LEVEL).slack
    first, want = looked_into(beam.width), max(beam.need, BEST_LEAST)
    if slack is None or all(len(frontier.refs) <= first for frontier in frontiers):
        return list(frontiers)
    heads = [frontier.head(first) for frontier in frontiers]
    fetched = Fetched.below(view, heads)
    admitted = view.admitted(fetched.live > 0, fetched.ids)
    cosines = cosines_of(view, queries, fetched.chunk_vectors(view.snapshot.dim)[:, None])
    kept = []
    for frontier, head, cosine in zip(frontiers, heads, cosines, strict=True):
        rows = fetched.rows(head.refs)
        found = cosine[rows[admitted[rows]]]
        kept.append(frontier.head(promising(frontier.scores, found, first, want, slack)))
    return kept


def _leaves(
    view: View, queries: Sequence[Query], frontiers: Sequence[Frontier], most: int
) -> list[Candidates]:
    """Scores the chunks below each frontier, and those that rare words lead to."""
    weighed = view.weigh(queries)
    routed = [dict(chunks) for _, chunks in weighed]
    extra = _homes(view, {node_id for chunks in routed for node_id in chunks.values()})
    fetched = Fetched.of(view, [*(ref for frontier in frontiers for ref in frontier.refs), *extra.values()])
    vectors = fetched.chunk_vectors(view.snapshot.dim)
    admitted = view.admitted(fetched.live > 0, fetched.ids)
    cosines = cosines_of(view, queries, vectors[:, None])
    lexical = score_terms(fetched.terms(), [terms for terms, _ in weighed], view.lexical)
    results = []
    for place, frontier in enumerate(frontiers):
        homes = {extra[node_id] for node_id in routed[place].values()}
        met = fetched.rows(frontier.refs)
        if homes:
            more = fetched.rows(homes)
            met = np.union1d(met, more[np.isin(fetched.ids[more], list(routed[place]))])
        rows = met[admitted[met]]
        partial = view.hierarchy.leaf_ranker.partial(cosines[place][rows], lexical[place][rows])
        best = rows[best_candidates(view, partial, fetched.ids[rows], most)]
        results.append(
            Candidates(
                ids=fetched.ids[best],
                vectors=vectors[best],
                lexical=lexical[place][best],
                complete=len(best) == len(rows) == view.answers,
                scored=frontier.scored + len(met),
                visited=frontier.visited + len(homes.union(frontier.refs)),
            )
        )
    return results


def _homes(view: View, node_ids: Iterable[int]) -> dict[int, NodeRef]:
    """Nodes of level 2 as they are in the snapshot, by id."""
    nodes = view.snapshot.versions(node_ids)
    return {node_id: NodeRef(node_id, version) for node_id, version in nodes.items()}
