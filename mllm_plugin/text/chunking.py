"""Cuts a text into spans of at most `limit` tokens, at sentence ends where possible.

A cut is always a character position, so `text[start:end]` is the chunk, whatever the tokenizer does. Where it
makes one token of a long stretch, as it may of what it does not know (Thai, hashes, base64), pieces of the
stretch count as tokens, so that a chunk is bounded in characters too.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np
import regex
from numpy.typing import NDArray

from mllm_plugin.errors import InvalidInputError

TokenOffsets = Callable[[str], NDArray[np.int64]]

_SENTENCE_END = re.compile(r"[.!?…।॥؟۔։።]+[\"'”’)\]]*\s+|[。！？｡។៕။]+|\n\s*\n")
_LINE_END = re.compile(r"\n")
_BLANKS = re.compile(r"\s+")
_WORD = regex.compile(r"[\p{L}\p{N}_][\p{L}\p{N}\p{M}\p{Join_Control}_]*|[^\s\x1c-\x1f]")
_LETTER = regex.compile(r"\X")
_SEGMENT_CHARS = 100_000
_LONGEST_TOKEN = 24  # characters from one token to the next; words of hardly any vocabulary are longer
_PIECE = 8  # characters of a longer one that count as a token
_LONGEST_LETTER = 32


class Span(NamedTuple):
    """A half-open range of characters."""

    start: int
    end: int


def word_offsets(text: str) -> NDArray[np.int64]:
    """Spans [t, 2] of words and punctuation marks: the tokenizer of encoders that have none."""
    spans = [match.span() for match in _WORD.finditer(text)]
    return np.array(spans, dtype=np.int64).reshape(-1, 2)


def split_text(text: str, limit: int, token_offsets: TokenOffsets = word_offsets) -> list[Span]:
    """Cuts `text` into chunks.

    Args:
        text: Any Unicode text.
        limit: Most tokens per chunk.
        token_offsets: Gives the character spans [t, 2] of a text's tokens, in order.

    Returns:
        Spans in order, without surrounding white space, of at most 24 characters per token of the limit; they
        cover every token. Empty for blank text.

    Raises:
        InvalidInputError: The limit is below 1.
    """
    if limit < 1:
        raise InvalidInputError(
            f"a chunk may have {limit} tokens, expected at least 1; the encoder's max_tokens leaves no room: "
            f"name an encoder that reads more, or shorten its document prefix"
        )
    if 2 * len(text) <= limit and text.isascii():  # no tokenizer makes so many tokens of a character
        return [*_stripped(text, 0, len(text))]
    spans: list[Span] = []
    for segment in _segments(text):
        piece = text[segment.start : segment.end]
        offsets = token_offsets(piece) + segment.start
        spans.extend(_split_segment(text, segment, offsets, limit))
    return spans


def whole_text(text: str) -> list[Span]:
    """One span over the text as it is: a piece that is never recut."""
    return [Span(0, len(text))]


def _segments(text: str) -> Iterator[Span]:
    """Bounds what a tokenizer sees at once; cuts at a line end or a blank where there is one."""
    start = 0
    while len(text) - start > _SEGMENT_CHARS:
        window = text[start : start + _SEGMENT_CHARS]
        blank = max(window.rfind("\n"), 0) or max(window.rfind(" "), 0)
        end = start + blank + 1 if blank else letter_start(text, start + _SEGMENT_CHARS)
        yield Span(start, end)
        start = end
    yield Span(start, len(text))


def _split_segment(text: str, segment: Span, offsets: NDArray[np.int64], limit: int) -> Iterator[Span]:
    starts = _token_starts(text, segment, offsets)
    if not starts:
        yield from _stripped(text, segment.start, segment.end)
        return
    piece = text[segment.start : segment.end]
    boundaries = [
        [segment.start + match.end() for match in pattern.finditer(piece)]
        for pattern in (_SENTENCE_END, _LINE_END)
    ]
    first, begin = 0, segment.start
    while first < len(starts):
        last = _cut_token(text, starts, boundaries, first, limit)
        end = starts[last] if last < len(starts) else segment.end
        yield from _stripped(text, begin, end)
        first, begin = last, end


def _token_starts(text: str, segment: Span, offsets: NDArray[np.int64]) -> list[int]:
    """Where tokens begin, but for the white space that those of byte-level tokenizers begin with."""
    starts = np.maximum.accumulate(offsets[:, 0])
    blanks = [match.span() for match in _BLANKS.finditer(text, segment.start, segment.end)]
    gaps = np.array([(-1, -1), *blanks], dtype=np.int64)
    starts = np.maximum(starts, gaps[np.searchsorted(gaps[:, 0], starts, side="right") - 1, 1])
    widths = np.diff(starts, append=segment.end)
    found = starts.tolist()
    for row in np.flatnonzero(widths > _LONGEST_TOKEN)[::-1].tolist():
        found[row + 1 : row + 1] = _pieces(text, found[row], found[row] + int(widths[row]))
    return found


def _pieces(text: str, start: int, end: int) -> list[int]:
    """Where pieces of a long token begin, but for the first."""
    places = range(start + _PIECE, end, _PIECE)
    if text[start:end].isascii():
        return list(places)
    return [max(start, letter_start(text, place)) for place in places]


def _cut_token(text: str, starts: list[int], boundaries: list[list[int]], first: int, limit: int) -> int:
    """Index of the token that opens the next chunk: near an even share, after a sentence, line or word."""
    remaining = len(starts) - first
    if remaining <= limit:
        return len(starts)
    aim = remaining / -(-remaining // limit)
    for ends in boundaries:
        low = bisect_right(ends, starts[first + max(1, int(aim / 2))])
        high = bisect_right(ends, starts[first + limit])
        cuts = [cut for cut in (bisect_left(starts, end) for end in ends[low:high]) if cut > first]
        if cuts:
            return min(cuts, key=lambda cut: abs(cut - first - aim))
    cuts = [cut for cut in range(first + limit, first, -1) if starts[cut] > starts[cut - 1]]
    words = (cut for cut in cuts if cut > first + limit // 2 and text[starts[cut] - 1].isspace())
    letters = (cut for cut in cuts if letter_start(text, starts[cut]) == starts[cut])
    return next(chain(words, letters, cuts), first + limit)


def letter_start(text: str, place: int) -> int:
    """Where the letter with its marks begins that the character at `place` belongs to."""
    if place >= len(text):
        return len(text)
    low = max(0, place - _LONGEST_LETTER)
    *_, last = _LETTER.finditer(text, low, place + 1)
    return last.start() if last.start() > low or not low else place


def _stripped(text: str, start: int, end: int) -> Iterator[Span]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    if end > start:
        yield Span(start, end)
