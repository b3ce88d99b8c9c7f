"""`mllm stats`, `verify`, `compact`, `backup`, `restore`, `repair`: looking after a memory."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import click

from mllm_plugin.bulk.repairing import repair
from mllm_plugin.cli.edit import EXIT_NEEDS_CARE
from mllm_plugin.cli.output import emit, fields, namespace_name, plural, size, table
from mllm_plugin.cli.settings import Settings, UserPath, check_folder, encoder_option, shared_options
from mllm_plugin.errors import DamagedStoreError, EncoderMismatchError, InvalidInputError, NotFoundError
from mllm_plugin.memory import MemoryIndex
from mllm_plugin.reports import NamespaceStats, RepairReport, Stats, VerifyReport
from mllm_plugin.store.database import FILE_NAME
from mllm_plugin.store.filesystem import draft_folder, swap_folders, sync

_SHOWN = 10


@click.command()
@shared_options
def stats(settings: Settings) -> None:
    """Show counts, sizes and the levels of every tree."""
    with settings.reading() as memory, settings.stage("count"):
        found = memory.stats()
    emit(settings, found.to_dict(), _stats_lines(found))


@click.command()
@shared_options
@click.pass_context
def verify(ctx: click.Context, settings: Settings) -> None:
    """Check every invariant of the memory; exit code 3 when one does not hold."""
    with settings.stage("verify"):
        report = _verify(settings)
    checked = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in report.checked.items())
    verdict = "all well" if report.ok else plural(len(report.problems), "problem")
    lines = [*report.problems, f"checked {checked or 'an empty memory'}: {verdict}"]
    emit(settings, report.to_dict(), lines)
    if not report.ok:
        ctx.exit(EXIT_NEEDS_CARE)


def _verify(settings: Settings) -> VerifyReport:
    """Checks a memory; one that cannot even be opened has that as its problem."""
    try:
        with settings.reading() as memory:
            return memory.verify()
    except DamagedStoreError as error:
        return VerifyReport(False, (str(error),), {})


@click.command()
@click.option("--regroup", is_flag=True, help="Also group every tree anew.")
@shared_options
def compact(settings: Settings, regroup: bool) -> None:
    """Give free space back to the disk."""
    with settings.editing() as memory, settings.stage("compact"):
        report = memory.compact(regroup=regroup)
    before, after = size(report.bytes_before), size(report.bytes_after)
    line = f"{before} before, {after} after; {plural(report.trees_rebuilt, 'tree')} regrouped"
    emit(settings, report.to_dict(), [line])


@click.command()
@click.argument("file", type=UserPath(dir_okay=False))
@shared_options
def backup(settings: Settings, file: Path) -> None:
    """Copy the memory into one FILE, while others may read and write."""
    if file.exists():
        raise InvalidInputError(f"{file} exists; a backup never overwrites. Choose another name")
    check_folder(file)
    with settings.reading() as memory, settings.stage("backup"):
        memory.backup(file)
    written = file.stat().st_size
    emit(settings, {"file": str(file), "bytes": written}, [f"{size(written)} written to {file}"])


@click.command()
@click.argument("file", type=UserPath(dir_okay=False))
@click.option("--force", is_flag=True, help="Replace the memory that is there.")
@shared_options
def restore(settings: Settings, file: Path, force: bool) -> None:
    """Make a memory from a backup FILE, verified before it takes its place."""
    if not file.is_file():
        raise NotFoundError(f"no file {file}; check the path")
    if settings.memory.exists() and not settings.memory.is_dir():
        raise InvalidInputError(f"{settings.memory} is a file; a memory is a folder. Choose another --memory")
    if settings.exists() and not force:
        raise InvalidInputError(
            f"there is a memory at {settings.memory}; replace it with --force, or choose another --memory"
        )
    if settings.memory.exists() and not settings.exists() and any(settings.memory.iterdir()):
        raise InvalidInputError(f"{settings.memory} holds other files; choose another --memory")
    with settings.stage("restore"):
        documents = _restore(file, settings.memory.resolve())
    report = {"memory": str(settings.memory), "documents": documents}
    emit(
        settings,
        report,
        [f"{settings.memory} restored from {file}: {plural(documents, 'document')}, verified"],
    )


def _restore(file: Path, target: Path) -> int:
    """Builds the new memory beside the old, verifies it, and only then swaps; the old one goes last."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with draft_folder(target) as work:
        fresh = work / "new"
        fresh.mkdir()
        _copy(file, fresh / FILE_NAME)
        documents = _verified(fresh, file)
        old = target.with_name(f"{target.name}-before-restore-{uuid.uuid4().hex[:8]}")
        swap_folders(fresh, target, old)
    shutil.rmtree(old, ignore_errors=True)
    return documents


