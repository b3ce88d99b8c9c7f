"""Keeps text from outside from passing for a turn of the chat where plain words mark the turns.

A layout whose turns begin and end with tokens of their own needs none of this. In others ("Question:",
"[/INST]") a text that has such a mark gets a blank inside it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

_LONGEST_MARK = 30  # characters; longer lines of a layout are sentences


class Fence:
    """Breaks a layout's marks in texts.

    Args:
        layout: The pieces of text that the layout itself writes.
    """

    def __init__(self, layout: Iterable[str]) -> None:
        lines = {line.strip() for piece in layout for line in piece.splitlines()}
        self._marks = [_pattern(_folded(line)[0]) for line in sorted(filter(_is_mark, lines))]

    def __call__(self, text: str) -> str:
        """The text, with a blank in what could pass for a mark; letter case and width do not matter."""
        if not self._marks:
            return text
        folded, places = _folded(text)
        cuts = sorted({places[found.start(1)] for mark in self._marks for found in mark.finditer(folded)})
        return " ".join(text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True))


def _is_mark(line: str) -> bool:
    """Whether a line of a layout looks like a mark and not like a word or a sentence."""
    if len(line) > _LONGEST_MARK or not any(map(str.isalnum, line)):
        return False
    return not line[0].isalnum() or line[-1] == ":"


def _pattern(mark: str) -> re.Pattern[str]:
    """Finds a mark, with an empty group where the blank goes: between its words and its signs."""
    edges = (at for at in range(1, len(mark)) if _is_edge(mark[at - 1], mark[at]))
    cut = next(edges, 1)
    head, tail = (r"\s+".join(map(re.escape, re.split(r"\s+", part))) for part in (mark[:cut], mark[cut:]))
    return re.compile(f"(?={head}(){tail})")


def _is_edge(left: str, right: str) -> bool:
    return left.isalnum() != right.isalnum() and not left.isspace() and not right.isspace()


def _folded(text: str) -> tuple[str, list[int] | range]:
    """A text as a tokenizer may come to see it, and where in it each of its characters is from."""
    if text.isascii():
        return text.lower(), range(len(text))
    parts = [_plain(letter) for letter in text]
    return "".join(parts), [place for place, part in enumerate(parts) for _ in part]


@lru_cache(maxsize=4096)
def _plain(letter: str) -> str:
    """A character in its usual width, small; nothing for one that is not seen."""
    return "" if unicodedata.category(letter) == "Cf" else unicodedata.normalize("NFKC", letter).casefold()
