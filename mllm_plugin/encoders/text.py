"""What an encoder says of tokens, with words where it has none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mllm_plugin.chunking import TokenOffsets, word_offsets


def token_offsets(encoder: Any) -> TokenOffsets:
    """The encoder's own tokenizer, else words."""
    return getattr(encoder, "token_offsets", None) or word_offsets


def token_limit(encoder: Any, chunk_tokens: int) -> int:
    """Tokens per chunk: as configured, but no more than the encoder reads."""
    return min(chunk_tokens, getattr(encoder, "max_tokens", chunk_tokens))


def window_spans(
    encoder: Any, texts: Sequence[str], counts: Sequence[int]
) -> list[Sequence[tuple[int, int]]]:
    """Character spans of each chunk's windows; all of it for each where the encoder cannot tell.

    Args:
        counts: How many windows each chunk has.
    """
    own = getattr(encoder, "window_spans", None)
    found = own(texts) if own else [()] * len(texts)
    return [
        spans[:count] if len(spans) >= count else [(0, len(text))] * count
        for spans, text, count in zip(found, texts, counts, strict=True)
    ]
