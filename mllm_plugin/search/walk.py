"""The walk: from the top level down, the best nodes of each level, their children, and at the end chunks.

Shapes: b queries, n embeddings, r vectors per embedding, d dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.lexical import TermCounts, score_terms
from mllm_plugin.search.allowed import Allowed
from mllm_plugin.search.candidates import (
    Candidates,
    NodeRef,
    View,
    admitted,
    best_rows,
    cosines_of,
    joined,
    scores_of,
)
from mllm_plugin.search.query import Query
from mllm_plugin.store.blocks import Block
from mllm_plugin.tree.editor import LEAF_LEVEL

FIRST_SHARE = 8  # one node in so many of the beam is looked into before the others are judged by it
FIRST_LEAST = 4
UPPER_SHARE = 4  # above the lowest nodes the beam is so many times narrower: each leads to many of them
UPPER_LEAST = 4
BEST_LEAST = 10  # the margin is measured from this result, or from the last one wanted


@dataclass(frozen=True)
class Frontier:
    """Nodes to go into for one query, best first.

    Attributes:
        scores: The path's included [n].
        vectors: Embeddings as stored [n, r, d]; none for a root.
        live: Live chunks below each [n].
        parents: Place of each one's parent in the frontier above [n].
    """

    refs: tuple[NodeRef, ...]
    scores: NDArray[np.float32]
    vectors: NDArray[np.float32]
    live: NDArray[np.int64]
    parents: NDArray[np.int64]

    @classmethod
    def root(cls, view: View, dim: int) -> Frontier:
        """The root alone, where every walk begins."""
        ref = NodeRef(view.row.root_id, view.row.root_version)  # type: ignore[arg-type]
        live, none = np.array([view.row.live_chunks]), np.zeros(1, np.int64)
        return cls((ref,), np.zeros(1, np.float32), np.zeros((1, 0, dim), np.float32), live, none)

    def head(self, count: int) -> Frontier:
        """The best `count`."""
        return Frontier(
            self.refs[:count],
            self.scores[:count],
            self.vectors[:count],
            self.live[:count],
            self.parents[:count],
        )


@dataclass(frozen=True)
class Fetched:
    """Embedding chunks of some nodes, one after another."""

    blocks: Sequence[Block]
    spans: Mapping[NodeRef, tuple[int, int]]
    ids: NDArray[np.int64]
    live: NDArray[np.int64]

    @classmethod
    def of(cls, view: View, refs: Iterable[NodeRef]) -> Fetched:
        """Reads the embedding chunks, each once."""
        union = sorted(set(refs))
        blocks = [view.block(ref) for ref in union]
        bounds = np.cumsum([0, *(len(block.ids) for block in blocks)]).tolist()
        spans = dict(zip(union, pairwise(bounds), strict=True))
        ids, live = joined([b.ids for b in blocks], np.int64), joined([b.live for b in blocks], np.int64)
        return cls(blocks, spans, ids, live)

    def rows(self, refs: Iterable[NodeRef]) -> NDArray[np.int64]:
        """The rows of some of the nodes, in the order of the nodes."""
        return joined([np.arange(*self.spans[ref]) for ref in refs], np.int64)

    def sizes(self, refs: Iterable[NodeRef]) -> list[int]:
        """How many rows each of the nodes has."""
        return [last - first for first, last in (self.spans[ref] for ref in refs)]

    def chunk_vectors(self, dim: int) -> NDArray[np.float32]:
        """Pooled embeddings [n, d] below nodes of the lowest level."""
        if not self.blocks:
            return np.zeros((0, dim), np.float32)
        return np.concatenate([block.vectors[:, 0] for block in self.blocks])

    def terms(self) -> TermCounts:
        """Term counts below nodes of the lowest level."""
        parts = [block.terms for block in self.blocks if block.terms is not None]
        return TermCounts.concat(parts) if parts else TermCounts.empty()


def walk(
    view: View, queries: Sequence[Query], *, width: int, most: int, need: int, allowed: Allowed | None
) -> list[Candidates]:
    """Walks from the top level down, keeping the best nodes of each level (`beam_at`).

    A trained ranker also says which of these cannot hold a result any more; they are not visited.

    Args:
        width: Lowest nodes kept; more where they hold fewer than `need` chunks that may be returned.
        most: Candidates kept per query.
        need: Results wanted.
        allowed: What the filter lets through.
    """
    scored = np.zeros(len(queries), dtype=np.int64)
    *_, frontiers = descend(view, queries, width=width, need=need, allowed=allowed, scored=scored)
    frontiers = _promising(view, queries, frontiers, width, need, allowed)
    return _leaves(view, queries, frontiers, most, allowed, scored)


def beam_at(level: int, width: int) -> int:
    """Nodes kept on a level when `width` are kept on the lowest."""
    return width if level <= LEAF_LEVEL else max(UPPER_LEAST, width // UPPER_SHARE)


def descend(
    view: View,
    queries: Sequence[Query],
    *,
    width: int,
    need: int,
    allowed: Allowed | None,
    scored: NDArray[np.int64],
    least: int = 1,
) -> Iterator[list[Frontier]]:
    """Yields the frontier of every query, level by level, from the root down to level 2.

    Args:
        width, need, allowed: As `walk` takes them.
        scored: Embeddings compared with each query [b]; added to.
        least: Nodes kept per level, if there are as many, even where the ranker would drop them.
    """
    frontiers = [Frontier.root(view, queries[0].vectors.shape[1])] * len(queries)
    yield frontiers
    for level in range(view.root_level() - 1, LEAF_LEVEL - 1, -1):
        frontiers = _step(
            view, queries, frontiers, level, beam_at(level, width), need, allowed, scored, least
        )
        yield frontiers


def _step(
    view: View,
    queries: Sequence[Query],
    frontiers: Sequence[Frontier],
    level: int,
    width: int,
    need: int,
    allowed: Allowed | None,
    scored: NDArray[np.int64],
    least: int,
) -> list[Frontier]:
    """One step down: scores the embeddings of `level` below each frontier, keeps the best."""
    fetched = Fetched.of(view, (ref for frontier in frontiers for ref in frontier.refs))
    versions = joined([block.versions for block in fetched.blocks], np.int64)
    below = fetched.live if allowed is None else allowed.below(fetched.ids)
    vectors = np.concatenate([block.vectors for block in fetched.blocks])
    ranker = view.hierarchy.ranker(level)
    path_weight, slack = ranker.path_weight, ranker.slack
    found = []
    for place, (frontier, own) in enumerate(
        zip(frontiers, scores_of(view, level, queries, vectors), strict=True)
    ):
        rows = fetched.rows(frontier.refs)
        scored[place] += len(rows) * vectors.shape[1]
        scores = own[rows]
        parents = np.repeat(np.arange(len(frontier.refs)), fetched.sizes(frontier.refs))
        if path_weight:
            scores = (scores + path_weight * frontier.scores[parents]).astype(np.float32)
        order = np.lexsort((fetched.ids[rows], -scores))
        order = order[below[rows[order]] > 0]
        rows, scores = rows[order], scores[order]
        enough = int(np.searchsorted(np.cumsum(below[rows]), need)) + 1
        likely = len(rows)
        if slack is not None and level > LEAF_LEVEL and len(rows):
            likely = int(np.searchsorted(-scores, slack - scores[0], side="right"))
        kept = rows[: max(min(width, likely), least, enough)]
        refs = tuple(map(NodeRef, fetched.ids[kept].tolist(), versions[kept].tolist()))
        above = parents[order[: len(kept)]]
        found.append(Frontier(refs, scores[: len(kept)], vectors[kept], fetched.live[kept], above))
    return found


def _promising(
    view: View,
    queries: Sequence[Query],
    frontiers: Sequence[Frontier],
    width: int,
    need: int,
    allowed: Allowed | None,
) -> list[Frontier]:
    """Looks into the best nodes first and drops those that fall too short of what was found there."""
    slack = view.hierarchy.ranker(LEAF_LEVEL).slack
    first, want = max(FIRST_LEAST, width // FIRST_SHARE), max(need, BEST_LEAST)
    if slack is None or all(len(frontier.refs) <= first for frontier in frontiers):
        return list(frontiers)
    heads = [frontier.head(first) for frontier in frontiers]
    fetched = Fetched.of(view, (ref for head in heads for ref in head.refs))
    open_rows = admitted(fetched.live > 0, fetched.ids, allowed)
    cosines = cosines_of(view, queries, fetched.chunk_vectors(queries[0].vectors.shape[1])[:, None])
    kept = []
    for frontier, head, cosine in zip(frontiers, heads, cosines, strict=True):
        rows = fetched.rows(head.refs)
        found = cosine[rows[open_rows[rows]]]
        if len(found) < want:
            kept.append(frontier)
            continue
        least = np.partition(found, len(found) - want)[len(found) - want] - slack
        kept.append(frontier.head(max(first, int((frontier.scores >= least).sum()))))
    return kept


def _leaves(
    view: View,
    queries: Sequence[Query],
    frontiers: Sequence[Frontier],
    most: int,
    allowed: Allowed | None,
    scored: NDArray[np.int64],
) -> list[Candidates]:
    """Scores the chunks below each frontier, and those that rare words lead to."""
    weighed = [view.weigh(query) for query in queries]
    homes = {node_id for _, routed in weighed for _, node_id in routed}
    extra = {node_id: NodeRef(node_id, _version(view, node_id)) for node_id in homes}
    fetched = Fetched.of(view, [*(ref for frontier in frontiers for ref in frontier.refs), *extra.values()])
    ids, vectors = fetched.ids, fetched.chunk_vectors(queries[0].vectors.shape[1])
    open_rows = admitted(fetched.live > 0, ids, allowed)
    cosines = cosines_of(view, queries, vectors[:, None])
    lexical = score_terms(fetched.terms(), [terms for terms, _ in weighed], view.lexical)
    results = []
    for place, frontier in enumerate(frontiers):
        rows = fetched.rows(frontier.refs)
        if routed := weighed[place][1]:
            chunk_ids = np.array([chunk for chunk, _ in routed], dtype=np.int64)
            homes_rows = fetched.rows({extra[node] for _, node in routed})
            rows = np.union1d(rows, homes_rows[np.isin(ids[homes_rows], chunk_ids)])
        scored[place] += len(rows)
        rows = rows[open_rows[rows]]
        partial = view.hierarchy.leaf_ranker.partial(cosines[place][rows], lexical[place][rows])
        best = rows[best_rows(partial, ids[rows], most)]
        complete = len(rows) == (view.row.live_chunks if allowed is None else len(allowed.chunk_ids))
        complete = complete and len(best) == len(rows)
        results.append(
            Candidates(ids[best], vectors[best], lexical[place][best], complete, int(scored[place]))
        )
    return results


def _version(view: View, node_id: int) -> int:
    return view.tx.execute("SELECT version FROM nodes WHERE node_id = ?", (node_id,)).get
