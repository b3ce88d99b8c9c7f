"""`mllm remove`, `mask`, `unmask`: forget for good, or for a while."""

from __future__ import annotations

from typing import Any

import click

from mllm_plugin.cli.output import emit, note, plural, removal_lines
from mllm_plugin.cli.settings import Settings, filter_option, namespace_option, shared_options
from mllm_plugin.errors import InvalidInputError, NotFoundError
from mllm_plugin.memory import MemoryIndex

EXIT_NEEDS_CARE = 3


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID]…")
@click.option("--label", help="Documents with this label.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@filter_option
@namespace_option
@shared_options
@click.pass_context
def remove(
    ctx: click.Context,
    settings: Settings,
    ids: tuple[str, ...],
    label: str | None,
    yes: bool,
    condition: dict[str, Any] | None,
) -> None:
    """Erase documents for good: text, vectors, words and their share of every ancestor.

    Documents are named by ID, --filter or --label; what is given must all hold.
    """
    if not ids and condition is None and not label:
        raise click.UsageError("say which documents: ID…, --filter or --label")
    with settings.editing() as memory:
        count = _count(memory, settings.namespace, ids, condition, label)
        if count and not yes and not _confirmed(count):
            raise InvalidInputError("nothing was removed; --yes removes without asking")
        with settings.stage("remove"):
            report = memory.remove(ids or None, filter=condition, label=label, namespace=settings.namespace)
    if report.missing and not report.documents:
        raise NotFoundError(
            f"no document {', '.join(map(repr, report.missing))}; `mllm list` shows what there is"
        )
    emit(settings, report.to_dict(), removal_lines(report))
    if not report.erased:
        ctx.exit(EXIT_NEEDS_CARE)


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID]…")
@click.option("--label", default="", help="Name of the mask; alone: masks the documents with this label.")
@filter_option
@namespace_option
@shared_options
def mask(settings: Settings, ids: tuple[str, ...], label: str, condition: dict[str, Any] | None) -> None:
    """Hide documents from every search and every ancestor until they are unmasked."""
    if not ids and condition is None and not label:
        raise click.UsageError("say which documents: ID…, --filter or --label")
    with settings.editing() as memory, settings.stage("mask"):
        report = memory.mask(ids or None, filter=condition, label=label, namespace=settings.namespace)
    emit(settings, report.to_dict(), [_turned("masked", report.documents, report.chunks)])


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID]…")
@click.option("--label", help="Lift only the mask of this name.")
@click.option("--all", "everything", is_flag=True, help="Lift every mask of the namespace.")
@filter_option
@namespace_option
@shared_options
def unmask(
    settings: Settings,
    ids: tuple[str, ...],
    label: str | None,
    everything: bool,
    condition: dict[str, Any] | None,
) -> None:
    """Lift masks; a document is found again when none is left on it."""
    if not ids and condition is None and label is None and not everything:
        raise click.UsageError("say which documents: ID…, --filter, --label or --all")
    with settings.editing() as memory, settings.stage("unmask"):
        report = memory.unmask(ids or None, filter=condition, label=label, namespace=settings.namespace)
    emit(settings, report.to_dict(), [_turned("live again", report.documents, report.chunks)])


def _count(
    memory: MemoryIndex,
    namespace: tuple[str, ...],
    ids: tuple[str, ...],
    condition: dict[str, Any] | None,
    label: str | None,
) -> int:
    """How many documents `remove` would take."""
    if ids and condition is None:
        chosen = iter(memory.get(ids, namespace=namespace))
    else:
        chosen = memory.documents(namespace=namespace, filter=condition)
    return sum(
        (not ids or document.id in ids) and (not label or label in document.labels) for document in chosen
    )


def _confirmed(count: int) -> bool:
    try:
        return click.confirm(f"Erase {plural(count, 'document')} for good?", err=True)
    except click.Abort:  # there is nobody to answer
        note("")
        return False


def _turned(how: str, documents: int, chunks: int) -> str:
    return f"{plural(documents, 'document')} {how} ({plural(chunks, 'chunk')})"


COMMANDS = (remove, mask, unmask)
