"""The embedding cache saves time and does nothing else, whatever is in its folder."""

from __future__ import annotations

import math
import os
import random
import shutil
import signal
import sqlite3
from contextlib import closing

import numpy as np
import pytest

from mllm_plugin import IndexBuilder, MemoryIndex
from mllm_plugin.store import cache as cache_module
from mllm_plugin.store.cache import EmbeddingCache
from tests.helpers.hostile_tools import journal, linked
from tests.helpers.robustness_tools import assert_sound, contents, finish, some_documents, start_python
from tests.helpers.toy import ToyEncoder

BATCH = 64
MANY = some_documents(1000, words=6)
FEW = some_documents(24, words=16)


class Interrupted(ToyEncoder):
    """Stops at a text, as Ctrl-C or a lost connection does, or as SIGKILL."""

    def __init__(self, stop: int, kill: bool = False) -> None:
        super().__init__()
        self.stop, self.kill = stop, kill

    def encode_documents(self, texts):
        if len(self.encoded) + len(texts) >= self.stop:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyboardInterrupt
        return super().encode_documents(texts)


def write(memory: MemoryIndex, how: str) -> None:
    if how == "add":
        memory.add(MANY)
    else:
        IndexBuilder(memory, batch_size=300, progress=False).build(MANY)


KILLED = """
import sys
from mllm_plugin import MemoryIndex
from tests.store.test_embedding_cache import Interrupted, write
write(MemoryIndex.open(sys.argv[1], encoder=Interrupted(700, kill=True)), sys.argv[2])
"""


@pytest.mark.parametrize("how", ["add", "build"])
@pytest.mark.parametrize("end", ["exception", "kill"])
def test_an_interruption_costs_one_batch_at_most(tmp_path, how, end):
    folder = tmp_path / "memory"
    if end == "kill":
        finish(start_python(KILLED, folder, how), expected=-signal.SIGKILL)
    else:
        with MemoryIndex.open(folder, encoder=Interrupted(700)) as memory, pytest.raises(KeyboardInterrupt):
            write(memory, how)
    encoder = ToyEncoder()
    with MemoryIndex.open(folder, encoder=encoder) as memory:
        write(memory, how)
        assert 300 <= len(encoder.encoded) <= 300 + BATCH
        assert_sound(memory, [document.id for document in MANY])
        assert entries(memory.path) == 0, "what is stored stays in the cache"


@pytest.fixture
def interrupted(tmp_path):
    """The folder of a memory whose process was killed between cache and write, with some of it in the log."""
    with MemoryIndex.open(tmp_path / "open", encoder=ToyEncoder()) as memory:
        memory._handle.ingest.prepare(FEW[:12], (), True)
        with closing(sqlite3.connect(memory.path / "cache" / "cache.db")) as connection:
            connection.execute("PRAGMA wal_checkpoint")
        memory._handle.ingest.prepare(FEW[12:], (), True)
        shutil.copytree(tmp_path / "open", tmp_path / "memory")
    return tmp_path / "memory"


@pytest.fixture(scope="module")
def right(tmp_path_factory):
    """What the documents are with no cache."""
    with MemoryIndex.open(tmp_path_factory.mktemp("right") / "memory", encoder=ToyEncoder()) as memory:
        memory.add(FEW)
        return vectors(memory)


def vectors(memory: MemoryIndex) -> dict[str, list]:
    return {
        record["id"]: [(chunk["embedding"], chunk["windows"]) for chunk in record["chunks"]]
        for record in memory.export()
    }


def entries(folder) -> int:
    with closing(sqlite3.connect(folder / "cache" / "cache.db")) as connection:
        return connection.execute("SELECT count(*) FROM Cache").fetchone()[0]


def change(folder, *statements: str, arguments=()) -> None:
    with closing(sqlite3.connect(folder / "cache" / "cache.db")) as connection, connection:
        for statement in statements:
            connection.execute(statement, arguments)


def check(folder, right, encoded: int | None = None) -> None:
    """Adds, removes and erases as if there were no cache."""
    encoder = ToyEncoder()
    with MemoryIndex.open(folder, encoder=encoder) as memory:
        memory.add(FEW)
        assert vectors(memory) == right
        assert encoded is None or len(encoder.encoded) == encoded
        memory._handle.ingest.prepare(some_documents(3, prefix="new"), (), True)
        assert memory.stats().cache_bytes > 0
        assert memory.remove([FEW[0].id], wait=0.1).erased
        assert_sound(memory, [document.id for document in FEW[1:]])
    assert entries(folder) == 0


def test_an_interrupted_add_is_taken_up(interrupted, right):
    assert entries(interrupted) == len(FEW)
    check(interrupted, right, encoded=0)


