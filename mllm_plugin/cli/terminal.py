"""The terminal: how wide it is, whether it shows colours, and bars only where somebody looks."""

from __future__ import annotations

import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Iterable
from typing import Any

import click
from tqdm import tqdm

_DEFAULT_WIDTH = 100  # of pipes and files
_LEAST_WIDTH = 40
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_INVISIBLE = {"Mn", "Me", "Cf"}


def width() -> int:
    """Columns to fill: the terminal's, or $COLUMNS; 100 in a pipe or a file."""
    return max(_LEAST_WIDTH, shutil.get_terminal_size((_DEFAULT_WIDTH, 24)).columns)


def colour() -> bool | None:
    """Whether to print colours: $NO_COLOR and $FORCE_COLOR say so; None leaves it to each stream."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return True if os.environ.get("FORCE_COLOR") else None


def watched() -> bool:
    """Whether somebody sees standard error while it is written."""
    return sys.stderr is not None and sys.stderr.isatty()


def hide_bars_of_others() -> None:
    """Downloads of models show no bars in a log; their library reads this when it is imported."""
    if not watched():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def bar(items: Iterable[Any] | None, unit: str, *, shown: bool, total: int | None = None) -> Any:
    """The items, with a bar of progress where it is shown; without items, a bar to be moved by `update`."""
    return tqdm(items, total=total, unit=f" {unit}", disable=not shown, dynamic_ncols=True)


def printable(text: str) -> str:
    """The text without the control characters that a terminal would obey; line ends and tabs stay."""
    return _CONTROL.sub(" ", text)


def cells(text: str) -> int:
    """Columns that a text takes: two for each Chinese, Japanese or Korean character, none for marks."""
    return len(text) if text.isascii() else sum(map(_cells_of, text))


def shortened(text: str, most: int) -> str:
    """The text in at most so many columns; what is cut off is an ellipsis."""
    if cells(text) <= most:
        return text
    taken = end = 0
    while taken + _cells_of(text[end]) < most:
        taken, end = taken + _cells_of(text[end]), end + 1
    return f"{text[:end].rstrip()}…"


def padded(text: str, columns: int, *, right: bool = False) -> str:
    """The text filled up with blanks to so many columns."""
    blanks = " " * (columns - cells(text))
    return blanks + text if right else text + blanks


def strong(text: str) -> str:
    """Headings."""
    return click.style(text, bold=True)


def faint(text: str) -> str:
    """What is rarely read."""
    return click.style(text, dim=True)


def named(text: str) -> str:
    """What can be typed into the next command."""
    return click.style(text, fg="cyan", bold=True)


def judged(text: str, *, good: bool) -> str:
    """A verdict."""
    return click.style(text, fg="green" if good else "red", bold=True)


def _cells_of(character: str) -> int:
    if unicodedata.category(character) in _INVISIBLE:
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
