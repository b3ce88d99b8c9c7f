"""Which files there are to read, and what they are called in the memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from mllm_plugin.errors import NotFoundError
from mllm_plugin.readers.ignore import IgnoreRules
from mllm_plugin.readers.kinds import READER_VERSIONS, Kind, kind_of, no_reader
from mllm_plugin.types import Document


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
        """Path, root, type, reader's version, size in bytes, time of the last change (UTC, ISO 8601).

        Raises:
            OSError: The file is gone or may not be looked at.
        """
        status = self.path.stat()
        modified = datetime.fromtimestamp(status.st_mtime, timezone.utc)
        return {
            "path": str(self.path),
            "root": str(self.root),
            "type": self.kind,
            "reader": READER_VERSIONS[self.kind],
            "size": status.st_size,
            "modified": modified.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        }

    def document(self, text: str, metadata: dict[str, Any], labels: Iterable[str] = ()) -> Document:
        """Returns the file's document."""
        return Document(id=self.document_id, text=text, metadata=metadata, labels=tuple(labels))


@dataclass
class FileFinder:
    """Walks folders in sorted order, and keeps account of what it leaves out.

    Hidden files and folders are left out, what `.gitignore` files name, and files whose ending no reader
    knows; a file named directly is always taken, as text when its ending says nothing.

    Args:
        patterns: Shell patterns such as `*.py`; only files whose name matches one are taken, as text when
            their ending says nothing.
        exclude: Patterns as in a `.gitignore`, relative to each root, of what is left out.
        gitignore: Whether `.gitignore` files count.
        leave_out: A folder that is not walked (the memory itself).

    Attributes:
        left_out: Files and folders that cannot be taken, with the reason.
        hidden: How many names that begin with a dot were met.
        ignored: How many files and folders were left out by a pattern.
    """

    patterns: Sequence[str] = ()
    exclude: Sequence[str] = ()
    gitignore: bool = True
    leave_out: Path | None = None
    left_out: list[tuple[Path, str]] = field(default_factory=list)
    hidden: int = 0
    ignored: int = 0

    def __post_init__(self) -> None:
        self.leave_out = self.leave_out.resolve() if self.leave_out else None

    def find(self, path: Path) -> Iterator[SourceFile]:
        """The files of a folder, or the one file.

        Raises:
            InvalidInputError: An exclusion is no pattern.
            NotFoundError: There is no such file or folder.
        """
        path = path.resolve()
        if path.is_dir():
            yield from self._walk(path, path, IgnoreRules.above(path, self.exclude, self.gitignore))
        elif path.exists():
            yield SourceFile(path.parent, path, kind_of(path) or "text")
        else:
            raise NotFoundError(f"no file or folder {path}; check the path")

    def _walk(self, root: Path, folder: Path, rules: IgnoreRules) -> Iterator[SourceFile]:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            self.left_out.append((folder, f"the folder cannot be read: {error.strerror or error}"))
            return
        rules = rules.below(folder)
        shown = [entry for entry in entries if self._is_shown(entry, rules)]
        for entry in (entry for entry in shown if not entry.is_dir(follow_symlinks=False)):
            if file := self._file(root, Path(entry.path)):
                yield file
        for entry in (entry for entry in shown if entry.is_dir(follow_symlinks=False)):
            yield from self._walk(root, Path(entry.path), rules)

    def _is_shown(self, entry: os.DirEntry[str], rules: IgnoreRules) -> bool:
        path = Path(entry.path)
        if path == self.leave_out:
            return False
        hidden = entry.name.startswith(".")
        ignored = not hidden and rules.leave_out(path, entry.is_dir())
        self.hidden += hidden
        self.ignored += ignored
        return not hidden and not ignored

    def _file(self, root: Path, path: Path) -> SourceFile | None:
        if self.patterns and not any(fnmatch(path.name, pattern) for pattern in self.patterns):
            return None
        kind = kind_of(path) or ("text" if self.patterns else None)
        if path.is_dir():
            reason = "a link to a folder; name that folder to index it"
        elif not path.is_file():
            reason = "a link to nothing" if path.is_symlink() else "no regular file"
        elif kind is None:
            reason = no_reader(path)
        else:
            return SourceFile(root, path, kind)
        self.left_out.append((path, reason))
        return None
