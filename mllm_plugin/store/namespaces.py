"""Namespaces: tuples of strings, each with a tree and statistics of its own."""

from __future__ import annotations

from typing import NamedTuple

import apsw

from mllm_plugin.errors import InvalidInputError, InvalidTypeError
from mllm_plugin.store.values import exact
from mllm_plugin.text.letters import text_flaw
from mllm_plugin.types import Namespace

NAME_SEPARATOR = "\x1f"
_COLUMNS = """
    n.namespace_id, n.path, n.root_id, r.version, n.version, n.live_chunks, n.live_terms, n.provisional
    FROM namespaces n LEFT JOIN nodes r ON r.node_id = n.root_id"""


class NamespaceRow(NamedTuple):
    """A namespace as stored; `version` is the last write that touched it."""

    namespace_id: int
    path: str
    root_id: int | None
    root_version: int | None
    version: int
    live_chunks: int
    live_terms: int
    provisional: int

    @property
    def namespace(self) -> Namespace:
        """The tuple of names."""
        return tuple(self.path.split(NAME_SEPARATOR)[:-1])


def check_namespace(namespace: Namespace | list[str] | str) -> Namespace:
    """A namespace as a tuple; a plain string is a one-part namespace.

    Raises:
        InvalidTypeError: It is neither a string nor a sequence of strings.
        InvalidInputError: A part is empty or holds U+001F or a lone surrogate.
    """
    parts = (namespace,) if isinstance(namespace, str) else namespace
    if not isinstance(parts, tuple | list) or not all(isinstance(part, str) for part in parts):
        raise InvalidTypeError(f"a namespace is a string or a tuple of strings, got {namespace!r}")
    parts = tuple(map(exact, parts))
    for part in parts:
        if not part or NAME_SEPARATOR in part or text_flaw(part):
            raise InvalidInputError(
                f"namespace part {part!r} must not be empty nor hold U+001F or lone surrogates"
            )
    return parts


def find_namespace(tx: apsw.Connection, namespace: Namespace) -> NamespaceRow | None:
    """The namespace's row, or None."""
    row = tx.execute(f"SELECT {_COLUMNS} WHERE n.path = ?", (_path(namespace),)).get
    return NamespaceRow(*row) if row else None


def namespace_of(tx: apsw.Connection, namespace_id: int) -> NamespaceRow:
    """A namespace's row by its number."""
    return NamespaceRow(*tx.execute(f"SELECT {_COLUMNS} WHERE n.namespace_id = ?", (namespace_id,)).get)


def namespaces_below(
    tx: apsw.Connection, prefix: Namespace, *, holding: str | None = None
) -> list[NamespaceRow]:
    """All namespaces that begin with `prefix`, itself included, in order of their names.

    Args:
        tx: Where to read.
        prefix: Their beginning.
        holding: Only those with a document of this id.
    """
    low = _path(prefix)
    high = low[:-1] + " " if low else None  # the character after the separator
    rows = tx.execute(
        f"SELECT {_COLUMNS} WHERE n.path >= ?1 AND (?2 IS NULL OR n.path < ?2) AND (?3 IS NULL OR EXISTS "
        "(SELECT 1 FROM documents d WHERE d.namespace_id = n.namespace_id AND d.id = ?3)) ORDER BY n.path",
        (low, high, holding),
    )
    return [NamespaceRow(*row) for row in rows]


def select_namespaces(tx: apsw.Connection, namespace: Namespace, *, prefix: bool) -> list[NamespaceRow]:
    """The namespace, or with `prefix` every one that begins with it; empty when there is none."""
    if prefix:
        return namespaces_below(tx, namespace)
    found = find_namespace(tx, namespace)
    return [] if found is None else [found]


def create_namespace(tx: apsw.Connection, namespace: Namespace) -> NamespaceRow:
    """The namespace's row, made when it is new."""
    found = find_namespace(tx, namespace)
    if found is None:
        tx.execute("INSERT INTO namespaces (path) VALUES (?)", (_path(namespace),))
        found = find_namespace(tx, namespace)
    assert found is not None
    return found


def touch_namespace(tx: apsw.Connection, row: NamespaceRow, write: int) -> None:
    """Notes that a write changed something of a namespace beside its tree."""
    tx.execute("UPDATE namespaces SET version = ? WHERE namespace_id = ?", (write, row.namespace_id))


def _path(namespace: Namespace) -> str:
    return "".join(part + NAME_SEPARATOR for part in namespace)
