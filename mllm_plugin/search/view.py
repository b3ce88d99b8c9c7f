"""What a search may see of one namespace: one moment of it, and what the filter lets through.

Shapes: n chunks or nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mllm_plugin.config import LexicalConfig
from mllm_plugin.hierarchy import Hierarchy
from mllm_plugin.search.allowed import Allowed
from mllm_plugin.search.query import Query
from mllm_plugin.search.recency import Recency
from mllm_plugin.shapes import Bool, Float64, Int64
from mllm_plugin.store.decoded import CachedChunk, EmbeddingChunkCache, NodeRef
from mllm_plugin.store.namespaces import NamespaceRow
from mllm_plugin.store.snapshot import Frequency, Snapshot
from mllm_plugin.text.lexical import QueryTerms, asked_terms


@dataclass(frozen=True)
class View:
    """One namespace in one snapshot, with what is needed to search it.

    Attributes:
        allowed: None without a filter.
        through_masks: Whether `allowed` may name masked chunks.
        recency: What newness counts; None for nothing.
    """

    snapshot: Snapshot
    row: NamespaceRow
    embedding_chunks: EmbeddingChunkCache
    hierarchy: Hierarchy
    lexical: LexicalConfig
    allowed: Allowed | None = None
    through_masks: bool = False
    recency: Recency | None = None

    @property
    def answers(self) -> int:
        """How many chunks a search may return."""
        return self.row.live_chunks if self.allowed is None else len(self.allowed.chunk_ids)

    def root(self) -> NodeRef:
        """The node where every walk begins."""
        return NodeRef(self.row.root_id, self.row.root_version)  # type: ignore[arg-type]

    def root_level(self) -> int:
        """Level of the root node."""
        return self.snapshot.node(self.root().node_id).level

    def children(self, ref: NodeRef) -> CachedChunk:
        """A node's embedding chunk."""
        return self.embedding_chunks.get(self.snapshot, *ref)

    def admitted(self, live: Bool[np.ndarray, " n"], ids: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Which chunks may be returned: they are live, and the filter lets them through."""
        return live if self.allowed is None else live & (self.allowed.chunks(ids) > 0)

    def below(self, live: Int64[np.ndarray, " n"], ids: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """How many chunks that may be returned lie below nodes with so many live ones."""
        return live if self.allowed is None else self.allowed.below(ids)

    def added(self, ids: Int64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """What recency adds to the scores of chunks."""
        return np.zeros(len(ids)) if self.recency is None else self.recency.added(self.snapshot, ids)

    def words(self, queries: Sequence[Query]) -> list[tuple[QueryTerms, dict[int, Frequency]]]:
        """Each query's terms weighed here, and how many chunks have each of them and of their forms."""
        rule, size = self.snapshot.word_rule, (self.row.live_chunks, self.row.live_terms)
        asked = [asked_terms(query.text, rule) for query in queries]
        hashes = [{term for one in own for term in (one.term, *one.forms)} for own in asked]
        known = self.snapshot.frequencies(self.row, set().union(*hashes))
        live = {term: found.live for term, found in known.items()}
        return [
            (QueryTerms.weighed(own, live, *size), {term: known[term] for term in mine & known.keys()})
            for own, mine in zip(asked, hashes, strict=True)
        ]

    def weigh(self, queries: Sequence[Query]) -> list[tuple[QueryTerms, list[tuple[int, int]]]]:
        """Each query's terms weighed here, and the chunks (id, node id) that rare ones lead to."""
        return [(terms, self.snapshot.routed_chunks(self.row, known)) for terms, known in self.words(queries)]