def _copy(source: Path, target: Path) -> None:
    """Copies a file and waits until the disk has it."""
    shutil.copyfile(source, target)
    sync(target)


def _verified(folder: Path, file: Path) -> int:
    """Returns the number of documents of a memory without a flaw."""
    with MemoryIndex.open(folder, encoder=None) as memory:
        report = memory.verify()
        if not report.ok:
            raise DamagedStoreError(
                f"{file} does not verify ({report.problems[0]}); nothing was changed. Use another backup"
            )
        return memory.stats().documents


@click.command("repair")
@click.argument("damaged", type=UserPath(file_okay=False), required=False)
@click.option("--to", "target", type=UserPath(), help="Folder of the new memory (default DAMAGED-repaired).")
@click.option(
    "--in-place",
    is_flag=True,
    help="Put the new memory in the old one's place, which becomes DAMAGED-damaged.",
)
@encoder_option
@shared_options
def repair_(settings: Settings, damaged: Path | None, target: Path | None, in_place: bool) -> None:
    """Make a new memory of every document that can be read of the memory DAMAGED (default: --memory).

    The damaged one stays as it is. Texts whose vectors are lost are embedded again, by the memory's own
    encoder. Exit code 3 when documents are lost.
    """
    source = (damaged or settings.memory).resolve()
    if in_place and target is not None:
        raise click.UsageError("give --to or --in-place, not both")
    fresh = target or source.with_name(f"{source.name}-repaired")
    encoder = settings.load_encoder(settings.encoder)
    with settings.stage("repair"):
        try:
            report = repair(source, fresh, encoder=encoder, progress=settings.progress)
        except EncoderMismatchError:
            if settings.encoder_named:
                raise
            report = repair(source, fresh, progress=settings.progress)
    if in_place:
        old = source.with_name(f"{source.name}-damaged")
        if old.exists():
            raise InvalidInputError(
                f"{old} exists; the new memory stays in {fresh}. Swap the folders by hand"
            )
        swap_folders(fresh, source, old)
        fresh = source
    emit(settings, {"memory": str(fresh), **report.to_dict()}, _repair_lines(report, fresh))
    if report.lost:
        click.get_current_context().exit(EXIT_NEEDS_CARE)


def _repair_lines(report: RepairReport, folder: Path) -> Iterator[str]:
    for namespace, name in report.lost:
        yield f"lost: {name}" + (f" in {namespace_name(namespace)}" if namespace else "")
    yield from report.notes
    done = f"{plural(report.documents, 'document')} in {folder}, {plural(report.encoded, 'text')} embedded"
    yield f"{done}; {plural(report.pages, 'page')} damaged, {plural(len(report.lost), 'document')} lost"


def _on_disk(found: Stats) -> str:
    caches = f"{size(found.file_bytes)}, embedding cache {size(found.cache_bytes)}"
    return f"{caches}, search image {size(found.image_bytes)}" if found.image_bytes else caches


def _stats_lines(found: Stats) -> Iterator[str]:
    masked = f", {found.masked_documents:,} masked" if found.masked_documents else ""
    yield from fields(
        [
            ("documents", f"{found.documents:,}{masked}"),
            ("chunks", f"{found.chunks:,}, {found.live_chunks:,} live"),
            ("encoder", f"{found.encoder} ({found.dim} dimensions)"),
            ("on disk", _on_disk(found)),
            ("per chunk", f"{size(int(found.bytes_per_chunk_beyond_text))} beyond its text"),
            ("namespaces", f"{len(found.namespaces):,}"),
        ]
    )
    for namespace in found.namespaces[:_SHOWN]:
        yield ""
        yield from _namespace_lines(namespace)
    if len(found.namespaces) > _SHOWN:
        yield f"\n… and {len(found.namespaces) - _SHOWN:,} more; --json lists all"


def _namespace_lines(found: NamespaceStats) -> Iterator[str]:
    counts = f"{plural(found.documents, 'document')}, {plural(found.chunks, 'chunk')}"
    yield f"{namespace_name(found.namespace)}: {counts}"
    header = ["level", "embeddings", "groups", "mean group", "largest group"]
    rows = [
        (level.level, level.embeddings, level.groups, f"{level.mean_group:.1f}", level.max_group)
        for level in reversed(found.levels)
    ]
    yield from table(header, rows)


COMMANDS = (stats, verify, compact, backup, restore, repair_)
