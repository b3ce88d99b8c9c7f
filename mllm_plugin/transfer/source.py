"""What can be imported, and who made its vectors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

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
