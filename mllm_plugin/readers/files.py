"""Which files there are to read, and what they are called in the memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from mllm_plugin.errors import NotFoundError
from mllm_plugin.types import Document

Kind = Literal["text", "markdown", "restructuredtext", "html", "pdf"]

_KINDS: dict[str, Kind] = {
    ".txt": "text",
    ".text": "text",
    ".md": "markdown",
    ".markdown": "markdown",
    ".rst": "restructuredtext",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".pdf": "pdf",
}


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file below the root that the user named."""

    root: Path
    path: Path
    kind: Kind

    @property
    def document_id(self) -> str:
        """The path relative to the root, with forward slashes: the same at every run."""
        return self.path.relative_to(self.root).as_posix()

    def metadata(self) -> dict[str, Any]:
        """Path, root, type, size in bytes and time of the last change (UTC, ISO 8601) of the file.

        Raises:
            OSError: The file is gone or may not be looked at.
        """
        status = self.path.stat()
        modified = datetime.fromtimestamp(status.st_mtime, timezone.utc)
        return {
            "path": str(self.path),
            "root": str(self.root),
            "type": self.kind,
            "size": status.st_size,
            "modified": modified.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        }

    def document(self, text: str, metadata: dict[str, Any], labels: Iterable[str] = ()) -> Document:
        """Returns the file's document."""
        return Document(id=self.document_id, text=text, metadata=metadata, labels=tuple(labels))


def find_files(
    path: Path, patterns: Sequence[str] = (), leave_out: Path | None = None
) -> Iterator[SourceFile]:
    """Walks a folder, or takes one file, in sorted order.

    Hidden files and folders are left out, and so are files whose ending no reader knows; a file named
    directly is always taken, as text when its ending says nothing.

    Args:
        path: A file or a folder.
        patterns: Shell patterns such as `*.py`; only files whose name matches one are taken, as text when
            their ending says nothing.
        leave_out: A folder that is not walked (the memory itself).

    Raises:
        NotFoundError: There is no such file or folder.
    """
    path = path.resolve()
    if path.is_dir():
        excluded = leave_out.resolve() if leave_out else None
        yield from _walk(path, patterns, excluded)
    elif path.exists():
        yield SourceFile(path.parent, path, _KINDS.get(path.suffix.lower(), "text"))
    else:
        raise NotFoundError(f"no file or folder {path}; check the path")


def _walk(root: Path, patterns: Sequence[str], excluded: Path | None) -> Iterator[SourceFile]:
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and here / name != excluded)
        for name in sorted(names):
            path = here / name
            if (kind := _kind(name, patterns)) and path.is_file():
                yield SourceFile(root, path, kind)


def _kind(name: str, patterns: Sequence[str]) -> Kind | None:
    if name.startswith("."):
        return None
    kind = _KINDS.get(Path(name).suffix.lower())
    if not patterns:
        return kind
    return (kind or "text") if any(fnmatch(name, pattern) for pattern in patterns) else None
