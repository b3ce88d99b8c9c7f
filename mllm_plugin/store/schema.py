"""The file format, and the steps that led to it.

Page size, checksums and auto_vacuum are set before the first table or never.
"""

from __future__ import annotations

import re
from functools import lru_cache

import apsw

FORMAT_VERSION = 2
APPLICATION_ID = 0x4D4C4C4D  # "MLLM"
PAGE_SIZE = 16384
CHECKSUM_BYTES = 8

M001_INITIAL = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;

CREATE TABLE namespaces (
    namespace_id INTEGER PRIMARY KEY AUTOINCREMENT,
    path TEXT NOT NULL UNIQUE,            -- every part followed by U+001F
    root_id INTEGER,                      -- of the tree; NULL when it is empty
    version INTEGER NOT NULL DEFAULT 0,   -- last write that touched it
    live_chunks INTEGER NOT NULL DEFAULT 0,
    live_terms INTEGER NOT NULL DEFAULT 0,
    provisional INTEGER NOT NULL DEFAULT 0 -- chunks that bulk builds placed since the last regrouping
);

CREATE TABLE documents (
    document_rowid INTEGER PRIMARY KEY AUTOINCREMENT,
    namespace_id INTEGER NOT NULL REFERENCES namespaces,
    id TEXT NOT NULL,
    text BLOB NOT NULL,                   -- UTF-8
    text_hash BLOB NOT NULL,
    metadata TEXT NOT NULL,               -- JSON object
    split INTEGER NOT NULL,
    masked INTEGER NOT NULL DEFAULT 0,    -- 1 while any row of masks names it
    UNIQUE (namespace_id, id)
);

CREATE TABLE chunks (
    chunk_id INTEGER PRIMARY KEY AUTOINCREMENT,
    document_rowid INTEGER NOT NULL REFERENCES documents ON DELETE CASCADE,
    start INTEGER NOT NULL,               -- character offsets in the document
    "end" INTEGER NOT NULL,
    text_hash BLOB,                       -- of namespace and text; NULL when the caller gave the vector
    node_id INTEGER                       -- home: the level-2 node that holds it
);
CREATE INDEX chunks_by_document ON chunks (document_rowid);
CREATE INDEX chunks_by_text ON chunks (text_hash) WHERE text_hash IS NOT NULL;

CREATE TABLE windows (                    -- level 0
    chunk_id INTEGER PRIMARY KEY REFERENCES chunks ON DELETE CASCADE,
    data BLOB NOT NULL
);

CREATE TABLE labels (
    document_rowid INTEGER NOT NULL REFERENCES documents ON DELETE CASCADE,
    label TEXT NOT NULL,
    PRIMARY KEY (document_rowid, label)
) WITHOUT ROWID;
CREATE INDEX labels_by_name ON labels (label, document_rowid);

CREATE TABLE masks (
    document_rowid INTEGER NOT NULL REFERENCES documents ON DELETE CASCADE,
    label TEXT NOT NULL,
    PRIMARY KEY (document_rowid, label)
) WITHOUT ROWID;

CREATE INDEX masks_by_label ON masks (label, document_rowid);

CREATE TABLE metadata (                   -- postings: one row per scalar of a document's metadata
    namespace_id INTEGER NOT NULL,
    key TEXT NOT NULL,
    kind TEXT NOT NULL,                   -- s string, l hash of a long one, n number, b boolean, z null
    value NOT NULL,
    document_rowid INTEGER NOT NULL,
    PRIMARY KEY (namespace_id, key, kind, value, document_rowid)
) WITHOUT ROWID;

CREATE TABLE nodes (
    node_id INTEGER PRIMARY KEY AUTOINCREMENT,
    namespace_id INTEGER NOT NULL REFERENCES namespaces,
    level INTEGER NOT NULL,
    parent_id INTEGER,
    version INTEGER NOT NULL
);
CREATE INDEX nodes_by_level ON nodes (namespace_id, level, version, parent_id);

CREATE TABLE blocks (                     -- embedding chunks, rows in ascending child id; little endian
    node_id INTEGER PRIMARY KEY REFERENCES nodes ON DELETE CASCADE,
    ids BLOB NOT NULL,                    -- int64 [c]
    vectors BLOB NOT NULL,                -- float16 [c, r, dim]
    live BLOB NOT NULL,                   -- uint32 [c], unmasked chunks below
    total BLOB NOT NULL,                  -- uint32 [c], chunks below
    versions BLOB NOT NULL,               -- int64 [c], of the children's own blocks
    terms BLOB,                           -- term counts of chunks
    spread BLOB                           -- reserved for trained nodes
);

CREATE TABLE second_homes (               -- optional further nodes that point at a chunk
    node_id INTEGER NOT NULL REFERENCES nodes ON DELETE CASCADE,
    chunk_id INTEGER NOT NULL REFERENCES chunks ON DELETE CASCADE,
    PRIMARY KEY (node_id, chunk_id)
) WITHOUT ROWID;
CREATE INDEX second_homes_by_chunk ON second_homes (chunk_id);

