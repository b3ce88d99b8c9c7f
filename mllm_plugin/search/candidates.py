"""Finds candidates: by walking down the tree, or by scanning all pooled vectors of a namespace.

Shapes: b queries, m vectors per query, n chunks, r vectors per embedding, d dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import apsw
import numpy as np
from numpy.typing import NDArray

from mllm_plugin.config import LexicalConfig
from mllm_plugin.hierarchy import Hierarchy
from mllm_plugin.lexical import QueryTerms, TermCounts, score_terms
from mllm_plugin.search.allowed import Allowed
from mllm_plugin.search.query import Query
from mllm_plugin.store.blocks import Block, BlockCache
from mllm_plugin.store.image import Image
from mllm_plugin.store.namespaces import NamespaceRow
from mllm_plugin.store.terms import frequencies, routed_chunks
from mllm_plugin.tree.editor import LEAF_LEVEL


@dataclass(frozen=True)
class Candidates:
    """Chunks of one namespace worth ranking for one query, best first by partial score.

    Attributes:
        ids: Chunk ids [n].
        vectors: Pooled embeddings [n, d].
        lexical: Lexical evidence in [0, 1) [n].
        complete: Every live chunk that the search may return is among them.
        scored: Embeddings compared with the query to find them.
    """

    ids: NDArray[np.int64]
    vectors: NDArray[np.float32]
    lexical: NDArray[np.float64]
    complete: bool
    scored: int


class NodeRef(NamedTuple):
    """A node as of one write."""

    node_id: int
    version: int


@dataclass(frozen=True)
class View:
    """One namespace in one snapshot, with what is needed to search it."""

    tx: apsw.Connection
    row: NamespaceRow
    blocks: BlockCache
    hierarchy: Hierarchy
    lexical: LexicalConfig

    def root_level(self) -> int:
        """Level of the root node."""
        return self.tx.execute("SELECT level FROM nodes WHERE node_id = ?", (self.row.root_id,)).get

    def block(self, ref: NodeRef) -> Block:
        """A node's embedding chunk."""
        return self.blocks.get(self.tx, ref.node_id, ref.version)

    def weigh(self, query: Query) -> tuple[QueryTerms, list[tuple[int, int]]]:
        """The query's terms weighed here, and the chunks (id, node id) that rare ones lead to."""
        plain = QueryTerms.of(query.text, {}, 0, 0)
        known = frequencies(self.tx, self.row.namespace_id, plain.hashes.tolist())
        live = {term: found[0] for term, found in known.items()}
        terms = QueryTerms.of(query.text, live, self.row.live_chunks, self.row.live_terms)
        return terms, routed_chunks(self.tx, self.row.namespace_id, known)


def walk(
    view: View, queries: Sequence[Query], *, width: int, most: int, need: int, allowed: Allowed | None
) -> list[Candidates]:
    """Walks from the top level down, keeping the `width` best nodes per level.

    Args:
        width: Nodes kept per level; more where they hold fewer than `need` chunks that may be returned.
        most: Candidates kept per query.
        need: Results wanted.
        allowed: What the filter lets through.
    """
    root = NodeRef(view.row.root_id, view.row.root_version)  # type: ignore[arg-type]
    frontiers = [[root] for _ in queries]
    scored = np.zeros(len(queries), dtype=np.int64)
    for level in range(view.root_level(), LEAF_LEVEL, -1):
        frontiers = _descend(view, queries, frontiers, level - 1, width, need, allowed, scored)
    return _leaves(view, queries, frontiers, most, allowed, scored)


@dataclass(frozen=True)
class Evidence:
    """What a scan knows of every chunk that may be returned, for one query; rows as in `ids`."""

    ids: NDArray[np.int64]
    cosine: NDArray[np.float32]
    lexical: NDArray[np.float64]


