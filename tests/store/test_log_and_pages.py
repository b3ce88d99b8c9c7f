"""SQLite's log and pages, read beside SQLite: they hold what SQLite says they hold."""

from __future__ import annotations

import random

import pytest

from mllm_plugin import Document, MemoryIndex
from mllm_plugin.store.checksums import checksum, page_is_sound
from mllm_plugin.store.database import FILE_NAME
from mllm_plugin.store.log import log_of, read_log
from mllm_plugin.store.pages import Pages
from mllm_plugin.store.salvage import Salvage
from mllm_plugin.store.schema import PAGE_SIZE
from tests.helpers.file_tools import rows, value
from tests.helpers.toy import ToyEncoder


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_checksum_is_sqlites(order):
    """The loop of the file format's description, word by word."""
    data = random.Random(3).randbytes(64)
    a, b = 5, 7
    for at in range(0, len(data), 8):
        x, y = (
            int.from_bytes(data[at + more : at + more + 4], "little" if order == "<" else "big")
            for more in (0, 4)
        )
        a = (a + x + b) & 0xFFFFFFFF
        b = (b + y + a) & 0xFFFFFFFF
    assert checksum(data, (5, 7), order) == (a, b)
    assert checksum(data[32:], checksum(data[:32], (5, 7), order), order) == (a, b)


@pytest.fixture
def copy(stocked, tmp_path):
    """File and log as they are while the memory is open."""
    for name in (FILE_NAME, f"{FILE_NAME}-wal"):
        (tmp_path / name).write_bytes((stocked.path / name).read_bytes())
    return tmp_path / FILE_NAME


def test_a_log_holds_whole_transactions_and_tells_of_lost_ones(copy):
    whole = read_log(log_of(copy))
    assert whole.places
    assert whole.lost == 0
    data = bytearray(log_of(copy).read_bytes())
    first = min(whole.places.values())
    data[first + 9] ^= 1
    log_of(copy).write_bytes(data)
    damaged = read_log(log_of(copy))
    assert len(damaged.places) < len(whole.places)
    assert damaged.lost > 0
    assert read_log(copy.with_name("none")) == ({}, 0, 0)


def test_every_page_of_a_file_is_sound_until_a_bit_turns(stocked):
    stocked.close()
    data = (stocked.path / FILE_NAME).read_bytes()
    pages = [data[at : at + PAGE_SIZE] for at in range(0, len(data), PAGE_SIZE)]
    assert all(map(page_is_sound, pages))
    assert not page_is_sound(bytes(PAGE_SIZE))
    assert not page_is_sound(pages[1][:-1] + bytes([pages[1][-1] ^ 1]))


def test_rows_read_from_pages_are_those_of_sqlite(tmp_path):
    """Long texts, so that rows go on over several pages, and enough of them for a tree of pages."""
    with MemoryIndex.open(tmp_path, encoder=ToyEncoder()) as memory:
        memory.add(Document(f"text {place} " * (1 + place * 40), id=f"d{place}") for place in range(90))
    root = value(tmp_path, "SELECT rootpage FROM sqlite_master WHERE name = 'documents'")
    pages = Pages(tmp_path / FILE_NAME)
    try:
        found = {cell.rowid: pages.row(cell) for cell in pages.cells(root)}
    finally:
        pages.close()
    stored = rows(tmp_path, "SELECT document_rowid, id, text FROM documents")
    assert pages.damaged == set()
    assert len(found) == len(stored) == 90
    for rowid, name, text in stored:
        assert name in found[rowid]
        assert text in found[rowid]


def test_salvage_reads_documents_with_vectors_and_masks(source):
    source.close()
    salvage = Salvage(source.path / FILE_NAME)
    try:
        found = {(one.namespace, one.id): one for one in salvage.documents()}
        assert set(salvage.known_documents()) == found.keys()
    finally:
        salvage.close()
    assert found[(), "d3"].masks == ("", "draft")
    assert found[("users", "bob"), "note"].text == "the password of bob"
    assert len(found) == 60 + 3 + 1 + 1 + 1 + 1 + 3 + 1