CREATE TABLE terms (
    namespace_id INTEGER NOT NULL REFERENCES namespaces,
    term INTEGER NOT NULL,                -- 32-bit hash
    live INTEGER NOT NULL,                -- unmasked chunks that have it
    total INTEGER NOT NULL,               -- chunks that have it
    posted INTEGER NOT NULL,              -- 1 while postings lists all of them
    PRIMARY KEY (namespace_id, term)
) WITHOUT ROWID;

CREATE TABLE postings (
    namespace_id INTEGER NOT NULL,
    term INTEGER NOT NULL,
    chunk_id INTEGER NOT NULL,
    PRIMARY KEY (namespace_id, term, chunk_id)
) WITHOUT ROWID;

CREATE TABLE weights (                    -- generations of trained weights; none: identity
    generation INTEGER PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    config TEXT NOT NULL,
    tensors BLOB NOT NULL,                -- safetensors; empty: an adapter, which lies elsewhere
    documents TEXT NOT NULL DEFAULT '[]'  -- ids of documents the training saw
);
"""


def m001_initial(connection: apsw.Connection) -> None:
    """The first format."""
    connection.execute(M001_INITIAL)


M002_TIMES = """
CREATE TABLE times (                      -- of documents, microseconds since 1970, UTC; NULL: not known
    document_rowid INTEGER PRIMARY KEY REFERENCES documents ON DELETE CASCADE,
    created INTEGER,
    updated INTEGER,
    expires INTEGER,
    valid_from INTEGER,
    valid_to INTEGER,
    version INTEGER NOT NULL,             -- the write that last changed the document
    hidden INTEGER NOT NULL               -- 1 while the document is masked because it has expired
);
CREATE INDEX times_by_expiry ON times (expires) WHERE hidden = 0 AND expires IS NOT NULL;
"""


def m002_times(connection: apsw.Connection) -> None:
    """Times of documents; those that are there have none."""
    connection.execute(M002_TIMES)


# Each takes a file from the version before to its own, in one transaction with all later ones. They are not
# changed any more once a release has them.
MIGRATIONS = {1: m001_initial, 2: m002_times}

# What stands in, empty, for what a file of this version lacks, so that it is read without being written.
STAND_INS = {1: M002_TIMES.replace("CREATE TABLE", "CREATE TEMP TABLE").replace("times_by", "temp.times_by")}


def migrate(connection: apsw.Connection) -> None:
    """Brings a file to `FORMAT_VERSION`: all steps or none, so a copy of the file is not needed.

    Args:
        connection: For writing, outside of a transaction.
    """
    with connection:  # a transaction
        before = connection.pragma("user_version")
        for version in range(before + 1, FORMAT_VERSION + 1):
            MIGRATIONS[version](connection)
        if before < FORMAT_VERSION:
            connection.pragma("application_id", APPLICATION_ID)
            connection.pragma("user_version", FORMAT_VERSION)


def readable(version: int) -> bool:
    """Whether a file of an older version can be read as it is."""
    return all(step in STAND_INS for step in range(version, FORMAT_VERSION))


def is_older(connection: apsw.Connection) -> bool:
    """Whether a file has an older format."""
    return connection.pragma("user_version") < FORMAT_VERSION


def stand_in(connection: apsw.Connection) -> None:
    """Gives a reader of an older file what the file lacks; it ends with the transaction."""
    for step in range(connection.pragma("user_version"), FORMAT_VERSION):
        connection.execute(STAND_INS[step])


def schema_problems(connection: apsw.Connection) -> list[str]:
    """What in the schema is not ours: a stranger's trigger or view could change what is read and written."""
    version = min(connection.pragma("user_version"), FORMAT_VERSION)
    found, expected = _objects(connection), _expected(version)
    return [
        *(f"{kind} {name!r} does not belong in a memory" for kind, name in sorted(found.keys() - expected)),
        *(f"{kind} {name!r} is missing" for kind, name in sorted(expected.keys() - found)),
        *(
            f"{kind} {name!r} is not defined as it should be"
            for kind, name in sorted(found.keys() & expected)
            if found[kind, name] != expected[kind, name]
        ),
    ]


@lru_cache
def _expected(version: int) -> dict[tuple[str, str], str]:
    connection = apsw.Connection(":memory:")
    try:
        for step in range(1, version + 1):
            MIGRATIONS[step](connection)
        return _objects(connection)
    finally:
        connection.close()


def _objects(connection: apsw.Connection) -> dict[tuple[str, str], str]:
    """Definitions by kind and name, without comments and white space; SQLite's own statistics left aside."""
    rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema")
    return {
        (kind, name): f"{table}: {_plain(sql)}" for kind, name, table, sql in rows if not _is_own(kind, name)
    }


def _is_own(kind: str, name: str) -> bool:
    return kind == "table" and name in ("sqlite_sequence", "sqlite_stat1", "sqlite_stat4")


def _plain(sql: str | None) -> str:
    return re.sub(r"\s+", "", re.sub(r"--[^\n]*", "", sql or ""))