def evidence(
    view: View, image: Image, queries: Sequence[Query], allowed: Allowed | None
) -> tuple[list[NDArray[np.bool_]], list[Evidence]]:
    """Compares every chunk of the image with the queries; also tells which rows of each part are kept."""
    keep = [_admitted(part.live, part.ids, allowed) for part in image.parts]
    ids = _joined([part.ids[rows] for part, rows in zip(image.parts, keep, strict=True)], np.int64)
    cosines = [_cosines(view, queries, part.vectors[:, None]) for part in image.parts]
    found = []
    for place, query in enumerate(queries):
        terms = view.weigh(query)[0]
        cosine = _joined([part[place][rows] for part, rows in zip(cosines, keep, strict=True)])
        lexical = _joined(
            [part.lexical(terms, view.lexical)[rows] for part, rows in zip(image.parts, keep, strict=True)]
        )
        found.append(Evidence(ids, cosine, lexical))
    return keep, found


def scan(
    view: View, image: Image, queries: Sequence[Query], *, most: int, allowed: Allowed | None
) -> list[Candidates]:
    """The `most` best chunks of each query by exact pooled cosine and lexical evidence."""
    keep, found = evidence(view, image, queries, allowed)
    partial = view.hierarchy.leaf_ranker.partial
    best = [best_rows(partial(one.cosine, one.lexical), one.ids, most) for one in found]
    return chosen(image, keep, found, best)


def chosen(
    image: Image,
    keep: Sequence[NDArray[np.bool_]],
    found: Sequence[Evidence],
    best: Sequence[NDArray[np.int64]],
) -> list[Candidates]:
    """Candidates from chosen rows of the evidence."""
    return [
        Candidates(
            ids=one.ids[rows],
            vectors=_gather(image, keep, rows),
            lexical=one.lexical[rows],
            complete=len(rows) == len(one.ids),
            scored=len(one.ids),
        )
        for one, rows in zip(found, best, strict=True)
    ]


