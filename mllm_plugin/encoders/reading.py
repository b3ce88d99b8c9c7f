"""What an encoder says of texts by their tokens, which it sees with letters in their usual shape."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.encoders.base import TextEncoder
from mllm_plugin.errors import InvalidInputError
from mllm_plugin.text.letters import plain_letters

LEAST_TOKENS = 8  # of text in a chunk, as in `ChunkingConfig`
_UNREAD_SHARE = 0.75

Tokens = tuple[Sequence[int], Sequence[tuple[int, int]]]
"""Ids and character spans of a text's tokens."""


class TokenReader(TextEncoder):
    """What encoders share that have a tokenizer."""

    def _tokens(self, texts: Sequence[str]) -> list[Tokens]:
        """Whole texts without special tokens."""
        raise NotImplementedError

    @property
    def _unknown(self) -> int | None:
        """Id of the unknown token; None where there is none."""
        raise NotImplementedError

    def token_offsets(self, text: str) -> NDArray[np.int64]:
        """Character spans [t, 2] of the text's tokens; a blank before a word may belong to its token."""
        plain, places = plain_letters(text)
        ((_, spans),) = self._tokens([plain])
        return places.spans(np.array(spans, dtype=np.int64).reshape(-1, 2))

    def cannot_read(self, texts: Sequence[str]) -> list[bool]:
        """Which texts are to the tokenizer little but unknown tokens."""
        plain = [plain_letters(text)[0] for text in texts]
        rows = zip(plain, self._tokens(plain), strict=True)
        return [is_unread(text, ids, spans, self._unknown) for text, (ids, spans) in rows]


def room_for_text(length: int, special: int, prefixes: Sequence[Sequence[int]]) -> int:
    """Tokens that the longest prefix and the special tokens leave; chunks of queries get it too.

    Args:
        length: Tokens that the model reads.
        special: How many of them are special.
        prefixes: Token ids of each prefix.

    Raises:
        InvalidInputError: That is too little for a text.
    """
    longest = max(map(len, prefixes))
    room = length - special - longest
    if room < LEAST_TOKENS:
        raise InvalidInputError(
            f"a prefix of {longest} tokens leaves {room} of the {length} that the encoder reads, expected at "
            f"least {LEAST_TOKENS}; shorten query_prefix or document_prefix"
        )
    return room


def is_unread(text: str, ids: Sequence[int], spans: Sequence[tuple[int, int]], unknown: int | None) -> bool:
    """Whether most of a text, blanks aside, lies in unknown tokens.

    Args:
        text: As the tokenizer got it.
        ids, spans: Its tokens and where they lie.
        unknown: Id of the unknown token; None where there is none.
    """
    widths = [len(text[start:end].strip()) for start, end in spans]
    lost = sum(width for token, width in zip(ids, widths, strict=True) if token == unknown)
    return lost > 0 and lost >= _UNREAD_SHARE * sum(widths)
