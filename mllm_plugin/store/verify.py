"""Checks every invariant of the file and says in words what does not hold; it never raises for damage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import apsw

from mllm_plugin.config import MemoryConfig
from mllm_plugin.errors import DamagedStoreError, InvalidInputError
from mllm_plugin.hierarchy import Hierarchy, parse_weights
from mllm_plugin.reports import VerifyReport
from mllm_plugin.store.connections import damaged, decoding, translated
from mllm_plugin.store.log import log_of, read_log
from mllm_plugin.store.namespaces import namespaces_below
from mllm_plugin.store.schema import schema_problems
from mllm_plugin.store.verify_namespace import NamespaceCheck

_SHOWN = 3  # lines of SQLite's own check


def verify_store(
    tx: apsw.Connection,
    *,
    path: Path,
    config: MemoryConfig,
    hierarchy_of: Callable[[apsw.Connection], Hierarchy],
    dim: int,
) -> VerifyReport:
    """Reads everything (so that page checksums are checked too) and compares what must agree.

    Args:
        tx: A read transaction.
        path: The file.
        config: The memory's settings.
        hierarchy_of: Gives the hierarchy in use.
        dim: Width of the embeddings.
    """
    checked: Counter[str] = Counter()
    parts: list[tuple[str, Callable[[], Iterable[str]]]] = [
        ("file", lambda: _file(tx, path)),
        ("log", lambda: _log(path)),
        ("schema", lambda: schema_problems(tx)),
        ("file", lambda: _orphans(tx)),
        ("weights", lambda: _weights(tx)),
        ("", lambda: _namespaces(tx, path, config, hierarchy_of, dim, checked)),
    ]
    problems = [text for name, check in parts for text in found_in(name, check, path)]
    return VerifyReport(not problems, tuple(problems), dict(checked))


def found_in(name: str, check: Callable[[], Iterable[str]], path: Path) -> Iterator[str]:
    """The problems that a check yields, and the one that ends it early."""
    where = f"{name}: " if name else ""
    try:
        with translated(path, 0.0), decoding("what is stored"):
            for text in check():
                yield f"{where}{text}"
    except (DamagedStoreError, InvalidInputError) as error:
        yield f"{where}{error}"


def _file(tx: apsw.Connection, path: Path) -> Iterator[str]:
    lines = [text for (text,) in tx.execute("PRAGMA integrity_check") if text != "ok"]
    if lines:
        yield str(damaged(path, " ".join("; ".join(lines[:_SHOWN]).split())))
    if len(lines) > _SHOWN:
        yield f"and {len(lines) - _SHOWN} more of this kind"
    for table, row, *_ in tx.execute("PRAGMA foreign_key_check"):
        yield f"row {row} of {table} belongs to a row that is not there"


def _log(path: Path) -> Iterator[str]:
    if lost := read_log(log_of(path)).lost:
        yield (
            f"{lost} transactions lie after a frame that does not check out, where the log ends for SQLite: "
            f"damage, and what they wrote is lost; or, when it is one and the power failed, a write that was "
            f"never acknowledged. Write again what is missing; compact() empties the log"
        )


def _orphans(tx: apsw.Connection) -> Iterator[str]:
    queries = {
        "nodes": "SELECT 1 FROM nodes WHERE namespace_id NOT IN (SELECT namespace_id FROM namespaces)",
        "blocks": "SELECT 1 FROM nodes LEFT JOIN blocks b USING (node_id) WHERE b.node_id IS NULL",
        "postings": "SELECT 1 FROM postings WHERE chunk_id NOT IN (SELECT chunk_id FROM chunks)",
        "metadata": "SELECT 1 FROM metadata LEFT JOIN documents d USING (document_rowid) WHERE d.id IS NULL",
        "terms": "SELECT 1 FROM terms WHERE namespace_id NOT IN (SELECT namespace_id FROM namespaces)",
    }
    for table, query in queries.items():
        if tx.execute(f"{query} LIMIT 1").get:
            yield f"orphan rows in {table}"


def _weights(tx: apsw.Connection) -> Iterator[str]:
    """Weights whose numbers or configuration are not those that they are named after."""
    for fingerprint, config, tensors in tx.execute("SELECT fingerprint, config, tensors FROM weights"):
        if not tensors:
            continue  # a reader; its numbers lie elsewhere
        if parse_weights(config, tensors, "the memory").fingerprint != fingerprint:
            yield f"{fingerprint!r} are not the weights of that name"


def _namespaces(
    tx: apsw.Connection,
    path: Path,
    config: MemoryConfig,
    hierarchy_of: Callable[[apsw.Connection], Hierarchy],
    dim: int,
    checked: Counter[str],
) -> Iterator[str]:
    rows, hierarchy = namespaces_below(tx, ()), hierarchy_of(tx)
    for row in rows:
        check = NamespaceCheck(tx, row, config, hierarchy.fold, dim, hierarchy.tolerance)
        for part in check.parts():
            yield from found_in(f"namespace {row.namespace!r}", part, path)
        checked.update(check.checked)
