"""Characters: what can be stored, letters in the shape that tokenizers know, and runs of them that are noise.

PDF files have ligatures, full-width and mathematical letters. Of what Unicode calls compatibility characters
only letters in another shape are replaced, so that a text without them goes to the encoder as it is. Places
lead from the replaced text back to the original.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
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
_RUN = re.compile(r"[0-9A-Za-z+/=]+")
_HEX = re.compile(r"[0-9a-fA-F]{2,}")
_CHANGE = re.compile(r"(?<=[0-9])(?=[A-Za-z])|(?<=[A-Za-z])(?=[0-9])|(?<=[a-z])(?=[A-Z])")
_LEAST_NOISE = 32  # characters; less may be an identifier that somebody asks for
_NOISE_SHARE = 0.75
_LONGEST_WORD = 40
_SHORTEST_CODE = 16
_CHANGE_SHARE = 0.3


def text_flaw(text: str) -> str:
    """Why a text cannot be stored; empty when it can."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return (
            f"holds a lone surrogate at {error.start}, which is no valid Unicode; decode the source with "
            f"errors='replace'"
        )
    return ""


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


def is_noise(text: str) -> bool:
    """Whether a text is hardly more than hex digits, base64, or runs of letters that no language has."""
    solid = sum(map(len, text.split()))
    if solid < _LEAST_NOISE:
        return False
    runs = [run for run in _RUN.findall(text) if 10 * (run.count("+") + run.count("/")) <= len(run)]
    long = [run for run in runs if len(run) > _LONGEST_WORD]
    digits = [run for run in runs if len(run) <= _LONGEST_WORD and _HEX.fullmatch(run)]
    mixed = [run for run in runs if _SHORTEST_CODE <= len(run) <= _LONGEST_WORD and not _HEX.fullmatch(run)]
    codes = (long, digits if _are_hexadecimal("".join(digits)) else (), mixed if _are_mixed(mixed) else ())
    return sum(len(run) for part in codes for run in part) >= max(_LEAST_NOISE, _NOISE_SHARE * solid)


def _are_hexadecimal(digits: str) -> bool:
    """Whether they are neither words like "added" nor a table of numbers, with an e here and there."""
    letters = [digit.lower() for digit in digits if digit.isalpha()]
    return len(set(letters)) >= 4 and len(digits) - len(letters) >= 0.3 * len(digits)


def _are_mixed(runs: Sequence[str]) -> bool:
    """Whether they change between digits, capitals and small letters more often than names do."""
    changes = sum(len(_CHANGE.findall(run)) for run in runs)
    return changes >= _CHANGE_SHARE * sum(map(len, runs))
