"""What a path holds that can be imported, and who made its vectors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from mllm_plugin.errors import InvalidInputError, NotFoundError
from mllm_plugin.transfer.records import Record, vector_width


@dataclass(frozen=True, slots=True)
class Columns:
    """Where to look in a folder of another product; None lets the reader choose where that is unambiguous.

    Attributes:
        collection: Name of the Chroma collection or LanceDB table.
        id, text, vector: Names of LanceDB columns.
    """

    collection: str | None = None
    id: str | None = None
    text: str | None = None
    vector: str | None = None


@dataclass
class Source:
    """Records to import, streamed.

    Attributes:
        records: Each may be taken once.
        dim: Dimension of the vectors, None when the first record has none.
        encoder: Fingerprint of the encoder that made them, where the records say so.
        hint: What the other product says of that encoder.
        skipped: Rows without a text; counted while the records are taken.
    """

    records: Iterator[Record]
    dim: int | None = None
    encoder: str | None = None
    hint: str = ""
    skipped: list[str] = field(default_factory=list)

    def peek(self) -> Source:
        """Looks at the first record for its vectors; returns itself."""
        first = next(self.records, None)
        if first is not None:
            self.dim, self.encoder = vector_width(first), first.encoder
            self.records = chain([first], self.records)
        return self


def open_source(path: Path, columns: Columns = Columns()) -> Source:
    """Opens a JSON lines file, a Chroma folder or a LanceDB folder.

    Raises:
        NotFoundError: There is nothing at the path, or no such collection or column.
        InvalidInputError: It is neither of these, or the choice is ambiguous.
        MissingDependencyError: Its client library is not installed.
    """
    if not path.exists():
        raise NotFoundError(f"no file or folder {path}; check the path")
    if not path.is_dir():
        from mllm_plugin.transfer.jsonl import read_jsonl

        return Source(read_jsonl(path)).peek()
    if (path / "chroma.sqlite3").is_file():
        from mllm_plugin.transfer.chroma import read_chroma

        return read_chroma(path, columns).peek()
    if any(path.glob("*.lance")):
        from mllm_plugin.transfer.lance import read_lance

        return read_lance(path, columns).peek()
    raise InvalidInputError(
        f"{path} holds neither a Chroma database (chroma.sqlite3) nor LanceDB tables (*.lance); to read "
        f"documents from a folder use: mllm index {path}"
    )


def choose(kind: str, names: list[str], wanted: str | None, option: str) -> str:
    """Returns the wanted name, or the only one.

    Raises:
        NotFoundError: It is not among the names.
        InvalidInputError: There is not exactly one and none was named.
    """
    if wanted is not None:
        if wanted not in names:
            raise NotFoundError(f"no {kind} {wanted!r}; there are: {', '.join(names) or 'none'}")
        return wanted
    if len(names) != 1:
        raise InvalidInputError(f"name one {kind} with {option}; there are: {', '.join(names) or 'none'}")
    return names[0]
