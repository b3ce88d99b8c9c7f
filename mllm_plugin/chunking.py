"""Cuts a text into spans of at most `limit` tokens, at sentence ends where possible.

A cut is always a character position, so `text[start:end]` is the chunk, whatever the tokenizer does.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

TokenOffsets = Callable[[str], NDArray[np.int64]]

_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]]*\s+|[。！？]+|\n\s*\n")
_LINE_END = re.compile(r"\n")
_WORD = re.compile(r"\w+|[^\w\s]")
_SEGMENT_CHARS = 100_000


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
        Spans in order, without surrounding white space; they cover every token. Empty for blank text.
    """
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
        cut = max(window.rfind("\n"), 0) or max(window.rfind(" "), 0) or _SEGMENT_CHARS - 1
        yield Span(start, start + cut + 1)
        start += cut + 1
    yield Span(start, len(text))


def _split_segment(text: str, segment: Span, offsets: NDArray[np.int64], limit: int) -> Iterator[Span]:
    offsets = offsets[offsets[:, 1] > offsets[:, 0]]
    starts = offsets[:, 0].tolist()
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
    for cut in range(first + limit, first + limit // 2, -1):
        if text[starts[cut] - 1].isspace():
            return cut
    return next(
        (cut for cut in range(first + limit, first, -1) if starts[cut] > starts[cut - 1]), first + limit
    )


def _stripped(text: str, start: int, end: int) -> Iterator[Span]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    if end > start:
        yield Span(start, end)
