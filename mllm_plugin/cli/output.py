"""How results look: JSON for programs, aligned text for people."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import click

from mllm_plugin.cli.settings import Settings
from mllm_plugin.cli.terminal import (
    cells,
    faint,
    judged,
    named,
    padded,
    printable,
    shortened,
    strong,
    width,
)
from mllm_plugin.reports import RemoveReport
from mllm_plugin.types import Hit, PathStep

_RULE = re.compile(r"([-=*~^#+_.])\1{3,}")
_LEAST_EXCERPT = 12
_SIZES = ("B", "KB", "MB", "GB", "TB")


def emit(settings: Settings, value: Any, lines: Iterable[str]) -> None:
    """Prints the value as JSON, or the lines."""
    if settings.json:
        click.echo(json.dumps(value, ensure_ascii=False))
        return
    for line in lines:
        click.echo(line)


def note(text: str) -> None:
    """Prints a line that is no result, on stderr."""
    click.echo(text, err=True)


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Aligns columns: numbers to the right, text to the left; the last one gives way on a narrow terminal."""
    rows = [list(row) for row in rows]
    shown = [list(header), *([_cell(value) for value in row] for row in rows)]
    places = range(len(header))
    right = [bool(rows) and all(isinstance(row[at], int) for row in rows) for at in places]
    widths = [max(cells(row[at]) for row in shown) for at in places]
    if not right[-1]:
        left = width() - sum(columns + 2 for columns in widths[:-1])
        widths[-1] = min(widths[-1], max(_LEAST_EXCERPT, left))
    head, *body = (
        [padded(shortened(row[at], widths[at]), widths[at], right=right[at]) for at in places]
        for row in shown
    )
    return [strong("  ".join(head).rstrip()), *("  ".join(row).rstrip() for row in body)]


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def fields(pairs: Iterable[tuple[str, Any]]) -> list[str]:
    """Aligns names and values, one pair a line."""
    pairs = list(pairs)
    columns = max((cells(name) for name, _ in pairs), default=0)
    return [f"{faint(padded(name, columns))}  {value}".rstrip() for name, value in pairs]


def excerpt(text: str, most: int | None = None) -> str:
    """The beginning of a text on one line, without control characters and the rules under headings.

    Args:
        text: Any text.
        most: Columns to fill; what the terminal has beside a small margin when left out.
    """
    most = max(_LEAST_EXCERPT, width() - 3 if most is None else most)
    begin = text[: most * 4]
    line = " ".join(_RULE.sub(" ", printable(begin)).split())
    return shortened(line if begin == text else f"{line} …", most)


def size(count: int) -> str:
    """Bytes as a person says them."""
    value, unit = float(count), 0
    while value >= 1024 and unit < len(_SIZES) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.1f} {_SIZES[unit]}" if unit else f"{count} B"


def plural(count: int, word: str) -> str:
    """The count with its word."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def namespace_name(namespace: Sequence[str]) -> str:
    """As `--namespace` takes it: a name, or several as a JSON list; the root namespace is a single slash."""
    if len(namespace) == 1 and namespace[0] != "/" and not namespace[0].startswith("["):
        return printable(namespace[0])
    return printable(json.dumps([*namespace], ensure_ascii=False)) if namespace else "/"


def hit_lines(rank: int, hit: Hit, *, path: bool = False) -> list[str]:
    """A hit as it is shown to people."""
    where = f"{named(printable(hit.document_id))} [{hit.start}:{hit.end}]"
    if hit.namespace:
        where += f"  in {namespace_name(hit.namespace)}"
    lines = [
        f"{strong(f'{rank:>2}.')} score {hit.score:.3f}  relevance {hit.relevance:.2f}  {where}",
        f"    {excerpt(hit.text, width() - 4)}",
    ]
    return [*lines, faint(f"    path: {route(hit.path)}")] if path else lines


def route(path: Sequence[PathStep]) -> str:
    """The way from the top level down; the last step is the chunk."""
    steps = [f"level {step.level} node {step.node_id} ({step.score:.3f})" for step in path]
    if path:
        steps[-1] = f"chunk {path[-1].node_id} ({path[-1].score:.3f})"
    return " > ".join(steps)


def removal_lines(report: RemoveReport) -> list[str]:
    """The erasure report."""
    removed = f"{plural(report.documents, 'document')}, {plural(report.chunks, 'chunk')}"
    erased = (
        f"{judged('yes', good=True)}, no file of the memory holds the text or its vectors"
        if report.erased
        else f"{judged('not yet', good=False)}: {report.reason}"
    )
    pairs = [("removed", removed), ("erased", erased)]
    if report.missing:
        pairs.append(("not there", ", ".join(map(printable, report.missing))))
    if report.weights:
        pairs.append(("weights", f"trained on what was removed: {', '.join(report.weights)}"))
    return fields(pairs)
