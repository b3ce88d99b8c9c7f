"""A LanceDB folder, read by LanceDB's own client."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

from mllm_plugin.errors import InvalidInputError, NotFoundError
from mllm_plugin.extras import needs
from mllm_plugin.transfer.records import Record, to_record
from mllm_plugin.transfer.source import Columns, Source, choose

_BATCH = 500
_ID = ("id", "_id", "doc_id")
_TEXT = ("text", "page_content", "content", "document")
_VECTOR = ("vector", "embedding")


def read_lance(folder: Path, columns: Columns) -> Source:
    """Streams a table: id, text and vector columns; the others become metadata.

    Raises:
        MissingDependencyError: lancedb is not installed.
        NotFoundError: There is no such table or column.
    """
    with needs("lancedb", "a LanceDB folder"):
        import lancedb  # pyright: ignore[reportMissingImports]
    names = sorted(path.stem for path in folder.glob("*.lance"))
    name = choose("LanceDB table", names, columns.collection, "--collection")
    table = lancedb.connect(str(folder)).open_table(name)
    found = list(table.schema.names)
    chosen = (
        _column(found, columns.id, _ID, "id"),
        _column(found, columns.text, _TEXT, "text"),
        _column(found, columns.vector, _VECTOR, "vector"),
    )
    source = Source(iter(()))
    source.records = _rows(table, chosen, source.skipped)
    return source


def _rows(table: Any, columns: tuple[str, str, str], skipped: list[str]) -> Iterator[Record]:
    for batch in table.search().to_batches(_BATCH):
        for row in batch.to_pylist():
            identifier, text, vector = (row.pop(name) for name in columns)
            if not isinstance(text, str) or not text.strip():
                skipped.append(str(identifier))
                continue
            metadata = row.pop("metadata", None)
            others = {name: _plain(value) for name, value in row.items()}
            nested = _plain(metadata) if isinstance(metadata, dict) else {}
            if metadata is not None and not isinstance(metadata, dict):
                others["metadata"] = _plain(metadata)
            item = {"id": identifier, "text": text, "metadata": others | nested}
            yield to_record(item, f"LanceDB row {identifier!r}", None if vector is None else list(vector))


def _column(names: Sequence[str], wanted: str | None, usual: Sequence[str], role: str) -> str:
    if wanted is not None:
        if wanted not in names:
            raise NotFoundError(f"no column {wanted!r}; there are: {', '.join(names)}")
        return wanted
    found = next((name for name in usual if name in names), None)
    if found is None:
        raise InvalidInputError(
            f"which column holds the {role}? Name it with --{role}-column; there are: {', '.join(names)}"
        )
    return found


def _plain(value: Any) -> Any:
    """The value as JSON has it."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return float(value) if isinstance(value, Decimal) else value
