"""One pass of `mllm index`: what is on disk becomes what is found."""

from __future__ import annotations

import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from mllm_plugin.builder import IndexBuilder
from mllm_plugin.cli.terminal import bar
from mllm_plugin.errors import InvalidDocumentError, InvalidInputError, MissingDependencyError, NotFoundError
from mllm_plugin.memory import MemoryIndex
from mllm_plugin.readers import FileFinder, SourceFile, read_file
from mllm_plugin.types import Document, Namespace, StoredDocument

_BATCH = 64  # files looked up at once
_KEPT = 16  # files per transaction


@dataclass(frozen=True)
class Wishes:
    """What the user asked of `mllm index`.

    Attributes:
        paths: Files and folders.
        labels: Labels of the documents; none keeps those that are there.
        encoding: Of text that is not UTF-8.
        max_bytes: Largest file.
        prune: Remove documents whose files are gone.
        force: Read files again that are unchanged.
        selection: Arguments of `FileFinder`.
    """

    paths: tuple[Path, ...]
    labels: tuple[str, ...] = ()
    encoding: str | None = None
    max_bytes: int = 100 << 20
    prune: bool = False
    force: bool = False
    selection: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """The files of a pass.

    Attributes:
        files: What can be read.
        missing: Paths where there is nothing.
        finder: What it left out, and why.
    """

    files: list[SourceFile]
    missing: list[Path]
    finder: FileFinder


def find(wishes: Wishes) -> Found:
    """All files of all paths; the same file twice counts once.

    Raises:
        InvalidInputError: Two different files would be the same document.
        NotFoundError: A path does not exist, and nothing is to be pruned.
    """
    finder = FileFinder(**wishes.selection)
    files: dict[str, SourceFile] = {}
    missing = []
    for path in wishes.paths:
        if wishes.prune and _is_gone(path.resolve(), kinds=(stat.S_ISREG, stat.S_ISDIR)):
            missing.append(path.resolve())
            continue
        for file in finder.find(path):
            other = files.setdefault(file.document_id, file)
            if other.path != file.path:
                raise InvalidInputError(
                    f"{other.path} and {file.path} would both be document {file.document_id!r}; index a "
                    f"folder above both, or use one --namespace for each"
                )
    return Found(list(files.values()), missing, finder)


