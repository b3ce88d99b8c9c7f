"""`TextEncoder`: what Encoder 1 has to offer, and checks of what it and callers give.

Shapes: n texts, t tokens, w windows, d dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.errors import DimensionMismatchError, InvalidInputError, InvalidTypeError
from mllm_plugin.seam import Seam
from mllm_plugin.text.chunking import word_offsets
from mllm_plugin.text.letters import is_noise

Vectors = NDArray[np.float32]
Spans = Sequence[tuple[int, int]]
_BATCH = 64
_NUMBERS = "fiu"  # numpy's kinds: floats and integers; no booleans, no complex numbers, no digits as text


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


def listed(name: str, values: Any) -> list[Any]:
    """Any iterable but a string as a list.

    Raises:
        InvalidTypeError: It is none.
    """
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise InvalidTypeError(f"{name} takes a list, got {type(values).__name__}")
    return list(values)


def as_vectors(values: Any, dim: int) -> NDArray[np.float32]:
    """One vector [d] or several [m, d] as unit float32 [m, d]; a vector of zeros has no direction and stays.

    Raises:
        InvalidTypeError: They are no real numbers.
        DimensionMismatchError: They have another width than `dim`.
        InvalidInputError: They hold NaN or infinity.
    """
    array = _numbers(values, f"text or a vector of {dim} numbers")
    if array.ndim == 0:
        raise InvalidTypeError(f"expected text or a vector of {dim} numbers, got {type(values).__name__}")
    if array.ndim == 2 and not len(array):
        raise InvalidInputError(f"expected at least one vector of {dim} numbers, got none")
    if array.ndim > 2 or array.shape[-1] != dim:
        raise DimensionMismatchError(
            f"expected vectors of {dim} dimensions, got shape {array.shape}; the memory's encoder made {dim}"
        )
    if not np.isfinite(array).all():
        raise InvalidInputError("a vector holds NaN or infinity")
    return unit(array.reshape(-1, dim))


def as_windows(values: Any, dim: int) -> NDArray[np.float32]:
    """Windows [w, d] of one text, as an encoder gives them.

    Raises:
        InvalidTypeError: They are no real numbers.
        InvalidInputError: They have another shape, or hold NaN or infinity.
    """
    array = _numbers(values, f"windows [w, {dim}] from the encoder").astype(np.float32)
    if array.ndim != 2 or array.shape[1] != dim or not np.isfinite(array).all():
        raise InvalidInputError(
            f"the encoder returned windows {array.shape}, expected finite ones [w, {dim}]"
        )
    return array


def unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Scales rows of [..., d] to unit length; zero rows stay zero."""
    vectors = np.asarray(vectors, dtype=np.float64)
    peaks = np.abs(vectors).max(axis=-1, keepdims=True, initial=0.0)
    vectors = vectors / np.where(peaks > 0, peaks, 1.0)  # so that squares stay within range
    norms = np.sqrt((vectors * vectors).sum(axis=-1, keepdims=True))
    return (vectors / np.where(norms > 0, norms, 1.0)).astype(np.float32)


def _numbers(values: Any, expected: str) -> NDArray[np.float64]:
    """An array of real numbers; numpy alone would also read digits in strings and drop imaginary parts."""
    try:
        array = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise InvalidTypeError(f"expected {expected}, got {type(values).__name__}") from error
    if array.dtype.kind not in _NUMBERS:
        kind = (
            type(values).__name__ if array.dtype.kind == "O" else f"{type(values).__name__} of {array.dtype}"
        )
        raise InvalidTypeError(f"expected {expected}, got {kind}")
    return array.astype(np.float64)


def token_limit(encoder: TextEncoder, chunk_tokens: int) -> int:
    """Tokens per chunk: as configured, but no more than the encoder reads."""
    return chunk_tokens if encoder.max_tokens is None else min(chunk_tokens, encoder.max_tokens)


def document_batches(encoder: TextEncoder, texts: Sequence[str]) -> Sequence[Sequence[int]]:
    """Rows of texts that are best encoded together.

    Raises:
        InvalidInputError: The encoder left texts out or named them twice.
    """
    batches = encoder.document_batches(texts)
    if sorted(row for batch in batches for row in batch) != list(range(len(texts))):
        raise InvalidInputError(
            f"the encoder's document_batches does not name each of {len(texts)} texts once"
        )
    return batches


def window_spans(
    encoder: TextEncoder, texts: Sequence[str], counts: Sequence[int]
) -> list[Sequence[tuple[int, int]]]:
    """Character spans of each chunk's windows; all of it for each where the encoder cannot tell.

    Args:
        counts: How many windows each chunk has.
    """
    found = encoder.window_spans(texts)
    return [
        spans[:count] if len(spans) >= count else [(0, len(text))] * count
        for spans, text, count in zip(found, texts, counts, strict=True)
    ]


def meaningless(encoder: TextEncoder, texts: Sequence[str]) -> list[bool]:
    """Which texts have no meaning that an embedding could hold: noise, and what the encoder cannot read.

    Their embedding is zero, so that only their words lead to them.
    """
    doubtful = [text for text in texts if not text.isascii()]  # no tokenizer is without the letters of ASCII
    unknown = dict(zip(doubtful, encoder.cannot_read(doubtful), strict=True)) if doubtful else {}
    return [is_noise(text) or unknown.get(text, False) for text in texts]
