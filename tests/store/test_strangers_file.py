"""A memory from a stranger: what its schema would run is not run, and what is inconsistent is named."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path

import apsw
import numpy as np
import pytest

from mllm_plugin import DamagedStoreError, MemoryIndex, MLLMError
from mllm_plugin.store.connections import READ_WRITE, checksum_vfs, connect
from mllm_plugin.store.database import FILE_NAME
from tests.helpers.robustness_tools import KEPT, SMALL_GROUPS, some_documents
from tests.helpers.toy import ToyEncoder

ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n"
SCHEMAS = {
    "keeps-what-is-removed": (
        "CREATE TABLE kept (text); CREATE TRIGGER keep AFTER DELETE ON documents BEGIN "
        "INSERT INTO kept VALUES (old.text); END"
    ),
    "swallows-labels": "CREATE TRIGGER swallow BEFORE INSERT ON labels BEGIN SELECT RAISE(IGNORE); END",
    "endless-view": f"ALTER TABLE labels RENAME TO was; CREATE VIEW labels AS {ENDLESS}",
    "endless-default": "DROP TABLE second_homes; CREATE TABLE second_homes (a DEFAULT (random()))",
    "another-index": "CREATE INDEX more ON documents (text)",
    "a-missing-index": "DROP INDEX chunks_by_text",
    "a-virtual-table": "CREATE VIRTUAL TABLE words USING fts5(text)",
}


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    path = tmp_path_factory.mktemp("untouched") / "memory"
    with MemoryIndex.open(path, encoder=ToyEncoder(), config=SMALL_GROUPS) as memory:
        memory.add([*KEPT, *some_documents(120)])
    return path


@pytest.fixture
def folder(untouched, tmp_path):
    return Path(shutil.copytree(untouched, tmp_path / "memory"))


def tamper(folder, *statements: str | tuple) -> None:
    """Changes rows as any SQLite program could."""
    connection = apsw.Connection(str(folder / FILE_NAME), vfs=checksum_vfs())
    for statement in statements:
        connection.execute(*([statement] if isinstance(statement, str) else statement))
    connection.close()


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
@pytest.mark.parametrize("read_only", [False, True], ids=["writable", "read-only"])
def test_a_changed_schema_is_refused(folder, schema, read_only):
    tamper(folder, schema)
    before = (folder / FILE_NAME).read_bytes()
    with pytest.raises(DamagedStoreError, match=r"schema of .* was changed: .*`mllm repair`"):
        MemoryIndex.open(folder, encoder=ToyEncoder(), read_only=read_only)
    assert (folder / FILE_NAME).read_bytes() == before


def test_verify_tells_of_a_schema_that_is_changed_later(folder):
    with MemoryIndex.open(folder, encoder=ToyEncoder()) as memory:
        tamper(folder, "CREATE TABLE mine (x)")
        assert memory.verify().problems == ("schema: table 'mine' does not belong in a memory",)


def test_connections_run_no_triggers_and_no_views(tmp_path):
    path = tmp_path / "file.db"
    plain = apsw.Connection(str(path))
    plain.execute(
        "CREATE TABLE a (x); CREATE TABLE b (x); CREATE VIEW v AS SELECT 1; "
        "CREATE TRIGGER t AFTER INSERT ON a BEGIN INSERT INTO b VALUES (1); END"
    )
    plain.close()
    connection = connect(path, READ_WRITE, checksum_vfs(), 1.0)
    connection.execute("INSERT INTO a VALUES (1)")
    assert connection.execute("SELECT count(*) FROM b").get == 0
    for refused in (
        "SELECT * FROM v",
        "ATTACH ':memory:' AS other",
        "PRAGMA writable_schema=1; DELETE FROM sqlite_schema",
    ):
        with pytest.raises(apsw.Error):
            connection.execute(refused)
    connection.close()


def shared_children(levels: int = 60, dim: int = 16) -> list[str | tuple]:
    """A tree whose every level is two nodes with the same two children: 2^60 paths lead down."""
    pair = np.array([[100_000], [100_001]], dtype="<i8")
    changes: list[str | tuple] = []
    for level in range(3, levels):
        for place in (0, 1):
            node = 100_000 + 2 * level + place
            ids = (pair + 2 * (level - 1)).tobytes()
            parent = node - place + 2 if level + 1 < levels else None
            changes += [
                ("INSERT INTO nodes SELECT ?, namespace_id, ?, ?, 1 FROM namespaces", (node, level, parent)),
                (
                    "INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?, NULL, NULL)",
                    (
                        node,
                        ids,
                        bytes(4 * dim),
                        np.full(2, 60, "<u4").tobytes(),
                        np.full(2, 60, "<u4").tobytes(),
                        np.ones(2, "<i8").tobytes(),
                    ),
                ),
            ]
    two = "(SELECT node_id FROM nodes WHERE level = 2 ORDER BY node_id LIMIT 1 OFFSET {})"
    return [
        *(
            f"UPDATE OR IGNORE nodes SET node_id = {100_004 + place} WHERE node_id = {two.format(place)}"
            for place in (0, 1)
        ),
        *changes,
        f"UPDATE namespaces SET root_id = {100_000 + 2 * (levels - 1)}",
    ]


BLOB = np.full(40, np.nan, dtype="<f4").tobytes()
ROWS = {
    "a-cycle-of-nodes": (
        "UPDATE blocks SET ids = (SELECT ids FROM blocks b JOIN namespaces ON b.node_id = root_id) "
        "WHERE node_id = (SELECT node_id FROM nodes WHERE parent_id IS NOT NULL LIMIT 1)",
        "node",
    ),
    "a-parent-above-itself": ("UPDATE nodes SET parent_id = node_id", "its parent or level"),
    "a-level-of-a-hundred-million": (
        "UPDATE nodes SET level = 100000000 WHERE parent_id IS NULL",
        "its parent or level",
    ),
    "levels-that-are-no-numbers": ("UPDATE nodes SET level = x'ff'", "cannot be read"),
    "children-of-another-level": (
        "UPDATE nodes SET level = level + 1 WHERE parent_id IS NULL",
        "its parent or level",
    ),
    "a-child-that-is-listed-twice": (
        "UPDATE blocks SET ids = substr(ids, 1, 8) || substr(ids, 1, 8) || substr(ids, 17) "
        "WHERE node_id = (SELECT root_id FROM namespaces)",
        "node",
    ),
    "children-with-two-parents": (shared_children(), "reached twice"),
    "a-node-without-a-block": (
        "DELETE FROM blocks WHERE node_id = (SELECT min(node_id) FROM blocks)",
        "missing",
    ),
    "a-block-cut-short": ("UPDATE blocks SET vectors = substr(vectors, 1, 31)", "embedding chunk of node"),
    "a-block-of-text": ("UPDATE blocks SET ids = 'text'", "embedding chunk of node"),
    "text-that-is-no-unicode": ("UPDATE documents SET text = x'ff' WHERE id = 'fox'", "'fox' cannot be read"),
    "metadata-that-is-no-json": (
        "UPDATE documents SET metadata = '{' WHERE id = 'fox'",
        "'fox' cannot be read",
    ),
    "metadata-nested-deeply": (
        ("UPDATE documents SET metadata = ? WHERE id = 'fox'", ('{"a":' * 5000 + "1" + "}" * 5000,)),
        "metadata postings differ",
    ),
    "windows-that-are-no-numbers": (("UPDATE windows SET data = ?", (BLOB,)), "windows of chunk"),
    "windows-cut-short": ("UPDATE windows SET data = substr(data, 2)", "windows of chunk"),
    "offsets-outside": ('UPDATE chunks SET "end" = 100000', "has offsets"),
    "no-home": ("UPDATE chunks SET node_id = NULL", "does not hold it"),
    "weights-of-another-name": ("INSERT INTO weights VALUES (7, 'x', '{}', x'00', '[]')", "weights"),
    "a-root-that-is-not-there": ("UPDATE namespaces SET root_id = 4711", "node 4711: missing"),
    "a-missing-setting": ("DELETE FROM meta WHERE key = 'hierarchy'", "hierarchy None"),
}


@pytest.mark.parametrize(("change", "expected"), ROWS.values(), ids=ROWS)
def test_rows_that_do_not_fit_are_named_by_verify(folder, change, expected):
    with MemoryIndex.open(folder, encoder=ToyEncoder()) as memory:
        tamper(folder, *(change if isinstance(change, list) else [change]))
        report = memory.verify()
    assert not report.ok
    assert any(expected in problem for problem in report.problems), report.problems
    assert json.dumps(report.to_dict())


READS = {
    "documents": lambda memory: list(memory.documents()),
    "get": lambda memory: memory.get(["fox"]),
    "export": lambda memory: list(memory.export()),
    "regroup": lambda memory: memory.regroup(),
    "search": lambda memory: memory.search("fox", mode="beam"),
    "scan": lambda memory: memory.search("d7 fox", mode="exact"),
    "recall": lambda memory: memory.recall("fox", mode="exact"),
    "filter": lambda memory: memory.search("fox", mode="beam", filter={"even": True}),
    "add": lambda memory: memory.add([KEPT[0], *some_documents(3, prefix="new")]),
    "refold": lambda memory: memory.install("identity"),
    "stats": lambda memory: memory.stats(),
    "mask": lambda memory: memory.mask(["fox"]),
    "remove": lambda memory: memory.remove(["fox"]),
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_rows_that_do_not_fit_are_typed_errors_elsewhere(folder, name, read):
    with MemoryIndex.open(folder, encoder=ToyEncoder()) as memory:
        change = ROWS[name][0]
        tamper(folder, *(change if isinstance(change, list) else [change]))
        with suppress(MLLMError):
            read(memory)


@pytest.mark.parametrize(
    "change",
    [
        *(f"DELETE FROM meta WHERE key = '{key}'" for key in ("encoder", "dim", "config", "hierarchy")),
        *(
            f"UPDATE meta SET value = x'ff' WHERE key = '{key}'"
            for key in ("encoder", "dim", "config", "hierarchy")
        ),
    ],
)
def test_settings_that_are_missing_or_of_another_type(folder, change):
    tamper(folder, change)
    with pytest.raises(DamagedStoreError, match="a setting of"):
        MemoryIndex.open(folder, encoder=ToyEncoder())
