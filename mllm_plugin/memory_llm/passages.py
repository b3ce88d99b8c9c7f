"""What is spelled out: whole chunks, or the part of one around the windows that answer best."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import regex

from mllm_plugin.types import Hit, MemoryEmbedding

_WORD_END = re.compile(r"(?<=\S)(?=\s|$)")
_LETTER = regex.compile(r"\X")
_LONGEST_WORD = 40  # characters; what is longer is a script without blanks, or noise, and may be cut


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

    def covers(self, piece: MemoryEmbedding) -> bool:
        """Whether all that a window or chunk stands for is in it."""
        return piece.node_id == self.hit.chunk_id and self.start <= piece.start and piece.end <= self.end


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
        None when nothing fits.
    """
    own = sorted((window for window in windows if passage.covers(window)), key=lambda window: window.start)
    if not own or any(window.end - window.start >= passage.end - passage.start for window in own):
        return _beginning(passage, budget, count)
    first = last = max(range(len(own)), key=lambda place: own[place].score)
    best = None
    while True:
        span = _whole_words(passage, own[first].start, own[last].end)
        if count(span.text) > budget:
            return best or _beginning(span, budget, count)
        best = span
        sides = [place for place in (first - 1, last + 1) if 0 <= place < len(own)]
        if not sides:
            return best
        chosen = max(sides, key=lambda place: own[place].score)
        first, last = min(first, chosen), max(last, chosen)


def _whole_words(passage: Passage, start: int, end: int) -> Passage:
    """A span that splits no word, and has no white space around it."""
    text, offset = passage.hit.text, passage.hit.start
    first, last = passage.start - offset, passage.end - offset
    low, high = start - offset, end - offset
    before = range(low, max(first, low - _LONGEST_WORD) - 1, -1)
    after = range(high, min(last, high + _LONGEST_WORD) + 1)
    low = next((at for at in before if at == first or _is_word_edge(text, at)), low)
    high = next((at for at in after if at == last or _is_word_edge(text, at)), high)
    span = text[low:high]
    low += len(span) - len(span.lstrip())
    return Passage(passage.hit, offset + low, offset + low + len(span.strip()))


def _is_word_edge(text: str, at: int) -> bool:
    return text[at - 1].isspace() or text[at].isspace()


def _beginning(passage: Passage, budget: int, count: Callable[[str], int]) -> Passage | None:
    """As many of the first words as fit, or of the first letters where a word is longer than words are."""
    words = [match.start() for match in _WORD_END.finditer(passage.text)]
    end = _last_that_fits(passage.text, words, budget, count)
    if not end and words and words[0] > _LONGEST_WORD:
        letters = [match.end() for match in _LETTER.finditer(passage.text, 0, words[0])]
        end = _last_that_fits(passage.text, letters, budget, count)
    return Passage(passage.hit, passage.start, passage.start + end) if end else None


def _last_that_fits(text: str, ends: Sequence[int], budget: int, count: Callable[[str], int]) -> int:
    """The last of the ends up to which a text fits; 0 when none does."""
    fits, too_many = 0, len(ends) + 1
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if count(text[: ends[middle - 1]]) <= budget:
            fits = middle
        else:
            too_many = middle
    return ends[fits - 1] if fits else 0
