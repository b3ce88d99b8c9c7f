"""Settings, one frozen model per concern, composed in `MemoryConfig` and kept in the memory as JSON.

What shapes the stored data (chunks, windows, tree) is fixed when a memory is created; `SearchConfig` may
differ at every opening.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ChunkingConfig(_Config):
    """How documents are cut.

    Args:
        chunk_tokens: Most tokens of a chunk, without the encoder's special ones; no more than it reads.
    """

    chunk_tokens: int = Field(default=128, ge=8)


class TreeConfig(_Config):
    """How embeddings are grouped.

    Args:
        fan_out: Target number of children per node; a tuple gives one per level from the chunks up, the last
            one reused above.
        cap_factor: A group larger than `cap_factor * fan_out` is split.
        merge_divisor: A group smaller than `fan_out / merge_divisor` joins its neighbours.
        seed: Seed of the k-means grouping.
    """

    fan_out: int | tuple[int, ...] = (16, 32)
    cap_factor: int = Field(default=4, ge=2)
    merge_divisor: int = Field(default=8, ge=4)
    seed: int = 0

    def target(self, level: int) -> int:
        """Target group size for children of `level` (1 = chunks)."""
        if isinstance(self.fan_out, int):
            return max(2, self.fan_out)
        return max(2, self.fan_out[min(level, len(self.fan_out)) - 1])

    def cap(self, level: int) -> int:
        """Largest group allowed for children of `level`."""
        return self.target(level) * self.cap_factor

    def floor(self, level: int) -> int:
        """Smallest group that is left alone for children of `level`."""
        return max(2, self.target(level) // self.merge_divisor)


class LexicalConfig(_Config):
    """Words as evidence: BM25 (Robertson and Zaragoza 2009), and which words lead to chunks.

    Args:
        k1: How soon repeats of a word stop counting.
        b: How much long chunks are held back, 0 to 1.
        posting_limit: Most chunks of a word that routes.
    """

    k1: float = Field(default=0.3, gt=0)
    b: float = Field(default=0.3, ge=0, le=1)
    posting_limit: int = Field(default=256, ge=0)


class LeafConfig(_Config):
    """The leaf ranker where the hierarchy has no trained one, as measured by benchmarks/leaf_weights.py.

    Args:
        cosine: Weight of the pooled cosine.
        window: Weight of the best window.
        lexical: Weight of the words.
        relevance_slope: Slope of the curve from score to relevance.
        relevance_offset: Its offset.
    """

    cosine: float = 1.0
    window: float = 1.0
    lexical: float = 1.5
    relevance_slope: float = 2.87
    relevance_offset: float = -5.37


class SearchConfig(_Config):
    """How a search spends its effort.

    Args:
        beam_width: Lowest nodes kept (the paper's t); a quarter as many on the levels above.
        rescore: Candidates, best by cosine and lexical evidence, whose windows are read.
        flat_below: Up to this many live chunks, `auto` scans all pooled cosines; above, it walks.
        cache_bytes: Memory for decoded embedding chunks, and as much again for scans, shared by namespaces.
    """

    beam_width: int = Field(default=96, ge=1)
    rescore: int = Field(default=200, ge=1)
    flat_below: int = Field(default=50_000, ge=0)
    cache_bytes: int = Field(default=1 << 30, ge=0)


class MemoryConfig(_Config):
    """All settings of a memory.

    Args:
        chunking: How documents are cut.
        tree: How embeddings are grouped.
        lexical: How words count.
        leaf: Weights of the leaf ranker.
        search: How a search spends its effort.
        level0: Store token windows (about 3 KB a chunk); without them the leaf ranker has the pooled vector
            only.
        embedding_cache: Keep embeddings of texts that are not stored yet on disk, so that an interrupted
            build need not repeat them.
    """

    chunking: ChunkingConfig = ChunkingConfig()
    tree: TreeConfig = TreeConfig()
    lexical: LexicalConfig = LexicalConfig()
    leaf: LeafConfig = LeafConfig()
    search: SearchConfig = SearchConfig()
    level0: bool = True
    embedding_cache: bool = True
