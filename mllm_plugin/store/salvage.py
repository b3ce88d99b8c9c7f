"""What a damaged file still holds of its documents, each by itself."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import numpy as np
from numpy.typing import NDArray

from mllm_plugin.clock import FIRST, LAST
from mllm_plugin.errors import DamagedStoreError
from mllm_plugin.store.codec import children_of
from mllm_plugin.store.connections import decoding
from mllm_plugin.store.creation import prepare
from mllm_plugin.store.namespaces import NAME_SEPARATOR
from mllm_plugin.store.pages import Cell, Pages
from mllm_plugin.store.schema import migrate
from mllm_plugin.store.times import Times
from mllm_plugin.text.chunking import Span
from mllm_plugin.tree.node import EmbeddingChunk
from mllm_plugin.types import Namespace

_IDS_OF_DOCUMENTS = "sqlite_autoindex_documents_1"
_NAMES_OF_NAMESPACES = "sqlite_autoindex_namespaces_1"
_LABELS = {"labels": ("labels", "labels_by_name"), "masks": ("masks", "masks_by_label")}
_BLOCKS_HELD = 64


class SavedChunk(NamedTuple):
    """What is left of a chunk.

    Attributes:
        vector: Its embedding [dim]; None when it is lost.
        windows: Packed; None when it has none, or they are lost.
        given: Whether a caller gave the embedding.
        lost_windows: Whether it may have had windows that are lost.
    """

    span: Span
    vector: NDArray[np.float16] | None
    windows: bytes | None
    given: bool
    lost_windows: bool


class SavedDocument(NamedTuple):
    """A document and what is left of its chunks; `chunks` is None where some are lost."""

    namespace: Namespace
    id: str
    text: str
    metadata: dict[str, Any]
    labels: tuple[str, ...]
    masks: tuple[str, ...]
    split: bool
    chunks: list[SavedChunk] | None
    times: Times = Times()


class Salvage:
    """Reads around pages that do not check out.

    Args:
        path: A file that this process has not open in SQLite.

    Attributes:
        meta: Settings by key; what is lost is not there.
        dim: Width of the embeddings; None when the setting is lost.
        notes: What is lost beside documents, in words.
    """

    def __init__(self, path: Path) -> None:
        self.pages = Pages(path)
        try:
            with decoding(f"what is left of {path}"):
                self._look_around()
        except BaseException:
            self.pages.close()
            raise

    def _look_around(self) -> None:
        stored = self._stored_roots()
        self._roots = _roots_of_new_files() | stored
        if stored and "times" not in stored:  # of the first format
            del self._roots["times"]
        self.notes: list[str] = []
        self.meta: dict[str, Any] = {row[0]: row[1] for row in self._index("meta") if len(row) == 2}
        dim = self.meta.get("dim")
        self.dim = dim if isinstance(dim, int) and dim > 0 else None
        self._names = self._namespaces()
        self._labels = {table: self._labels_of(table) for table in _LABELS}
        self._chunks: dict[int, list[tuple[int, Cell]]] = defaultdict(list)
        for cell in self._cells("chunks"):
            row = self.pages.row(cell)
            if row is not None and len(row) == 6 and isinstance(row[1], int):
                self._chunks[row[1]].append((cell.rowid, cell))
        self._times = self._times_of_documents()
        before = len(self.pages.damaged)
        self._windows = {cell.rowid: cell for cell in self._cells("windows")}
        self._less_windows = len(self.pages.damaged) > before
        self._blocks = {cell.rowid: cell for cell in self._cells("blocks")}
        self._block = lru_cache(_BLOCKS_HELD)(self._read_block)

    def close(self) -> None:
        """Closes the file."""
        self.pages.close()

    def documents(self) -> Iterator[SavedDocument]:
        """Yields every document whose own row can be read."""
        for cell in self._cells("documents"):
            row = self.pages.row(cell)
            try:
                found = None if row is None else self._document(cell.rowid, row)
            except (AttributeError, LookupError, RecursionError, TypeError, ValueError):
                found = None
            if found is not None:
                yield found

    def known_documents(self) -> Iterator[tuple[Namespace, str]]:
        """Yields namespace and id of every document that the index of ids still names."""
        for row in self._index(_IDS_OF_DOCUMENTS):
            if len(row) == 3 and isinstance(row[1], str):
                yield self._namespace(row[0]), row[1]

    def weights(self) -> Iterator[tuple[str, str, bytes, str]]:
        """Yields fingerprint, configuration, tensors and marks of stored weights."""
        for cell in self._cells("weights"):
            if (row := self.pages.row(cell)) is not None and len(row) == 5:
                yield row[1], row[2], row[3], row[4]

    # -- documents
    # -----------------------------------------------------------------------------------------------

    def _document(self, rowid: int, row: list[Any]) -> SavedDocument:
        _, namespace_id, document_id, text, _, metadata, split, masked = row
        text = text.decode("utf-8")
        masks = tuple(sorted(self._labels["masks"].get(rowid, ())))
        return SavedDocument(
            namespace=self._namespace(namespace_id),
            id=document_id,
            text=text,
            metadata=json.loads(metadata),
            labels=tuple(sorted(self._labels["labels"].get(rowid, ()))),
            masks=masks or (("",) if masked else ()),  # the mask's name is lost, not that it is masked
            split=bool(split),
            chunks=self._chunks_of(rowid, text),
            times=self._times.get(rowid, Times()),
        )

    def _times_of_documents(self) -> dict[int, Times]:
        """Times by document; rows of another table, where theirs moved, are told by what they hold."""
        rows = ((cell.rowid, self.pages.row(cell)) for cell in self._cells("times"))
        found = {rowid: row[1:] for rowid, row in rows if row is not None and len(row) == len(Times()) + 1}
        return {rowid: Times(*row) for rowid, row in found.items() if _are_times(row)}

    def _chunks_of(self, rowid: int, text: str) -> list[SavedChunk] | None:
        found, last = [], 0
        for chunk_id, cell in sorted(self._chunks.get(rowid, ())):
            row = self.pages.row(cell)
            if row is None:
                return None
            _, _, start, end, text_hash, node_id = row
            if text[last:start].strip():
                return None
            last = end
            vector, windows, given = (
                self._vector(node_id, chunk_id),
                self._windows_of(chunk_id),
                text_hash is None,
            )
            unseen = windows is None and not given and (self._less_windows or chunk_id in self._windows)
            found.append(SavedChunk(Span(start, end), vector, windows, given, unseen))
        return None if text[last:].strip() or (text and not found) else found

    def _windows_of(self, chunk_id: int) -> bytes | None:
        cell = self._windows.get(chunk_id)
        row = None if cell is None else self.pages.row(cell)
        return row[1] if row is not None and len(row) == 2 and isinstance(row[1], bytes) else None

    def _vector(self, node_id: int | None, chunk_id: int) -> NDArray[np.float16] | None:
        block = None if node_id is None else self._block(node_id)
        if block is None:
            return None
        place = int(np.searchsorted(block.ids, chunk_id))
        if place >= len(block) or block.ids[place] != chunk_id:
            return None
        vector = block.vectors[place, 0]
        return vector if np.isfinite(vector).all() else None

    def _read_block(self, node_id: int) -> EmbeddingChunk | None:
        cell = self._blocks.get(node_id)
        row = None if cell is None or self.dim is None else self.pages.row(cell)
        try:
            return None if row is None else children_of([*row[1:6], None], self.dim)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return None

    # -- what belongs to documents
    # -------------------------------------------------------------------------------

    def _namespaces(self) -> dict[int, str]:
        names = {row[1]: row[0] for row in self._index(_NAMES_OF_NAMESPACES) if len(row) == 2}
        for cell in self._cells("namespaces"):
            if (row := self.pages.row(cell)) is not None and len(row) > 1:
                names[cell.rowid] = row[1]
        return {number: name for number, name in names.items() if isinstance(name, str)}

    def _namespace(self, number: int) -> Namespace:
        path = self._names.get(number)
        if path is not None:
            return tuple(path.split(NAME_SEPARATOR)[:-1])
        name = f"recovered-{number}"
        note = f"the name of a namespace is lost; its documents are in {name!r}"
        if note not in self.notes:
            self.notes.append(note)
        return (name,)

    def _labels_of(self, table: str) -> dict[int, set[str]]:
        """Labels or masks by document; table and index hold the same, so one can stand in for the other."""
        found: dict[int, set[str]] = defaultdict(set)
        for name in _LABELS[table]:
            for row in self._index(name):
                if len(row) != 2:
                    continue
                rowid, label = row if name == table else reversed(row)
                if isinstance(rowid, int) and isinstance(label, str):
                    found[rowid].add(label)
        return found

    # -- trees
    # ---------------------------------------------------------------------------------------------------

    def _stored_roots(self) -> dict[str, int]:
        rows = (self.pages.row(cell) for cell in self.pages.cells(1))
        return {
            row[1]: row[3]
            for row in rows
            if row is not None and len(row) == 5 and row[0] in ("table", "index") and isinstance(row[3], int)
        }

    def _cells(self, table: str) -> Iterator[Cell]:
        return self.pages.cells(self._roots[table]) if table in self._roots else iter(())

    def _index(self, name: str) -> Iterator[list[Any]]:
        for cell in self._cells(name):
            if (row := self.pages.row(cell, index=True)) is not None:
                yield row


def _are_times(row: list[Any]) -> bool:
    """Whether these can be times: moments of the calendar, and the last two always there."""
    fits = (moment is None or (isinstance(moment, int) and FIRST <= moment <= LAST) for moment in row)
    return None not in row[-2:] and all(fits)


@lru_cache
def _roots_of_new_files() -> dict[str, int]:
    """Where the trees of every memory begin: they are made in the same order, and never moved."""
    connection = apsw.Connection(":memory:")
    try:
        prepare(connection)
        migrate(connection)
        return dict(connection.execute("SELECT name, rootpage FROM sqlite_schema"))  # type: ignore[arg-type]
    finally:
        connection.close()


def open_salvage(path: Path) -> Salvage:
    """Opens a damaged file.

    Raises:
        DamagedStoreError: It has not one page of a memory.
    """
    salvage = Salvage(path)
    if len(salvage.pages.damaged) >= salvage.pages.count:
        salvage.close()
        raise DamagedStoreError(f"nothing in {path} can be read; restore a backup")
    return salvage
