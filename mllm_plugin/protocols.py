"""The seams a researcher swaps: an encoder of texts, encoders of embedding chunks, rankers.

Shapes: n texts, g groups, c children per group, r vectors per embedding, m query vectors, d dimensions.
Masks are True for live children.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


@runtime_checkable
class TextEncoder(Protocol):
    """Encoder 1: texts to embeddings.

    Optional members: `token_offsets(text) -> int [t, 2]`, the character spans of the text's tokens, and
    `max_tokens`, the longest input; without them chunks are counted in words. And
    `encode_query_windows(texts)`, which gives queries as `encode_documents` gives documents; without it the
    leaf ranker compares windows with the whole query only. And `window_spans(texts)`, the character spans
    of each text's windows; without it a recalled window is placed at its whole chunk. And
    `document_batches(texts)`, the rows of the texts that are best encoded together; each such batch is kept
    before the next is begun; without it a batch is 64 texts of about one length. And `cannot_read(texts)`,
    which of them it makes nothing of; their embedding is zero. And `anonymous`, True where the fingerprint
    may be the same for two models or differ for one: a memory then tells the encoder by the vectors that it
    makes of a few texts.

    Attributes:
        dim: Width of the embeddings.
        fingerprint: Changes whenever an embedding would; a memory refuses an encoder of another one.
    """

    dim: int
    fingerprint: str

    def encode_documents(self, texts: Sequence[str]) -> tuple[Vectors, list[Vectors] | None]:
        """Returns pooled embeddings [n, d] and, where it has token states, windows [w, d] per text."""
        ...

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """Returns query embeddings [n, d]."""
        ...


@runtime_checkable
class LevelEncoder(Protocol):
    """Encoder k (k >= 2): folds each embedding chunk into one embedding.

    Optional members, for saving: `kind`, a name, and `tensors`, arrays by name; `type(module)(tensors)` must
    give the module back.
    """

    def fold(self, children: NDArray[np.float16], live: NDArray[np.bool_]) -> NDArray[np.float16]:
        """Folds one group: children [c, r, d] and live [c] to [r, d]; all zero when nothing is live."""
        ...


@runtime_checkable
class Ranker(Protocol):
    """Decoder-ranker of a routing level: one score per embedding of the fetched embedding chunks.

    Optional members: `kind` and `tensors` as a level encoder's; `path_weight`, by which the score of the
    parent is added on the walk (0 without); and `slack`, which lets the walk drop nodes: the scores are then
    estimates of the best cosine below a node, and one that lies more than the slack below the best results
    seen so far is not visited (None keeps all).
    """

    def score(self, queries: Vectors, embeddings: Vectors) -> Vectors:
        """Scores embeddings [n, r, d] for each query's vectors [b, m, d]: [b, n], higher is better."""
        ...
