"""Cuts a folder of Markdown and reStructuredText pages into distractor documents, one per few paragraphs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from originals import DataError, DataSet, spaced
from tqdm import tqdm

PIECE = 1200  # characters of a distractor, unless one paragraph is longer
_HEADING = re.compile(r"(#{1,6})\s+(.+?)[\s#]*$")
_FENCE = re.compile(r"\s*(?:```|~~~)[^`]*$")
_MARKDOWN_HEADER = re.compile(r"\A---\n(.*?\n)---\n", re.DOTALL)
_RST_HEADER = re.compile(r"\A((?::?[A-Z][\w-]*:.*\n(?:[ \t]+\S.*\n)*)+)")
_RST_HEADING = re.compile(r"^(\S.*)\n(([^\w\s])\3{2,})[ \t]*$", re.MULTILINE)
_HEADER_TITLE = re.compile(r"""^:?title:\s*["']?(.+?)["']?\s*$""", re.MULTILINE | re.IGNORECASE)


def distractors(folder: Path) -> DataSet:
    """Pieces of all Markdown and reStructuredText pages below a folder: a section's paragraphs, packed.

    Args:
        folder: Searched with its subfolders, but for hidden ones.

    Returns:
        A set without questions; ids are `dPAGE-ORDER`.

    Raises:
        DataError: If there is no such page.
    """
    result = DataSet()
    page = 0
    for path in tqdm(_pages(folder), desc="distractors", unit="page"):
        text = path.read_text(encoding="utf-8-sig", errors="replace")
        title, pieces = split_page(text, path)
        name = path.relative_to(folder).as_posix()
        for order, (section, piece) in enumerate(pieces):
            heading = title if section == title else f"{title} - {section}"
            row = {"id": f"d{page:05d}-{order}", "title": heading, "text": piece, "group": f"d{page:05d}"}
            result.corpus.append(row | {"path": name, "section": section, "order": order})
        page += bool(pieces)
    if not result.corpus:
        raise DataError(f"{folder}: no text in .md or .rst files there; --distractors takes a folder of them")
    return result


def split_page(text: str, path: Path) -> tuple[str, list[tuple[str, str]]]:
    """A page's title and its (section, text) pieces of at most `PIECE` characters or one paragraph."""
    rst = path.suffix == ".rst"
    header = (_RST_HEADER if rst else _MARKDOWN_HEADER).match(text)
    named = _HEADER_TITLE.search(header[1]) if header else None
    body = text[header.end() :] if header else text
    paragraphs = list(_paragraphs(_rst_as_markdown(body) if rst else body))
    first = next((headings[0] for headings, _ in paragraphs if headings), path.stem)
    title = named[1] if named and (rst or first == path.stem) else first
    pieces = []
    for headings, group in groupby(paragraphs, key=lambda one: one[0]):
        section = " - ".join(headings[1:] if headings[:1] == (title,) else headings) or title
        pieces += [(section, piece) for piece in _packed(paragraph for _, paragraph in group)]
    return title, pieces


def _pages(folder: Path) -> list[Path]:
    paths = (path for path in folder.rglob("*") if path.suffix in (".md", ".rst") and path.is_file())
    return sorted(
        path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _paragraphs(markdown: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Paragraphs with words, each with the headings above it; a fenced block is never cut."""
    headings: tuple[str, ...] = ()
    lines: list[str] = []
    fenced = False
    for line in [*markdown.splitlines(), ""]:
        heading = None if fenced else _HEADING.match(line)
        if line.strip() and not heading:
            lines.append(line)
        elif not fenced:
            yield from _paragraph(headings, lines)
            lines = []
        if heading:
            headings = (*headings[: len(heading[1]) - 1], heading[2])
        fenced ^= bool(_FENCE.match(line))
    yield from _paragraph(headings, lines)


def _paragraph(headings: tuple[str, ...], lines: list[str]) -> Iterator[tuple[tuple[str, ...], str]]:
    text = spaced(" ".join(lines))
    if re.search(r"\w", text):
        yield headings, text


def _packed(paragraphs: Iterable[str]) -> Iterator[str]:
    piece = ""
    for paragraph in paragraphs:
        if piece and len(piece) + 1 + len(paragraph) > PIECE:
            yield piece
            piece = ""
        piece = f"{piece} {paragraph}".strip()
    yield piece


def _rst_as_markdown(text: str) -> str:
    """Underlined headings as Markdown's; their order of appearance tells the levels."""
    levels: list[str] = []

    def heading(match: re.Match[str]) -> str:
        title, line, character = match.groups()
        if len(line) < len(title.rstrip()):
            return match[0]
        if character not in levels:
            levels.append(character)
        return f"{'#' * min(levels.index(character) + 1, 6)} {title}"

    return _RST_HEADING.sub(heading, text)
