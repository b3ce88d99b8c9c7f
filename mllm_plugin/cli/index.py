"""`mllm index`: files into the memory."""

from __future__ import annotations

import codecs
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from mllm_plugin.cli.indexing import Found, IndexPass, Wishes, find
from mllm_plugin.cli.output import emit, note, plural
from mllm_plugin.cli.settings import Settings, UserPath, encoder_option, namespace_option, shared_options
from mllm_plugin.cli.terminal import printable
from mllm_plugin.cli.watch import changes
from mllm_plugin.errors import NotFoundError
from mllm_plugin.memory import MemoryIndex

_SHOWN = 20
_TOGETHER = 3  # more files than these with one reason share a line


def _known_encoding(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    try:
        return codecs.lookup(value).name if value else None
    except LookupError as error:
        raise click.BadParameter(f"{error}; examples: latin-1, cp1252, shift_jis") from error


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH…", type=UserPath())
@click.option("--label", "labels", multiple=True, help="Label of the documents; may be given several times.")
@click.option(
    "--glob", "patterns", multiple=True, metavar="PATTERN", help="Only files like this, e.g. '*.log'."
)
@click.option(
    "--exclude",
    multiple=True,
    metavar="PATTERN",
    help="Leave out files and folders like this, as in a .gitignore; may be given several times.",
)
@click.option("--no-gitignore", is_flag=True, help="Read what .gitignore files leave out, too.")
@click.option("--prune", is_flag=True, help="Remove documents of these paths whose files are gone.")
@click.option("--encoding", callback=_known_encoding, help="Encoding of text files that are not UTF-8.")
@click.option("--force", is_flag=True, help="Read unchanged files again, too.")
@click.option("--watch", is_flag=True, help="Go on: follow every change of the files until interrupted.")
@click.option(
    "--max-mb",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    default=100,
    show_default=True,
    help="Largest file.",
)
@namespace_option
@encoder_option
@shared_options
def index(
    settings: Settings,
    paths: tuple[Path, ...],
    labels: tuple[str, ...],
    patterns: tuple[str, ...],
    exclude: tuple[str, ...],
    no_gitignore: bool,
    prune: bool,
    encoding: str | None,
    force: bool,
    watch: bool,
    max_mb: float,
) -> None:
    """Index files and folders: prose, data, source code, notebooks, HTML, PDF, Word documents.

    A document's id is the file's path relative to the PATH given. Running it again reads only files that are
    new or changed, so an interrupted run goes on where it was. Files that cannot be read are skipped and
    listed; where their text was read before, it is removed once the file has changed.
    """
    logging.getLogger("pypdf").setLevel(logging.ERROR)
    selection = {
        "patterns": patterns,
        "exclude": exclude,
        "gitignore": not no_gitignore,
        "leave_out": settings.memory,
    }
    wishes = Wishes(paths, labels, encoding, int(max_mb * (1 << 20)), prune, force, selection)
    with settings.stage("find files"):
        found = find(wishes)
    wishes = replace(wishes, prune=prune or watch)
    _refuse_nothing(settings, wishes, found, watch)
    with settings.growing() as memory:
        first = IndexPass(memory, settings.namespace, wishes, progress=settings.progress)
        first.refuse_unknown(found.missing)
        report = _run(settings, first, found)
        emit(settings, report, _summary(report, settings.memory))
        if watch:
            _follow(settings, memory, wishes, report)


def _run(settings: Settings, one: IndexPass, found: Found) -> dict[str, Any]:
    with settings.stage("read, encode and write"):
        return one.run(found)


def _follow(settings: Settings, memory: MemoryIndex, wishes: Wishes, said: dict[str, Any]) -> None:
    """Runs a pass for every change, and shows what is new in it."""
    for following in changes(wishes, settings.memory):
        one = IndexPass(memory, settings.namespace, following)
        report = _run(settings, one, find(following))
        new = {
            name: [line for line in report[name] if line not in said[name]] for name in ("skipped", "notes")
        }
        if any((*new.values(), report["added"], report["updated"], report["removed"])):
            emit(settings, report, _summary({**report, **new, "hidden": 0, "ignored": 0}, settings.memory))
        said = report


def _refuse_nothing(settings: Settings, wishes: Wishes, found: Found, watch: bool) -> None:
    """Refuses a run that has nothing to read, prune or wait for.

    Raises:
        NotFoundError: There is nothing.
    """
    if found.files or watch or (wishes.prune and settings.exists()):
        return
    for path, reason in found.finder.left_out[:_SHOWN]:
        note(f"skipped {printable(str(path))}: {reason}")
    raise NotFoundError(
        f"no readable file in {', '.join(map(str, wishes.paths))}; endings without a reader are read as text "
        f"with --glob, e.g. --glob '*.log'. Documents whose files are gone are removed with --prune"
    )


def _summary(report: dict[str, Any], memory: Path) -> Iterator[str]:
    for line in _few([f"{printable(one['path'])}: {one['note']}" for one in report["notes"]]):
        note(line)
    for line in _few(
        [
            f"removed {printable(removed['id'])}: {removed['reason']}"
            for removed in report["removed_documents"]
        ]
    ):
        note(line)
    for line in _few(_skipped_lines(report["skipped"])):
        note(line)
    if left_out := [f"{report[name]:,} {name}" for name in ("hidden", "ignored") if report[name]]:
        note(f"left out: {', '.join(left_out)}")
    if report["reason"]:
        note(report["reason"])
    counts = [
        f"{report[name]:,} {name}" for name in ("added", "updated", "unchanged", "removed") if report[name]
    ]
    if report["skipped"]:
        counts.append(f"{len(report['skipped']):,} skipped")
    yield f"{plural(report['files'], 'file')}: {', '.join(counts) or 'nothing to do'}"
    yield (
        f"{plural(report['chunks'], 'chunk')} written, {plural(report['encoded'], 'text')} encoded in "
        f"{report['seconds']:.1f} s; the memory is {memory}"
    )


def _skipped_lines(skipped: list[dict[str, str]]) -> list[str]:
    """One line for each file, but one for many with the same reason."""
    reasons = Counter(one["reason"] for one in skipped)
    lines: dict[str, str] = {}
    for left_out in skipped:
        count = reasons[left_out["reason"]]
        together = count > _TOGETHER
        more = f" and {count - 1:,} more" if together else ""
        lines.setdefault(
            left_out["reason"] if together else left_out["path"],
            f"skipped {printable(left_out['path'])}{more}: {left_out['reason']}",
        )
    return list(lines.values())


def _few(lines: list[str]) -> Iterator[str]:
    yield from lines[:_SHOWN]
    if len(lines) > _SHOWN:
        yield f"… and {len(lines) - _SHOWN} more; --json lists all"


COMMANDS = (index,)