class IndexPass:
    """Reads what is new or changed into a memory, and notes what became of every file.

    Args:
        memory: Where to.
        namespace: Where in it.
        wishes: What the user asked for.
        progress: Whether to show a bar.
    """

    def __init__(
        self, memory: MemoryIndex, namespace: Namespace, wishes: Wishes, *, progress: bool = False
    ) -> None:
        self._memory, self._namespace, self._wishes, self._progress = memory, namespace, wishes, progress
        self._unchanged = 0
        self._skipped: list[dict[str, str]] = []
        self._notes: list[dict[str, str]] = []
        self._gone: dict[str, str] = {}
        self._moved: dict[Path, Path] = {}

    def refuse_unknown(self, missing: Sequence[Path]) -> None:
        """Refuses paths that are neither on disk nor in the memory.

        Raises:
            NotFoundError: There is such a path.
        """
        for path in missing:
            if next(self._written_below(path), None) is None:
                raise NotFoundError(f"no file or folder {path}, and no document of it; check the path")

    def run(self, found: Found) -> dict[str, Any]:
        """Returns the report."""
        started = time.perf_counter()
        for path, reason in found.finder.left_out:
            self._skip(path, reason)
        builder = IndexBuilder(self._memory, batch_size=_KEPT, progress=False, namespace=self._namespace)
        with bar(None, "files", total=len(found.files), shown=self._progress) as counted:
            built = builder.build(self._documents(found.files, counted.update))
        self._take_over()
        if self._wishes.prune:
            self._prune()
        removed, reason = self._remove()
        reason = "; ".join(dict.fromkeys(filter(None, (built.reason, reason))))
        return {
            "files": len(found.files) + len(found.finder.left_out),
            "added": built.added,
            "updated": built.updated,
            "unchanged": built.unchanged + self._unchanged,
            "removed": len(removed),
            "skipped": self._skipped,
            "notes": self._notes,
            "removed_documents": removed,
            "reason": reason,
            "hidden": found.finder.hidden,
            "ignored": found.finder.ignored,
            "chunks": built.chunks,
            "encoded": built.encoded,
            "seconds": round(time.perf_counter() - started, 3),
        }

    # -- reading
    # ----------------------------------------------------------------------------------------------------

    def _documents(self, files: Iterable[SourceFile], begun: Callable[[], Any]) -> Iterator[Document]:
        stream = iter(files)
        while batch := list(islice(stream, _BATCH)):
            ids = [file.document_id for file in batch if _is_unicode(file.document_id)]
            stored = {document.id: document for document in self._memory.get(ids, namespace=self._namespace)}
            for file in batch:
                begun()
                document = self._document(file, stored.get(file.document_id))
                if document is not None:
                    yield document

    def _document(self, file: SourceFile, stored: StoredDocument | None) -> Document | None:
        """The file's document; None when the stored one is the same, or there is nothing to store."""
        metadata: dict[str, Any] | None = None
        try:
            if not _is_unicode(str(file.path)):
                raise InvalidDocumentError("its name is no valid Unicode; rename it")
            metadata = file.metadata()
            if stored:
                self._check_root(file, stored)
            if stored and self._is_current(stored, metadata):
                self._unchanged += 1
                return None
            return self._read(file, metadata, stored)
        except (InvalidDocumentError, MissingDependencyError, OSError) as error:
            self._fail(file, error, stored, metadata)
            return None

    def _read(self, file: SourceFile, metadata: dict[str, Any], stored: StoredDocument | None) -> Document:
        found = read_file(file, encoding=self._wishes.encoding, max_bytes=self._wishes.max_bytes)
        self._notes += [{"path": _shown(file.path), "note": note} for note in found.notes]
        if found.encoding:
            metadata = {**metadata, "encoding": found.encoding}
        return file.document(found.text, metadata, self._labels(stored))

    def _labels(self, stored: StoredDocument | None) -> tuple[str, ...]:
        return self._wishes.labels or (stored.labels if stored else ())

    def _is_current(self, stored: StoredDocument, metadata: dict[str, Any]) -> bool:
        """Whether reading the file again would change nothing."""
        kept = dict(stored.metadata)
        encoding = kept.pop("encoding", None)
        same_encoding = encoding is None or self._wishes.encoding in (None, encoding)
        same_labels = set(stored.labels) == set(self._labels(stored))
        return kept == metadata and same_encoding and same_labels and not self._wishes.force

    def _check_root(self, file: SourceFile, stored: StoredDocument) -> None:
        """Keeps a document of another folder, unless that folder has lost the file (it was moved)."""
        root = stored.metadata.get("root")
        if root == str(file.root):
            return
        try:
            if root is not None and _is_gone(Path(root) / stored.id):
                self._note_move(Path(root), file.root)
                return
        except OSError:
            pass  # it may be there
        owner = f"was indexed from {root}" if root else "is there already and came from no file"
        raise _OwnedError(f"document {stored.id!r} {owner}; use another --namespace")

    def _note_move(self, old: Path, new: Path) -> None:
        if _is_gone(old, kinds=(stat.S_ISDIR,)):
            self._moved[old] = new

    def _fail(
        self,
        file: SourceFile,
        error: Exception,
        stored: StoredDocument | None,
        metadata: dict[str, Any] | None,
    ) -> None:
        """Skips a file; its old text goes where it is known to be no longer in the file."""
        unread = isinstance(error, OSError)
        reason = f"cannot be read: {error.strerror or error}" if unread else str(error)
        self._skip(file.path, reason)
        if stored is None or isinstance(error, _OwnedError):
            return
        changed = metadata is not None and any(
            stored.metadata.get(name) != metadata[name] for name in ("size", "modified")
        )
        outdated = changed and isinstance(error, InvalidDocumentError)
        if outdated or (self._wishes.prune and not isinstance(error, MissingDependencyError)):
            self._gone[stored.id] = f"the file has no text that can be read: {reason}"
        else:
            self._note(file.path, "the text that was read before is still found; --prune removes it")

    def _skip(self, path: Path, reason: str) -> None:
        self._skipped.append({"path": _shown(path), "reason": reason})

    def _note(self, path: Path, note: str) -> None:
        self._notes.append({"path": _shown(path), "note": note})

    # -- what is gone
    # ----------------------------------------------------------------------------------------------------

    def _take_over(self) -> None:
        """Documents of a folder that was renamed belong to its new name, those without a file too."""
        for old, new in self._moved.items():
            left = self._memory.documents(namespace=self._namespace, filter={"root": str(old)})
            documents = [
                Document(
                    id=one.id,
                    text=one.text,
                    metadata={**one.metadata, "root": str(new), "path": str(new / one.id)},
                    labels=one.labels,
                )
                for one in left
            ]
            if documents:
                self._memory.add(documents, namespace=self._namespace)

    def _prune(self) -> None:
        for path in {path.resolve() for path in self._wishes.paths}:
            for document in self._written_below(path):
                self._check_gone(Path(document.metadata["root"]) / document.id, document.id)

    def _written_below(self, path: Path) -> Iterator[StoredDocument]:
        """Documents that were read from a file or a folder, or from a folder that it lies in."""
        roots = [str(folder) for folder in (path, *path.parents)]
        for document in self._memory.documents(namespace=self._namespace, filter={"root": {"$in": roots}}):
            file = Path(document.metadata["root"]) / document.id
            if file == path or path in file.parents:
                yield document

    def _check_gone(self, file: Path, document_id: str) -> None:
        try:
            if _is_gone(file):
                self._gone.setdefault(document_id, "the file is gone")
        except OSError as error:
            self._note(file, f"cannot be looked at ({error.strerror or error}); its text is still found")

    def _remove(self) -> tuple[list[dict[str, str]], str]:
        """What was removed, and why it is not erased yet."""
        if not self._gone:
            return [], ""
        report = self._memory.remove(list(self._gone), namespace=self._namespace)
        return [{"id": name, "reason": reason} for name, reason in self._gone.items()], report.reason


class _OwnedError(InvalidDocumentError):
    """The stored document of this id is another file's."""


def _is_gone(path: Path, kinds: Sequence[Any] = (stat.S_ISREG,)) -> bool:
    """Whether there is no such file any more.

    Raises:
        OSError: It cannot be told, for want of permission or because the disk fails.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return True
    return not any(is_kind(mode) for is_kind in kinds)


def _is_unicode(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _shown(path: Path) -> str:
    return str(path).encode("utf-8", "replace").decode("utf-8")
