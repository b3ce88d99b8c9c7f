"""What is spelled out: whole chunks, or the part of one around the windows that answer best."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mllm_plugin.types import Hit, MemoryEmbedding

_WORD_END = re.compile(r"(?<=\S)(?=\s|$)")


@dataclass(frozen=True)
class Passage:
    """A span of a chunk.

    Attributes:
        hit: The chunk.
        start, end: Character offsets in the document.
    """

    hit: Hit
    start: int
    end: int

    @property
    def text(self) -> str:
        """What is spelled out."""
        return self.hit.text[self.start - self.hit.start : self.end - self.hit.start]

    @property
    def is_cut(self) -> bool:
        """Whether it is only a part of the chunk."""
        return (self.start, self.end) != (self.hit.start, self.hit.end)

    def covers(self, one: MemoryEmbedding) -> bool:
        """Whether all that a window or chunk stands for is in it."""
        return one.node_id == self.hit.chunk_id and self.start <= one.start and one.end <= self.end


def choose_passages(
    hits: Sequence[Hit],
    windows: Sequence[MemoryEmbedding],
    budget: int | None,
    count: Callable[[str], int],
) -> list[Passage]:
    """Spells chunks out, best first, until the budget is used up.

    Args:
        hits: Chunks to spell out.
        windows: Of these chunks, with scores.
        budget: Most tokens together; None for no limit.
        count: Tokens of a text.
    """
    found: list[Passage] = []
    for hit in hits:
        whole = Passage(hit, hit.start, hit.end)
        if budget is None:
            found.append(whole)
            continue
        tokens = count(whole.text)
        if tokens > budget:
            cut = cut_passage(whole, windows, budget, count)
            return found if cut is None else [*found, cut]
        found.append(whole)
        budget -= tokens
    return found


def cut_passage(
    passage: Passage, windows: Sequence[MemoryEmbedding], budget: int, count: Callable[[str], int]
) -> Passage | None:
    """The span of whole windows around the best one that fits; without windows, the beginning.

    Args:
        passage: What is too long.
        windows: Those of other chunks are ignored.
        budget: Most tokens.
        count: Tokens of a text.

    Returns:
        None when not even the best window fits.
    """
    own = sorted((one for one in windows if passage.covers(one)), key=lambda one: one.start)
    if not own or any(one.end - one.start >= passage.end - passage.start for one in own):
        return _beginning(passage, budget, count)
    first = last = max(range(len(own)), key=lambda place: own[place].score)
    best = None
    while True:
        span = _whole_words(passage, own[first].start, own[last].end)
        if count(span.text) > budget:
            return best
        best = span
        sides = [place for place in (first - 1, last + 1) if 0 <= place < len(own)]
        if not sides:
            return best
        chosen = max(sides, key=lambda place: own[place].score)
        first, last = min(first, chosen), max(last, chosen)


def _whole_words(passage: Passage, start: int, end: int) -> Passage:
    """A span that splits no word, and has no white space around it."""
    text, offset = passage.hit.text, passage.hit.start
    low, high = start - offset, end - offset
    while low > passage.start - offset and not (text[low - 1].isspace() or text[low].isspace()):
        low -= 1
    while high < passage.end - offset and not (text[high - 1].isspace() or text[high].isspace()):
        high += 1
    span = text[low:high]
    low += len(span) - len(span.lstrip())
    return Passage(passage.hit, offset + low, offset + low + len(span.strip()))


def _beginning(passage: Passage, budget: int, count: Callable[[str], int]) -> Passage | None:
    """As many of the first words as fit."""
    ends = [match.start() for match in _WORD_END.finditer(passage.text)]
    fits, too_many = 0, len(ends) + 1
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if count(passage.text[: ends[middle - 1]]) <= budget:
            fits = middle
        else:
            too_many = middle
    return Passage(passage.hit, passage.start, passage.start + ends[fits - 1]) if fits else None
