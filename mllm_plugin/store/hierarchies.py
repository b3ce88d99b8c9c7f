"""The hierarchy that a memory's nodes were folded with: its weights lie in the file beside the nodes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import apsw

from mllm_plugin.config import LeafConfig
from mllm_plugin.errors import InvalidInputError
from mllm_plugin.hierarchy import IDENTITY, Hierarchy, LeafRanker, document_mark, parse_weights
from mllm_plugin.types import Namespace

_KEY = "hierarchy"


class HierarchyInUse:
    """Follows the hierarchy of one file, since another process may install another at any time."""

    def __init__(self, leaf: LeafConfig) -> None:
        self._leaf = leaf
        self._known: dict[str, Hierarchy] = {}

    def announce(self, hierarchy: Hierarchy) -> None:
        """Makes a hierarchy known that the caller has, or that a transaction is about to record."""
        self._known[hierarchy.fingerprint] = hierarchy

    def of(self, tx: apsw.Connection, stored: str | None = None) -> Hierarchy:
        """The hierarchy of a transaction's snapshot.

        Args:
            tx: Where to read.
            stored: Its fingerprint, where that is known.

        Raises:
            InvalidInputError: It was given as objects that this process does not have.
        """
        stored = stored or stored_fingerprint(tx)
        if stored not in self._known:
            self._known[stored] = load_hierarchy(tx, stored, self._leaf)
        return self._known[stored]


def stored_fingerprint(tx: apsw.Connection) -> str:
    """Names the hierarchy that the nodes were folded with."""
    return tx.execute("SELECT value FROM meta WHERE key = ?", (_KEY,)).get


def load_hierarchy(tx: apsw.Connection, fingerprint: str, leaf: LeafConfig) -> Hierarchy:
    """Builds a stored hierarchy.

    Raises:
        InvalidInputError: The file does not hold its weights, holds modules of your own classes, or weights
            that are damaged or of another width; `install("identity")` works without them.
    """
    if fingerprint == IDENTITY:
        return Hierarchy(leaf_ranker=LeafRanker(leaf))
    row = tx.execute("SELECT config, tensors FROM weights WHERE fingerprint = ?", (fingerprint,)).get
    if row is None:
        raise InvalidInputError(
            f"the nodes of this memory were folded by hierarchy {fingerprint!r}, which it does not hold; "
            f"open it with MemoryIndex.open(…, hierarchy=…), or install another"
        )
    config, tensors = row
    hierarchy = Hierarchy.from_weights(parse_weights(config, tensors, "the memory"), leaf=leaf)
    hierarchy.check(tx.execute("SELECT value FROM meta WHERE key = 'dim'").get)
    return hierarchy


def save_hierarchy(tx: apsw.Connection, hierarchy: Hierarchy) -> None:
    """Records the hierarchy in use and copies its weights; those of the one before are deleted."""
    tx.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_KEY, hierarchy.fingerprint))
    tx.execute("DELETE FROM weights WHERE tensors <> x''")
    if (weights := hierarchy.weights) is not None:
        config = weights.config.model_dump(mode="json")
        marks = json.dumps(config.get("documents", []))
        tx.execute(
            "INSERT INTO weights (fingerprint, config, tensors, documents) VALUES (?, ?, ?, ?)",
            (weights.fingerprint, json.dumps(config), weights.tensors, marks),
        )


def note_reader(tx: apsw.Connection, folder: str, marks: Iterable[str]) -> None:
    """Records a reader that was trained on documents; its numbers lie elsewhere, so its row has none.

    Args:
        tx: A write transaction.
        folder: Where the reader is; what was noted for it before stays.
        marks: Of the documents, see `document_mark`.
    """
    name = f"adapter:{folder}"
    known = tx.execute("SELECT documents FROM weights WHERE fingerprint = ?", (name,)).get
    tx.execute("DELETE FROM weights WHERE fingerprint = ?", (name,))
    tx.execute(
        "INSERT INTO weights (fingerprint, config, tensors, documents) VALUES (?, '{}', x'', ?)",
        (name, json.dumps(sorted({*marks, *json.loads(known or "[]")}))),
    )


def weights_that_saw(tx: apsw.Connection, namespace: Namespace, rowids: Sequence[int]) -> tuple[str, ...]:
    """Fingerprints of the stored weights, and folders of readers, that were trained on one of these."""
    found = []
    for fingerprint, documents in list(tx.execute("SELECT fingerprint, documents FROM weights")):
        marks = set(json.loads(documents))
        if marks and any(document_mark(namespace, _id(tx, rowid)) in marks for rowid in rowids):
            found.append(fingerprint)
    return tuple(found)


def _id(tx: apsw.Connection, rowid: int) -> str:
    return tx.execute("SELECT id FROM documents WHERE document_rowid = ?", (rowid,)).get
