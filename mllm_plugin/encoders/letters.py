"""Letters in the shape that tokenizers know: ligatures of PDF files, full-width and mathematical letters.

Of what Unicode calls compatibility characters only letters in another shape are replaced, so that a text
without them goes to the encoder as it is. Places lead from the replaced text back to the original.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import regex
from numpy.typing import NDArray

from mllm_plugin.shapes import Int64

_LETTER = regex.compile(r"\X")
_USUAL = regex.compile(r"(?:\p{L}\p{M}*)+")
_SHAPES = {"<compat>", "<final>", "<font>", "<initial>", "<isolated>", "<medial>", "<narrow>", "<wide>"}
_OWN = ("\u0250", "\u20ff")  # other alphabets, some of whose usual letters have a second spelling
_RADICALS = ("\u2e80", "\u2fdf")  # symbols that PDF files have in place of Chinese letters
_JAMO = ("\u1100", "\u11ff")  # parts of Korean syllables, which no tokenizer knows by themselves
_SOFT_HYPHEN = "\u00ad"


class Places(NamedTuple):
    """Where each character of a replaced text begins and ends in the original [n]; None: nothing was."""

    starts: NDArray[np.int64] | None
    ends: NDArray[np.int64] | None

    def spans(self, offsets: Int64[np.ndarray, "t 2"]) -> Int64[np.ndarray, "t 2"]:
        """Spans [t, 2] of the original from those of the replaced text; empty ones are kept as they are."""
        if self.starts is None or self.ends is None or not len(offsets):
            return offsets
        filled = offsets[:, 1] > offsets[:, 0]
        found = offsets.copy()
        found[filled, 0] = self.starts[offsets[filled, 0]]
        found[filled, 1] = self.ends[offsets[filled, 1] - 1]
        return found


def plain_letters(text: str) -> tuple[str, Places]:
    """Replaces letters of another shape; the text itself where it has none."""
    if text.isascii() or not any(map(_is_other_shape, set(text))):
        return text, Places(None, None)
    parts, starts, ends = [], [], []
    for match in _LETTER.finditer(text):
        part = _plain(match.group())
        parts.append(part)
        if part == match.group():
            starts += range(match.start(), match.end())
            ends += range(match.start() + 1, match.end() + 1)
        else:
            starts += [match.start()] * len(part)
            ends += [match.end()] * len(part)
    return "".join(parts), Places(np.array(starts, dtype=np.int64), np.array(ends, dtype=np.int64))


def _plain(letter: str) -> str:
    """A letter with its marks in its usual shape, without soft hyphens."""
    if not any(map(_is_other_shape, letter)):
        return letter
    return unicodedata.normalize("NFKC", letter.replace(_SOFT_HYPHEN, ""))


@lru_cache(maxsize=1 << 12)
def _is_other_shape(character: str) -> bool:
    if character == _SOFT_HYPHEN:
        return True
    if unicodedata.decomposition(character).partition(" ")[0] not in _SHAPES:
        return False
    if character < "\u0100" or _OWN[0] <= character <= _OWN[1]:
        return False
    is_letter = character.isalpha() or _RADICALS[0] <= character <= _RADICALS[1]
    usual = unicodedata.normalize("NFKC", character)
    is_usual = bool(_USUAL.fullmatch(usual)) and not _JAMO[0] <= usual[0] <= _JAMO[1]
    return is_letter and is_usual