def best_rows(scores: NDArray[np.floating], ids: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Rows of the `most` highest scores, best first, lower ids first on ties."""
    rows = np.arange(len(scores))
    if most < len(scores):
        threshold = np.partition(scores, len(scores) - most)[len(scores) - most]
        rows = np.flatnonzero(scores >= threshold)
    return rows[np.lexsort((ids[rows], -scores[rows]))][:most]


def _descend(
    view: View,
    queries: Sequence[Query],
    frontiers: list[list[NodeRef]],
    level: int,
    width: int,
    need: int,
    allowed: Allowed | None,
    scored: NDArray[np.int64],
) -> list[list[NodeRef]]:
    """One step down: scores the embeddings of `level` below each frontier, keeps the best."""
    union = sorted({ref for frontier in frontiers for ref in frontier})
    blocks = [view.block(ref) for ref in union]
    ids, versions = (
        _joined([b.ids for b in blocks], np.int64),
        _joined([b.versions for b in blocks], np.int64),
    )
    live = _joined([b.live for b in blocks], np.int64)
    below = live if allowed is None else allowed.below(ids)
    scores = _scores(view, level, queries, np.concatenate([b.vectors for b in blocks]))
    spans = _spans(union, blocks)
    found = []
    for place, frontier in enumerate(frontiers):
        rows = _rows(frontier, spans)
        scored[place] += len(rows)
        rows = rows[below[rows] > 0]
        rows = rows[np.lexsort((ids[rows], -scores[place][rows]))]
        enough = int(np.searchsorted(np.cumsum(below[rows]), need)) + 1
        rows = rows[: max(width, enough)]
        found.append(
            [NodeRef(*pair) for pair in zip(ids[rows].tolist(), versions[rows].tolist(), strict=True)]
        )
    return found


def _leaves(
    view: View,
    queries: Sequence[Query],
    frontiers: list[list[NodeRef]],
    most: int,
    allowed: Allowed | None,
    scored: NDArray[np.int64],
) -> list[Candidates]:
    """Scores the chunks below each frontier, and those that rare words lead to."""
    weighed = [view.weigh(query) for query in queries]
    homes = {node_id for _, routed in weighed for _, node_id in routed}
    extra = {node_id: _version(view.tx, node_id) for node_id in homes}
    union = sorted(
        {ref for frontier in frontiers for ref in frontier} | {NodeRef(*pair) for pair in extra.items()}
    )
    blocks = [view.block(ref) for ref in union]
    dim = queries[0].vectors.shape[1]
    ids = _joined([block.ids for block in blocks], np.int64)
    vectors = (
        np.concatenate([block.vectors[:, 0] for block in blocks])
        if blocks
        else np.zeros((0, dim), np.float32)
    )
    admitted = _admitted(_joined([b.live for b in blocks], np.int64) > 0, ids, allowed)
    cosines = _cosines(view, queries, vectors[:, None])
    terms = (
        TermCounts.concat([b.terms for b in blocks if b.terms is not None]) if blocks else TermCounts.empty()
    )
    lexical = score_terms(terms, [query_terms for query_terms, _ in weighed], view.lexical)
    spans = _spans(union, blocks)
    results = []
    for place, frontier in enumerate(frontiers):
        rows = _rows(frontier, spans)
        if routed := weighed[place][1]:
            chunk_ids = np.array([chunk for chunk, _ in routed], dtype=np.int64)
            homes_rows = _rows([NodeRef(node, extra[node]) for node in {node for _, node in routed}], spans)
            rows = np.union1d(rows, homes_rows[np.isin(ids[homes_rows], chunk_ids)])
        scored[place] += len(rows)
        rows = rows[admitted[rows]]
        partial = view.hierarchy.leaf_ranker.partial(cosines[place][rows], lexical[place][rows])
        best = rows[best_rows(partial, ids[rows], most)]
        complete = len(rows) == (view.row.live_chunks if allowed is None else len(allowed.chunk_ids))
        complete = complete and len(best) == len(rows)
        results.append(
            Candidates(ids[best], vectors[best], lexical[place][best], complete, int(scored[place]))
        )
    return results


def _scores(
    view: View, level: int, queries: Sequence[Query], embeddings: NDArray[np.float32]
) -> list[NDArray[np.float32]]:
    """Scores of embeddings [n, r, d] for each query [n]; queries of one length are scored together."""
    results: list[NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(queries)
    lengths = {len(query.vectors) for query in queries}
    for length in lengths:
        places = [place for place, query in enumerate(queries) if len(query.vectors) == length]
        stacked = np.stack([queries[place].vectors for place in places])
        for place, row in zip(places, view.hierarchy.ranker(level).score(stacked, embeddings), strict=True):
            results[place] = row
    return results


def _cosines(
    view: View, queries: Sequence[Query], embeddings: NDArray[np.float32]
) -> list[NDArray[np.float32]]:
    return _scores(view, 1, queries, embeddings)


def _admitted(live: NDArray[np.bool_], ids: NDArray[np.int64], allowed: Allowed | None) -> NDArray[np.bool_]:
    return live if allowed is None else live & (allowed.chunks(ids) > 0)


def _spans(union: Sequence[NodeRef], blocks: Sequence[Block]) -> dict[NodeRef, tuple[int, int]]:
    bounds = np.cumsum([0, *(len(block.ids) for block in blocks)]).tolist()
    return {ref: span for ref, *span in zip(union, bounds[:-1], bounds[1:], strict=True)}  # type: ignore[misc]


def _rows(frontier: Sequence[NodeRef], spans: dict[NodeRef, tuple[int, int]]) -> NDArray[np.int64]:
    return _joined([np.arange(*spans[ref]) for ref in frontier], np.int64)


def _version(tx: apsw.Connection, node_id: int) -> int:
    return tx.execute("SELECT version FROM nodes WHERE node_id = ?", (node_id,)).get


def _joined(parts: Sequence[NDArray], dtype: type = np.float64) -> NDArray:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=dtype)


def _gather(image: Image, keep: Sequence[NDArray[np.bool_]], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Vectors [len(rows), d] of rows counted over the kept rows of all parts."""
    vectors = np.empty((len(rows), image.parts[0].vectors.shape[1]), dtype=np.float32)
    first = 0
    for part, mask in zip(image.parts, keep, strict=True):
        kept = np.flatnonzero(mask)
        mine = (rows >= first) & (rows < first + len(kept))
        vectors[mine] = part.vectors[kept[rows[mine] - first]]
        first += len(kept)
    return vectors
