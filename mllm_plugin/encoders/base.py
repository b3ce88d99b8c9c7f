"""`TextEncoder`: what Encoder 1 has to offer.

Shapes: n texts, t tokens, w windows, d dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.seam import Seam
from mllm_plugin.text.chunking import word_offsets

Vectors = NDArray[np.float32]
Spans = Sequence[tuple[int, int]]
_BATCH = 64


class TextEncoder(Seam):
    """Encoder 1: texts to embeddings. Inherit it and write the first four members.

    Attributes:
        dim: Width of the embeddings.
        fingerprint: Names the model; a memory is opened with the encoder that it was written with.
        max_tokens: Longest input, in tokens of `token_offsets`; None for any.
        anonymous: True where the fingerprint may be the same for two models or differ for one: a memory then
            tells the encoder by the vectors that it makes of a few texts.
    """

    _needed: ClassVar[tuple[str, ...]] = ("dim", "fingerprint", "encode_documents", "encode_queries")

    dim: int
    fingerprint: str
    max_tokens: int | None = None
    anonymous: bool = False

    def encode_documents(self, texts: Sequence[str]) -> tuple[Vectors, Sequence[Vectors] | None]:
        """Returns pooled embeddings [n, d] and, where it has token states, windows [w, d] per text."""
        raise NotImplementedError

    def document_batches(self, texts: Sequence[str]) -> Sequence[Sequence[int]]:
        """Rows of the texts that are best encoded together; by default 64 of about one length.

        Each batch is kept before the next is begun.
        """
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]), reverse=True)
        return [order[start : start + _BATCH] for start in range(0, len(order), _BATCH)]

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """Returns query embeddings [n, d]."""
        raise NotImplementedError

    def encode_query_windows(self, texts: Sequence[str]) -> tuple[Vectors, Sequence[Vectors] | None]:
        """Queries as `encode_documents` gives documents.

        Without windows, which is the default, the leaf ranker compares those of chunks with whole queries.
        """
        return self.encode_queries(texts), None

    def token_offsets(self, text: str) -> NDArray[np.int64]:
        """Character spans [t, 2] of the text's tokens, by which chunks are cut; words by default."""
        return word_offsets(text)

    def window_spans(self, texts: Sequence[str]) -> Sequence[Spans]:
        """Character spans of each text's windows; by default none, and a window is placed at its chunk."""
        return [()] * len(texts)

    def cannot_read(self, texts: Sequence[str]) -> Sequence[bool]:
        """Which texts it makes nothing of, so that their embedding is to be zero; none by default."""
        return [False] * len(texts)
