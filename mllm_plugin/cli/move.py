"""`mllm import`, `export`, `reembed`: moving in, out, and to another encoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from mllm_plugin.bulk.reembedding import reembed
from mllm_plugin.cli.output import emit, note, plural
from mllm_plugin.cli.settings import (
    Settings,
    UserPath,
    check_folder,
    encoder_option,
    namespace_option,
    shared_options,
)
from mllm_plugin.cli.terminal import bar
from mllm_plugin.encoders import VectorsOnly
from mllm_plugin.errors import DimensionMismatchError, EncoderMismatchError
from mllm_plugin.memory import MemoryIndex
from mllm_plugin.transfer import Columns, Source, open_source, placed, write_jsonl


@click.command("import")
@click.argument("path", type=UserPath())
@click.option("--collection", help="Chroma collection or LanceDB table.")
@click.option("--id-column", help="LanceDB column of the ids.")
@click.option("--text-column", help="LanceDB column of the texts.")
@click.option("--vector-column", help="LanceDB column of the vectors.")
@click.option(
    "--fingerprint", help="Names the encoder of the vectors where --encoder cannot load it (an API)."
)
@namespace_option
@encoder_option
@shared_options
def import_(
    settings: Settings,
    path: Path,
    collection: str | None,
    id_column: str | None,
    text_column: str | None,
    vector_column: str | None,
    fingerprint: str | None,
) -> None:
    """Import JSON lines (.jsonl, .jsonl.gz), a Chroma folder or a LanceDB folder.

    A line is an object with `id` and `text`, and perhaps `metadata`, `labels`, `namespace`, `embedding`; what
    `mllm export` writes is read back with masks and vectors. Vectors are taken as they are: texts that have
    one are not encoded again. --encoder says which model made the vectors of others.
    """
    source = open_source(path, Columns(collection, id_column, text_column, vector_column))
    with _target(settings, source, fingerprint) as (memory, encoder):
        records = bar(source.records, "documents", shown=settings.progress)
        with settings.stage("import"):
            report = memory.import_records(placed(records, settings.namespace, encoder))
    counts = {name: value for name, value in report.to_dict().items() if isinstance(value, int)}
    counts |= {"documents": len(report.ids), "without_text": len(source.skipped)}
    emit(settings, {**counts, "reason": report.reason}, _import_lines(counts))
    if report.reason:
        note(report.reason)


@click.command()
@click.argument("file", type=UserPath(dir_okay=False))
@click.option("--vectors", is_flag=True, help="Write the vectors too, so that importing needs no encoder.")
@namespace_option
@shared_options
def export(settings: Settings, file: Path, vectors: bool) -> None:
    """Write the documents of a namespace and those below as JSON lines; gzipped when FILE ends in .gz."""
    check_folder(file)
    with settings.reading() as memory, settings.stage("export"):
        records = memory.export(namespace=settings.namespace, prefix=True, vectors=vectors)
        count = write_jsonl(file, bar(records, "documents", shown=settings.progress))
    what = f"{plural(count, 'document')} written to {file}{' with vectors' if vectors else ''}"
    emit(settings, {"file": str(file), "documents": count, "vectors": vectors}, [what])


@click.command("reembed")
@click.argument("target", type=UserPath(file_okay=False))
@encoder_option
@shared_options
def reembed_(settings: Settings, target: Path) -> None:
    """Copy the memory into the folder TARGET with another --encoder; the old one stays as it is.

    Every text is cut and embedded anew; metadata, labels, masks and namespaces are kept. Interrupted, the
    same command goes on where it was. Put the new folder in the old one's place when you are content with it.
    """
    with settings.reading() as memory:
        encoder = settings.load_encoder(settings.encoder)
        with settings.stage("embed and write"):
            report = reembed(memory, target, encoder, progress=settings.progress)
    with MemoryIndex.open(target, encoder=None) as copy:
        count = copy.stats().documents
    done = f"{plural(count, 'document')} in {target}, {plural(report.encoded, 'text')} embedded"
    found = {"memory": str(target), "encoder": encoder.fingerprint, "documents": count, **report.to_dict()}
    emit(settings, found, [done])


@contextmanager
def _target(
    settings: Settings, source: Source, fingerprint: str | None
) -> Iterator[tuple[MemoryIndex, str | None]]:
    """The memory to import into, and the fingerprint of vectors that do not say who made them."""
    encoder = _encoder(settings, source, fingerprint)
    opened = settings.editing() if encoder is None else settings.growing(encoder)
    with opened as memory:
        known = fingerprint is not None or settings.encoder_named
        if encoder is None:
            _refuse_other_encoder(source, memory)
        yield memory, memory.encoder.fingerprint if known else None


def _encoder(settings: Settings, source: Source, fingerprint: str | None) -> Any:
    """What to open the memory with; None when it is there and nothing needs to be encoded."""
    if source.dim is None:
        return settings.encoder
    if fingerprint is not None:
        return VectorsOnly(source.dim, fingerprint)
    if settings.encoder_named:
        return _of_width(settings.load_encoder(settings.encoder), source.dim)
    if source.encoder is None:
        hint = f" ({source.hint})" if source.hint else ""
        raise click.UsageError(
            f"which encoder made these vectors of {source.dim} dimensions{hint}? Name it with --encoder "
            f"NAME_OR_PATH; or, if it cannot be loaded here, give it a --fingerprint of your own"
        )
    return None if settings.exists() else VectorsOnly(source.dim, source.encoder)


def _of_width(encoder: Any, dim: int) -> Any:
    if encoder.dim != dim:
        raise DimensionMismatchError(
            f"the vectors have {dim} dimensions, the encoder {encoder.dim}; name the encoder that made them"
        )
    return encoder


def _refuse_other_encoder(source: Source, memory: MemoryIndex) -> None:
    expected = memory.encoder.fingerprint
    if source.encoder != expected:
        raise EncoderMismatchError(
            f"the vectors are of encoder {source.encoder!r}, those of {memory.path} of {expected!r}; pass "
            f"--encoder to embed the texts anew, or import into another --memory"
        )


def _import_lines(counts: dict[str, Any]) -> Iterator[str]:
    fates = ", ".join(
        f"{counts[name]:,} {name}" for name in ("added", "updated", "unchanged") if counts[name]
    )
    yield f"{plural(counts['documents'], 'document')}: {fates or 'nothing to do'}"
    yield f"{plural(counts['chunks'], 'chunk')} written, {plural(counts['encoded'], 'text')} encoded"
    if counts["without_text"]:
        yield f"{plural(counts['without_text'], 'row')} without a text left out"


COMMANDS = (import_, export, reembed_)
