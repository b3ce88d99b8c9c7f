"""How results look: JSON for programs, aligned text for people."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import click

from mllm_plugin.cli.settings import Settings
from mllm_plugin.types import Hit, PathStep, RemoveReport

WIDTH = 100
_RULE = re.compile(r"([-=*~^#+_.])\1{3,}")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
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
    """Aligns columns: numbers to the right, text to the left."""
    rows = [list(row) for row in rows]
    cells = [
        list(header),
        *([f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows),
    ]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    right = [
        bool(rows) and all(isinstance(row[column], int) for row in rows) for column in range(len(header))
    ]
    return [
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in cells
    ]


def fields(pairs: Iterable[tuple[str, Any]]) -> list[str]:
    """Aligns names and values, one pair a line."""
    pairs = list(pairs)
    width = max((len(name) for name, _ in pairs), default=0)
    return [f"{name:<{width}}  {value}".rstrip() for name, value in pairs]


def excerpt(text: str, width: int = WIDTH - 3) -> str:
    """The beginning of a text on one line, without control characters and the rules under headings."""
    line = " ".join(_RULE.sub(" ", printable(text[: width * 4])).split())
    return line if len(line) <= width and len(text) <= width * 4 else f"{line[: width - 1].rstrip()}…"


def printable(text: str) -> str:
    """The text without the control characters that a terminal would obey; line ends and tabs stay."""
    return _CONTROL.sub(" ", text)


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
    where = f"{printable(hit.document_id)} [{hit.start}:{hit.end}]"
    if hit.namespace:
        where += f"  in {namespace_name(hit.namespace)}"
    lines = [
        f"{rank:>2}. score {hit.score:.3f}  relevance {hit.relevance:.2f}  {where}",
        f"    {excerpt(hit.text, WIDTH - 4)}",
    ]
    return [*lines, f"    path: {route(hit.path)}"] if path else lines


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
        "yes, no file of the memory holds the text or its vectors"
        if report.erased
        else f"not yet: {report.reason}"
    )
    pairs = [("removed", removed), ("erased", erased)]
    if report.missing:
        pairs.append(("not there", ", ".join(map(printable, report.missing))))
    if report.weights:
        pairs.append(("weights", f"trained on what was removed: {', '.join(report.weights)}"))
    return fields(pairs)