def test_any_flipped_bit_is_harmless(interrupted, tmp_path):
    """Every entry is what was put, or is gone; of 300 flips in every file of the folder."""
    files = sorted((interrupted / "cache").iterdir())
    assert [file.name for file in files] == ["cache.db", "cache.db-shm", "cache.db-wal"]
    encoder, draw, lost = ToyEncoder(), random.Random(7), 0
    hashes = [cache_module.hash_text((), document.text) for document in FEW]
    expected = encoder.encode_documents([document.text for document in FEW])[0].astype(np.float16)
    for number in range(300):
        shutil.copytree(interrupted / "cache", tmp_path / "flipped" / "cache")
        flip(tmp_path / "flipped" / "cache" / files[number % 3].name, draw)
        cache = EmbeddingCache(tmp_path / "flipped", encoder.fingerprint, encoder.dim)
        found = [cache.get(text_hash) for text_hash in hashes]
        for one, vector in zip(found, expected, strict=True):
            assert one is None or np.array_equal(one[0], vector)
        lost += None in found
        if number % 4 == 0:
            cache.put(zip(hashes, expected, [b""] * len(FEW), strict=True))
            assert cache.erase(0.1)
        cache.close()
        shutil.rmtree(tmp_path / "flipped")
    assert lost > 20, "the flips hit nothing"


