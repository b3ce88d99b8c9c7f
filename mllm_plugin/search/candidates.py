"""Candidates for the leaf ranker, and the scan that finds them by comparing all pooled vectors.

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
from mllm_plugin.lexical import QueryTerms
from mllm_plugin.search.allowed import Allowed
from mllm_plugin.search.finalists import with_meaning
from mllm_plugin.search.query import Query
from mllm_plugin.store.blocks import Block, BlockCache
from mllm_plugin.store.image import Image
from mllm_plugin.store.namespaces import NamespaceRow
from mllm_plugin.store.terms import frequencies, routed_chunks, word_rule


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
        rule = word_rule(self.tx)
        plain = QueryTerms.of(query.text, {}, 0, 0, rule)
        known = frequencies(self.tx, self.row.namespace_id, plain.hashes.tolist())
        live = {term: found[0] for term, found in known.items()}
        terms = QueryTerms.of(query.text, live, self.row.live_chunks, self.row.live_terms, rule)
        return terms, routed_chunks(self.tx, self.row.namespace_id, known)


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
    keep = [admitted(part.live, part.ids, allowed) for part in image.parts]
    ids = joined([part.ids[rows] for part, rows in zip(image.parts, keep, strict=True)], np.int64)
    cosines = [cosines_of(view, queries, part.vectors[:, None]) for part in image.parts]
    found = []
    for place, query in enumerate(queries):
        terms = view.weigh(query)[0]
        cosine = joined([part[place][rows] for part, rows in zip(cosines, keep, strict=True)])
        lexical = joined(
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


def scores_of(
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


def cosines_of(
    view: View, queries: Sequence[Query], embeddings: NDArray[np.float32]
) -> list[NDArray[np.float32]]:
    """Level-1 scores of chunks [n, 1, d] for each query [n]; see `with_meaning`."""
    found = scores_of(view, 1, queries, embeddings)
    return [with_meaning(one, embeddings[:, 0]) for one in found]


def admitted(live: NDArray[np.bool_], ids: NDArray[np.int64], allowed: Allowed | None) -> NDArray[np.bool_]:
    """Which chunks are live and let through by the filter [n]."""
    return live if allowed is None else live & (allowed.chunks(ids) > 0)


def joined(parts: Sequence[NDArray], dtype: type = np.float64) -> NDArray:
    """Parts one after another; an empty array where there is none."""
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
