"""Settings, one frozen model per concern, composed in `MemoryConfig` and kept in the memory as JSON.

What shapes the stored data (chunks, windows, tree) is fixed when a memory is created; `SearchConfig` may
differ at every opening.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ChunkingConfig(_Config):
    """How documents are cut."""

    chunk_tokens: int = Field(default=128, ge=8)
    """Most of the encoder's tokens in a chunk, its special ones not counted."""


class TreeConfig(_Config):
    """How embeddings are grouped."""

    fan_out: int | tuple[int, ...] = (16, 32)
    """Target number of children per node; a tuple gives one per level from the chunks up, the last one reused
    above.
    """
    cap_factor: int = Field(default=4, ge=2)
    """A group larger than `cap_factor * fan_out` is split."""
    merge_divisor: int = Field(default=8, ge=4)
    """A group smaller than `fan_out / merge_divisor` joins its neighbours."""
    seed: int = 0
    """Seed of the k-means grouping."""

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
    """How words count: BM25 (Robertson and Zaragoza 2009)."""

    k1: float = Field(default=0.3, gt=0)
    """How much more a word counts that comes more often."""
    b: float = Field(default=0.3, ge=0, le=1)
    """How much less it counts in a long chunk."""
    posting_limit: int = Field(default=256, ge=0)
    """Words in at most so many chunks of a namespace lead a walk to these chunks."""


class LeafConfig(_Config):
    """The untrained leaf ranker, as measured by benchmarks/leaf_weights.py."""

    cosine: float = 1.0
    """Weight of the best cosine with the chunk."""
    window: float = 1.0
    """Weight of the best cosines with its windows."""
    lexical: float = 1.5
    """Weight of the words."""
    relevance_slope: float = 2.87
    """Relevance is the logistic function of score times this, plus the offset."""
    relevance_offset: float = -5.37
    """See `relevance_slope`."""


class SearchConfig(_Config):
    """How a search spends its effort."""

    beam_width: int = Field(default=96, ge=1)
    """Lowest nodes kept (the paper's t); half as many on the levels above."""
    rescore: int = Field(default=200, ge=1)
    """Candidates, best by cosine and lexical evidence, whose windows are read."""
    flat_below: int = Field(default=50_000, ge=0)
    """Up to this many live chunks, `auto` scans all pooled cosines; above, it walks."""
    image_from: int | None = Field(default=2_000, ge=0)
    """From so many live chunks on, walks and scans go over a search image, arrays beside the file that are
    made from it in the background; None for never.
    """
    image_windows: int = Field(default=1_000_000, ge=0)
    """Up to so many live chunks the search image holds their windows, too, which takes 3 KB a chunk on disk;
    above, a search reads those of its candidates from the file.
    """
    cache_bytes: int = Field(default=1 << 30, ge=0)
    """Memory for decoded embedding chunks, and as much again for scans, shared by namespaces."""


class MemoryConfig(_Config):
    """All settings of a memory."""

    chunking: ChunkingConfig = ChunkingConfig()
    """How documents are cut; fixed when the memory is made."""
    tree: TreeConfig = TreeConfig()
    """How embeddings are grouped; fixed when the memory is made."""
    lexical: LexicalConfig = LexicalConfig()
    """How words count."""
    leaf: LeafConfig = LeafConfig()
    """How chunks are scored where no weights were trained."""
    search: SearchConfig = SearchConfig()
    """How a search spends its effort; may differ at every opening."""
    level0: bool = True
    """Store token windows (about 3 KB a chunk); without them the leaf ranker has the pooled vector only."""
    embedding_cache: bool = True
    """Keep embeddings of texts that are not stored yet on disk, so that an interrupted build need not repeat
    them.
    """
