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


def window_spans(encoder: Any, text: str, count: int) -> Sequence[tuple[int, int]]:
    """Character spans of the `count` windows of a chunk; all of it for each where the encoder cannot tell."""
    own = getattr(encoder, "window_spans", None)
    spans = own(text)[:count] if own else ()
    return spans if len(spans) == count else [(0, len(text))] * count