def flip(path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


@pytest.mark.parametrize("place", ["seal", "vector", "windows"])
def test_a_damaged_entry_is_encoded_anew(interrupted, right, place):
    at = {"seal": 3, "vector": 20, "windows": 70}[place]
    with closing(sqlite3.connect(interrupted / "cache" / "cache.db")) as connection, connection:
        for rowid, value in connection.execute("SELECT rowid, value FROM Cache LIMIT 5").fetchall():
            bad = value[:at] + bytes([value[at] ^ 64]) + value[at + 1 :]
            connection.execute("UPDATE Cache SET value = ? WHERE rowid = ?", (bad, rowid))
    check(interrupted, right, encoded=5)


def test_entries_without_a_hash_are_encoded_anew(interrupted, right):
    """As earlier releases wrote them."""
    change(interrupted, "UPDATE Cache SET value = substr(value, 17)")
    check(interrupted, right, encoded=len(FEW))


def test_an_entry_of_another_text_is_encoded_anew(interrupted, right):
    change(interrupted, "UPDATE Cache SET value = (SELECT value FROM Cache WHERE rowid = 1)")
    check(interrupted, right, encoded=len(FEW) - 1)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_encoded_anew(interrupted, right, bad):
    """Whoever wrote it knew how to make the hash."""
    encoder = ToyEncoder()
    hashes = [cache_module.hash_text((), document.text) for document in FEW]
    cache = EmbeddingCache(interrupted, encoder.fingerprint, encoder.dim)
    cache.put([(hashes[0], np.full(16, bad, dtype=np.float16), b"")])
    cache.put([(hashes[1], np.ones(16, dtype=np.float16), np.full(5, bad, dtype="<f4").tobytes())])
    assert cache.get(hashes[0]) is None
    cache.close()
    assert entries(interrupted) == len(FEW) - 1
    check(interrupted, right, encoded=2)


OTHER_ROWS = {
    "another folder": "INSERT OR REPLACE INTO Settings VALUES ('_directory', '{outside}')",
    "a file of one's own": "INSERT OR REPLACE INTO Settings VALUES ('disk_min_file_size', 0)",
    "an unknown setting": "INSERT OR REPLACE INTO Settings VALUES ('disk_colour', 'red')",
    "another policy": "INSERT OR REPLACE INTO Settings VALUES ('eviction_policy', 'most-recent')",
    "a limit": "INSERT OR REPLACE INTO Settings VALUES ('cull_limit', 10)",
    "a pragma": "INSERT OR REPLACE INTO Settings VALUES ('sqlite_temp_store_directory', '''{outside}''')",
    "a broken pragma": "INSERT OR REPLACE INTO Settings VALUES ('sqlite_x; ATTACH', '1')",
    "no name": "INSERT OR REPLACE INTO Settings VALUES (x'00ff', 1)",
    "no counters": "DELETE FROM Settings",
    "a counter of text": "UPDATE Settings SET value = 'many' WHERE key = 'count'",
    "a trigger that keeps": "CREATE TRIGGER keep AFTER DELETE ON Cache BEGIN "
    "INSERT INTO Settings VALUES (hex(randomblob(8)), OLD.value); END",
    "a trigger that refuses": "CREATE TRIGGER no BEFORE INSERT ON Cache BEGIN SELECT RAISE(ABORT, 'no'); END",
    "another table": "CREATE TABLE kept (value)",
    "no table": "DROP TABLE Cache",
    "an endless view": "ALTER TABLE Cache RENAME TO Old; CREATE VIEW Cache AS WITH RECURSIVE n(key) AS "
    "(VALUES (1) UNION ALL SELECT key + 1 FROM n) SELECT key, key AS rowid FROM n",
}


@pytest.mark.parametrize("name", OTHER_ROWS)
def test_a_database_that_is_not_ours_is_made_anew(interrupted, right, outside, name):
    change(interrupted, *OTHER_ROWS[name].format(outside=outside).split("; ", 1 if "view" in name else 0))
    check(interrupted, right, encoded=len(FEW))


@pytest.fixture
def outside(tmp_path):
    """A folder beside the memory, in which nothing may happen."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "precious").write_text("of somebody else")
    with closing(sqlite3.connect(folder / "cache.db")) as connection, connection:
        connection.execute("CREATE TABLE precious (word)")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    yield folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_files_that_rows_name_are_not_read_or_removed(interrupted, right, outside):
    for name in ("../../outside/precious", str(outside / "precious")):
        change(interrupted, "UPDATE Cache SET filename = ?, mode = 2, value = NULL", arguments=(name,))
        shutil.copytree(interrupted, copy := interrupted.with_name("copy"))
        check(copy, right, encoded=len(FEW))
        shutil.rmtree(copy)


def damaged_file(data: bytes) -> bytes:
    return data[:100] + bytes(len(data) - 100)


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda _: b"no database",
        lambda data: data[:5000],
        damaged_file,
        lambda data: data[::-1],
    ],
    ids=["empty", "other", "cut", "zeroes", "reversed"],
)
def test_a_damaged_database_is_made_anew(interrupted, right, damage):
    path = interrupted / "cache" / "cache.db"
    path.with_name("cache.db-wal").unlink()
    path.write_bytes(damage(path.read_bytes()))
    check(interrupted, right)


TRAPS = {
    "the folder is a link": lambda cache, outside: linked(cache, outside),
    "the folder is a link to nothing": lambda cache, outside: linked(cache, outside / "new"),
    "the folder is a file": lambda cache, _: (shutil.rmtree(cache), cache.write_bytes(b"?")),
    "the file is a link": lambda cache, outside: linked(cache / "cache.db", outside / "cache.db"),
    "the file is a link to nothing": lambda cache, outside: linked(cache / "cache.db", outside / "new.db"),
    "the file is shared": lambda cache, outside: (
        (cache / "cache.db").unlink(),
        os.link(outside / "cache.db", cache / "cache.db"),
    ),
    "the file is a folder": lambda cache, _: ((cache / "cache.db").unlink(), (cache / "cache.db").mkdir()),
    "the file is a pipe": lambda cache, _: ((cache / "cache.db").unlink(), os.mkfifo(cache / "cache.db")),
    "the log is a link": lambda cache, outside: linked(cache / "cache.db-wal", outside / "precious"),
    "the index is a link": lambda cache, outside: linked(cache / "cache.db-shm", outside / "precious"),
    "a journal names a file": lambda cache, outside: (cache / "cache.db-journal").write_bytes(
        journal(str(outside / "precious").encode())
    ),
    "the file is gone": lambda cache, _: (cache / "cache.db").unlink(),
}


@pytest.mark.parametrize("name", TRAPS)
def test_nothing_outside_of_the_folder_is_touched(interrupted, right, outside, name):
    TRAPS[name](interrupted / "cache", outside)
    check(interrupted, right, encoded=len(FEW))


@pytest.mark.parametrize("name", TRAPS)
def test_a_trap_is_no_hindrance_to_erasure(interrupted, outside, name):
    TRAPS[name](interrupted / "cache", outside)
    with MemoryIndex.open(interrupted, encoder=ToyEncoder()) as memory:
        assert memory.stats().cache_bytes >= 0
        assert memory.remove(["unknown"], wait=0.1).erased
    words = [path.read_bytes() for path in (interrupted / "cache").glob("*")]
    assert not any(
        cache_module.hash_text((), document.text).hex().encode() in b"".join(words) for document in FEW
    )


def test_a_huge_value_is_dropped(interrupted, right):
    change(interrupted, "UPDATE Cache SET value = zeroblob(50000000) WHERE rowid = 1")
    check(interrupted, right, encoded=1)


def test_a_cache_that_another_process_holds_is_left_aside(interrupted, right, monkeypatch):
    monkeypatch.setattr(cache_module, "PATIENCE", 0.1)
    encoder = ToyEncoder()
    with (
        closing(sqlite3.connect(interrupted / "cache" / "cache.db", isolation_level=None)) as other,
        MemoryIndex.open(interrupted, encoder=encoder) as memory,
    ):
        other.execute("BEGIN IMMEDIATE")
        memory.add(FEW)
        assert vectors(memory) == right
        report = memory.remove([FEW[0].id], wait=0.1)
        assert not report.erased
        assert "embedding cache" in report.reason
        other.execute("ROLLBACK")
        assert memory.compact(wait=0.1).erased
    assert entries(interrupted) == 0


def test_a_path_is_taken_as_it_is(tmp_path, right, monkeypatch):
    """diskcache would put the cache of a folder `$ELSEWHERE` there."""
    monkeypatch.setenv("ELSEWHERE", str(tmp_path / "outside"))
    monkeypatch.chdir(tmp_path)
    with MemoryIndex.open("$ELSEWHERE/memory", encoder=ToyEncoder()) as memory:
        memory.add(FEW)
        assert vectors(memory) == right
        assert contents(memory).keys() == {((), document.id) for document in FEW}
    assert not (tmp_path / "outside").exists()
