"""`mllm index`: files into the memory."""

from __future__ import annotations

import codecs
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import click

from mllm_plugin.builder import IndexBuilder
from mllm_plugin.cli.output import emit, note, plural
from mllm_plugin.cli.settings import Settings, UserPath, encoder_option, namespace_option, shared_options
from mllm_plugin.cli.terminal import bar, printable
from mllm_plugin.errors import InvalidDocumentError, InvalidInputError, NotFoundError
from mllm_plugin.memory import MemoryIndex
from mllm_plugin.readers import SourceFile, find_files, read_text
from mllm_plugin.types import Document, Namespace, StoredDocument

_BATCH = 64  # files looked up at once
_KEPT = 16  # files per transaction
_SHOWN = 20


def _known_encoding(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    try:
        return codecs.lookup(value).name if value else None
    except LookupError as error:
        raise click.BadParameter(f"{error}; examples: latin-1, cp1252, shift_jis") from error


@click.command(short_help="Put files and folders into the memory.")
@click.argument("paths", nargs=-1, required=True, metavar="PATH…", type=UserPath())
@click.option("--label", "labels", multiple=True, help="Label of the documents; may be given several times.")
@click.option(
    "--glob", "patterns", multiple=True, metavar="PATTERN", help="Only files like this, e.g. '*.py'."
)
@click.option("--prune", is_flag=True, help="Remove documents of these folders whose files are gone.")
@click.option("--encoding", callback=_known_encoding, help="Encoding of text files that are not UTF-8.")
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
    prune: bool,
    encoding: str | None,
    max_mb: float,
) -> None:
    """Index files and folders: text, Markdown, reStructuredText, HTML, PDF.

    A document's id is the file's path relative to the PATH given. Running it again reads only files that are
    new or changed, so an interrupted run goes on where it was. Files that cannot be read are skipped and
    listed.
    """
    logging.getLogger("pypdf").setLevel(logging.ERROR)
    started = time.perf_counter()
    with settings.stage("find files"):
        files = _files(paths, patterns, settings.memory)
    with settings.growing() as memory:
        reading = _Reading(memory, settings.namespace, labels, encoding, int(max_mb * (1 << 20)))
        counted = bar(None, "files", total=len(files), shown=settings.progress)
        with settings.stage("read, encode and write"), counted:
            built = _builder(memory, settings).build(reading.documents(files, counted.update))
        removed = _prune(memory, paths, settings.namespace) if prune else 0
    report = {
        "files": len(files),
        "added": built.added,
        "updated": built.updated,
        "unchanged": built.unchanged + reading.unchanged,
        "removed": removed,
        "skipped": reading.skipped,
        "chunks": built.chunks,
        "encoded": built.encoded,
        "seconds": round(time.perf_counter() - started, 3),
    }
    emit(settings, report, _summary(report, settings.memory))


def _builder(memory: MemoryIndex, settings: Settings) -> IndexBuilder:
    return IndexBuilder(memory, batch_size=_KEPT, progress=False, namespace=settings.namespace)


@dataclass
class _Reading:
    """Streams the documents that are new or changed, and notes what became of the other files."""

    memory: MemoryIndex
    namespace: Namespace
    labels: tuple[str, ...]
    encoding: str | None
    max_bytes: int
    unchanged: int = 0
    skipped: list[dict[str, str]] = field(default_factory=list)

    def documents(self, files: Any, begun: Callable[[], Any]) -> Iterator[Document]:
        stream = iter(files)
        while batch := list(islice(stream, _BATCH)):
            ids = [file.document_id for file in batch if _is_unicode(file.document_id)]
            stored = {document.id: document for document in self.memory.get(ids, namespace=self.namespace)}
            for file in batch:
                begun()
                try:
                    document = self._document(file, stored.get(file.document_id))
                except (InvalidDocumentError, OSError) as error:
                    self._skip(file, str(error))
                    continue
                if document is None:
                    self.unchanged += 1
                else:
                    yield document

    def _document(self, file: SourceFile, stored: StoredDocument | None) -> Document | None:
        """The file's document, None when the stored one is the same."""
        if not _is_unicode(str(file.path)):
            raise InvalidDocumentError("its name is no valid Unicode; rename it")
        metadata = file.metadata()
        labels = self.labels or (stored.labels if stored else ())
        if stored:
            _refuse_other_root(file, stored)
            if stored.metadata == metadata and set(stored.labels) == set(labels):
                return None
        text = read_text(file, encoding=self.encoding, max_bytes=self.max_bytes)
        return file.document(text, metadata, labels)

    def _skip(self, file: SourceFile, reason: str) -> None:
        name = str(file.path).encode("utf-8", "replace").decode("utf-8")
        self.skipped.append({"path": name, "reason": reason})


def _files(paths: Sequence[Path], patterns: Sequence[str], memory: Path) -> list[SourceFile]:
    """All files of all paths; the same file twice counts once.

    Raises:
        InvalidInputError: Two different files would be the same document.
        NotFoundError: A path does not exist, or no file is found.
    """
    found: dict[str, SourceFile] = {}
    for path in paths:
        for file in find_files(path, patterns, leave_out=memory):
            other = found.setdefault(file.document_id, file)
            if other.path != file.path:
                raise InvalidInputError(
                    f"{other.path} and {file.path} would both be document {file.document_id!r}; index a "
                    f"folder above both, or use one --namespace for each"
                )
    if not found:
        raise NotFoundError(
            f"no readable file in {', '.join(map(str, paths))}; known endings are .txt .md .rst .html .pdf, "
            f"others are read as text with --glob, e.g. --glob '*.py'"
        )
    return list(found.values())


def _refuse_other_root(file: SourceFile, stored: StoredDocument) -> None:
    """Keeps a document of another folder, unless that folder has lost the file (it was moved)."""
    root = stored.metadata.get("root")
    if root != str(file.root) and (root is None or (Path(root) / stored.id).exists()):
        owner = f"was indexed from {root}" if root else "is there already and came from no file"
        raise InvalidDocumentError(f"document {stored.id!r} {owner}; use another --namespace")


def _prune(memory: MemoryIndex, paths: Sequence[Path], namespace: Namespace) -> int:
    gone = []
    for root in (path.resolve() for path in paths if path.is_dir()):
        written = memory.documents(namespace=namespace, filter={"root": str(root)})
        gone += [document.id for document in written if not (root / document.id).exists()]
    return memory.remove(gone, namespace=namespace).documents if gone else 0


def _is_unicode(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _summary(report: dict[str, Any], memory: Path) -> Iterator[str]:
    skipped = report["skipped"]
    for one in skipped[:_SHOWN]:
        note(f"skipped {printable(one['path'])}: {one['reason']}")
    if len(skipped) > _SHOWN:
        note(f"… and {len(skipped) - _SHOWN} more; --json lists all")
    counts = [
        f"{report[name]:,} {name}" for name in ("added", "updated", "unchanged", "removed") if report[name]
    ]
    if skipped:
        counts.append(f"{len(skipped):,} skipped")
    yield f"{plural(report['files'], 'file')}: {', '.join(counts)}"
    yield (
        f"{plural(report['chunks'], 'chunk')} written, {plural(report['encoded'], 'text')} encoded in "
        f"{report['seconds']:.1f} s; the memory is {memory}"
    )


COMMANDS = (index,)
