"""`mllm search`, `list`, `show`: what the memory holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from mllm_plugin.cli.output import emit, excerpt, fields, hit_lines, namespace_name, note, plural, table
from mllm_plugin.cli.settings import (
    Settings,
    UserPath,
    encoder_option,
    filter_option,
    namespace_option,
    number_option,
    shared_options,
)
from mllm_plugin.cli.terminal import printable
from mllm_plugin.errors import InvalidInputError, NotFoundError
from mllm_plugin.memory import MemoryIndex
from mllm_plugin.types import StoredDocument


@click.command()
@click.argument("query", required=False)
@number_option(("-k", "--top-k", "k"), 5, "Results wanted.")
@click.option("--exact", is_flag=True, help="Score every chunk.")
@click.option(
    "--mode", type=click.Choice(["auto", "beam", "flat", "exact"]), default="auto", help="How to search."
)
@number_option("--beam-width", None, "Nodes kept per level.")
@click.option("--prefix", is_flag=True, help="Search the namespaces below too.")
@click.option("--documents", is_flag=True, help="Show only the best chunk of each document.")
@click.option("--exclude-label", "exclude_labels", multiple=True, help="Leave out documents with this label.")
@click.option("--path", "show_path", is_flag=True, help="Show the way from the top level down.")
@click.option(
    "--vector",
    type=UserPath(),
    metavar="FILE",
    help="Search with this JSON list of numbers.",
)
@filter_option
@namespace_option
@encoder_option
@shared_options
def search(
    settings: Settings,
    query: str | None,
    k: int,
    exact: bool,
    mode: str,
    beam_width: int | None,
    prefix: bool,
    documents: bool,
    exclude_labels: tuple[str, ...],
    show_path: bool,
    vector: Path | None,
    condition: dict[str, Any] | None,
) -> None:
    """Find the chunks that best answer QUERY."""
    embedding = _read_vector(vector) if vector else None
    asked = embedding if query is None else query
    if asked is None:
        raise click.UsageError("say what to search for: a QUERY, or --vector FILE")
    with settings.reading(encode=vector is None) as memory, settings.stage("search"):
        hits = memory.search(
            asked,
            k=k,
            embedding=None if query is None else embedding,
            beam_width=beam_width,
            exact=exact,
            mode=mode,  # type: ignore[arg-type]
            namespace=settings.namespace,
            prefix=prefix,
            filter=condition,
            exclude_labels=exclude_labels,
            unique_documents=documents,
        )
        settings.timings |= {f"  {name}": seconds for name, seconds in hits.statistics.timings.items()}
        missing = not hits and _is_missing(memory, settings, prefix=prefix)
    if missing:
        note(_no_namespace(settings))
    lines = [line for rank, hit in enumerate(hits, 1) for line in hit_lines(rank, hit, path=show_path)]
    emit(settings, {"query": query, "hits": [hit.to_dict() for hit in hits]}, lines or ["nothing found"])


@click.command("list")
@click.option("--prefix", is_flag=True, help="List the namespaces below too.")
@click.option("--label", help="Only documents with this label.")
@click.option("--masked", is_flag=True, help="Only documents that are masked.")
@click.option("-n", "--limit", metavar="N", type=click.IntRange(min=1), help="At most this many.")
@filter_option
@namespace_option
@shared_options
def list_documents(
    settings: Settings,
    prefix: bool,
    label: str | None,
    masked: bool,
    limit: int | None,
    condition: dict[str, Any] | None,
) -> None:
    """List documents with their labels and masks."""
    found = []
    with settings.reading() as memory, settings.stage("list"):
        for document in memory.documents(namespace=settings.namespace, prefix=prefix, filter=condition):
            if (label is None or label in document.labels) and (document.masks or not masked):
                found.append(_listed(document))
            if len(found) == limit:
                break
        missing = not found and _is_missing(memory, settings, prefix=prefix)
    if missing:
        note(_no_namespace(settings))
    emit(settings, found, _list_lines(found, namespaces=prefix, cut=len(found) == limit))


@click.command()
@click.argument("document_id", metavar="ID")
@namespace_option
@shared_options
def show(settings: Settings, document_id: str) -> None:
    """Print one document with its metadata."""
    with settings.reading() as memory, settings.stage("read"):
        found = memory.get([document_id], namespace=settings.namespace)
    if not found:
        where = namespace_name(settings.namespace)
        raise NotFoundError(
            f"no document {document_id!r} in namespace {where}; `mllm list --prefix` shows all"
        )
    document = found[0]
    emit(settings, document.to_dict(), [*fields(_description(document)), "", printable(document.text)])


def _no_namespace(settings: Settings) -> str:
    return f"(there is no namespace {namespace_name(settings.namespace)}; `mllm stats` shows all)"


def _is_missing(memory: MemoryIndex, settings: Settings, *, prefix: bool) -> bool:
    """Whether nothing was ever written into the namespace, which is no mistake for the root."""
    found = memory.namespaces(settings.namespace)
    return bool(settings.namespace) and not (found if prefix else settings.namespace in found)


def _read_vector(path: Path) -> list[float]:
    try:
        vector = json.loads(path.read_bytes())
    except ValueError as error:
        raise InvalidInputError(f"{path}: not JSON ({error}); expected a list of numbers") from error
    if not isinstance(vector, list) or not all(isinstance(value, int | float) for value in vector):
        raise InvalidInputError(f"{path}: expected a list of numbers")
    return vector


def _listed(document: StoredDocument) -> dict[str, Any]:
    """A document without its text."""
    described = document.to_dict()
    described["characters"] = len(described.pop("text"))
    return described | {"begins": excerpt(document.text, 40)}


def _list_lines(found: list[dict[str, Any]], *, namespaces: bool, cut: bool) -> list[str]:
    header = ["id", "chunks", "characters", "labels", "masked by", "begins"]
    rows = [
        [
            printable(one["id"]),
            one["chunks"],
            one["characters"],
            printable(", ".join(one["labels"])),
            printable(", ".join(mask or "yes" for mask in one["masks"])),
            one["begins"],
        ]
        for one in found
    ]
    if namespaces:
        header.insert(0, "namespace")
        rows = [[namespace_name(one["namespace"]), *row] for one, row in zip(found, rows, strict=True)]
    total = f"{'the first ' if cut else ''}{plural(len(found), 'document')}"
    return [*table(header, rows), "", total] if found else [total]


def _description(document: StoredDocument) -> list[tuple[str, str]]:
    pairs = [
        ("id", printable(document.id)),
        ("namespace", namespace_name(document.namespace)),
        ("chunks", f"{document.chunks:,}"),
        ("labels", printable(", ".join(document.labels))),
        ("masked by", printable(", ".join(mask or "yes" for mask in document.masks))),
    ]
    pairs += [
        (name, excerpt(json.dumps(value, ensure_ascii=False))) for name, value in document.metadata.items()
    ]
    return [(name, value) for name, value in pairs if value]


COMMANDS = (search, list_documents, show)
