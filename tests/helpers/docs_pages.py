"""Reads the documentation: code blocks, links, command lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_FENCE = re.compile(r"^```(\w*)\s*$")
_NOT_RUN = re.compile(r"^<!-- not run: (?P<reason>\S.*) -->$")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_INLINE = re.compile(r"`([^`\n]+)`")
_DECIMAL = re.compile(r"-?\d+\.\d+")
_DURATION = re.compile(r"\d+\.\d+(?= m?s\b)")
_TOLERANCE = 0.02  # scores differ in the last digit from machine to machine


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        line: Number of its first line of text, from 1.
        not_run: Reason why it is not run; empty when it is.
        output_of: The block right above it, whose output this one shows.
    """

    language: str
    text: str
    line: int
    not_run: str
    output_of: Block | None


def blocks_of(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    lines = page.read_text(encoding="utf-8").splitlines()
    blocks: list[Block] = []
    above = ""  # the last line that is not blank
    number = 0
    while number < len(lines):
        if fence := _FENCE.match(lines[number]):
            end = lines.index("```", number + 1)
            reason = _NOT_RUN.match(above)
            shows = fence[1] == "text" and above == "```" and bool(blocks)
            text = "".join(f"{line}\n" for line in lines[number + 1 : end])
            blocks.append(
                Block(
                    fence[1],
                    text,
                    number + 2,
                    reason["reason"] if reason else "",
                    blocks[-1] if shows else None,
                )
            )
            number = end
        above = lines[number].strip() or above
        number += 1
    return blocks


def prose_of(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def links_of(page: Path) -> list[str]:
    """Targets of the links to other files and headings of the project."""
    return [link for link in _LINK.findall(prose_of(page)) if not re.match(r"[a-z]+:", link)]


def anchors_of(page: Path) -> set[str]:
    """What a link to a heading of the page may name, as on GitHub."""
    headings = re.findall(r"^#+ (.+)$", prose_of(page), flags=re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-") for heading in headings
    }


def commands_of(page: Path) -> Iterator[str]:
    """Command lines: those of bash blocks, continued lines joined, and those in running text."""
    for block in blocks_of(page):
        if block.language == "bash":
            yield from lines_of(block)
    for span in _INLINE.findall(prose_of(page)):
        if re.match(r"(mllm|make|python|pip) \w", span):
            yield span


def lines_of(block: Block) -> Iterator[str]:
    """Lines of a bash block without comments."""
    for line in block.text.replace("\\\n", " ").splitlines():
        line = re.sub(r"(^|\s)#.*$", "", line).strip()
        if line:
            yield line


def same_output(shown: str, printed: str) -> bool:
    """Whether a page shows what was printed; durations may differ, and other decimals by 0.02."""
    shown, printed = (_DURATION.sub("0.0", _stripped(text)) for text in (shown, printed))
    if _DECIMAL.sub("0.0", shown) != _DECIMAL.sub("0.0", printed):
        return False
    pairs = zip(_DECIMAL.findall(shown), _DECIMAL.findall(printed), strict=True)
    return all(abs(float(left) - float(right)) <= _TOLERANCE for left, right in pairs)


def _stripped(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())


def sections(text: str, level: int) -> dict[str, str]:
    """Text below each heading of a level, by the first name in backticks of the heading."""
    parts = re.split(rf"^{'#' * level} (?=[^#])", text, flags=re.MULTILINE)[1:]
    named = ((re.search(r"`(?:mllm )?([\w-]+)", part.splitlines()[0]), part) for part in parts)
    return {name[1]: part for name, part in named if name}
