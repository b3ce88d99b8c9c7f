"""Scrubbed pages hold the same rows and nothing that was deleted."""

from __future__ import annotations

import hashlib
import random
import re

import apsw
import pytest

from mllm_plugin.store.connections import checksum_vfs
from mllm_plugin.store.schema import CHECKSUM_BYTES, PAGE_SIZE
from mllm_plugin.store.scrub import scrub_page, scrub_vfs


@pytest.mark.parametrize("seed", range(3))
def test_random_histories(tmp_path, seed):
    path, base = tmp_path / "scrubbed.db", checksum_vfs()
    connection = apsw.Connection(str(path), vfs=scrub_vfs(base))
    connection.reserve_bytes("main", CHECKSUM_BYTES)
    connection.pragma("page_size", PAGE_SIZE)
    connection.pragma("auto_vacuum", 2)
    connection.pragma("secure_delete", True)
    connection.pragma("journal_mode", "wal")
    connection.execute("CREATE TABLE words (k TEXT PRIMARY KEY, b BLOB) WITHOUT ROWID")
    connection.execute("CREATE TABLE rows (i INTEGER PRIMARY KEY, b BLOB)")
    connection.execute("CREATE INDEX rows_by_b ON rows (b)")
    rng = random.Random(seed)
    live: dict[str, bytes] = {}
    for step in range(40):
        with connection:
            for _ in range(40):
                name = "canary" + hashlib.md5(rng.randbytes(8)).hexdigest()
                live[name] = name.encode() * rng.choice([1, 5, 40, 400, 900])
                connection.execute("INSERT INTO words VALUES (?, ?)", (name, live[name]))
                connection.execute("INSERT INTO rows (b) VALUES (?)", (live[name][:300],))
        with connection:
            for name in rng.sample(sorted(live), 25):
                connection.execute("DELETE FROM words WHERE k = ?", (name,))
                connection.execute("DELETE FROM rows WHERE b = ?", (live.pop(name)[:300],))
        if step % 5 == 4:
            list(connection.execute("PRAGMA incremental_vacuum"))
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    connection.close()

    plain = apsw.Connection(str(path), vfs=base)
    assert plain.pragma("integrity_check") == "ok"
    assert dict(plain.execute("SELECT k, b FROM words")) == live
    assert plain.execute("SELECT count(*) FROM rows").get == len(live)
    plain.close()
    left = set(re.findall(rb"canary[0-9a-f]{32}", path.read_bytes()))
    assert left == {name.encode() for name in live}


@pytest.mark.parametrize("first", [0x00, 0x01, 0x02, 0x05, 0x0A, 0x0D, 0xFF], ids=hex)
def test_what_is_no_sound_page_is_left_alone(first):
    page = bytes([first]) + b"\xff" * (PAGE_SIZE - 1)
    assert scrub_page(page, 7) == page


def test_pointer_map_pages_are_left_alone():
    page = bytes([0x05]) + bytes(4) + b"\x05\x00\x00\x00\x07" * 100
    page = page.ljust(PAGE_SIZE, b"\0")
    step = (PAGE_SIZE - CHECKSUM_BYTES) // 5 + 1
    for number in (2, 2 + step, 2 + 5 * step):
        assert scrub_page(page, number) == page
