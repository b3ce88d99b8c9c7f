"""What fails after a commit is reported and never raised: the write is kept."""

from __future__ import annotations

import sqlite3

import apsw
import pytest

from mllm_plugin import DiskFullError, Document, IndexBuilder, MemoryIndex
from mllm_plugin.hierarchy import Hierarchy, MeanLevelEncoder
from mllm_plugin.store import database
from mllm_plugin.store.cache import EmbeddingCache
from tests.helpers.faulty_disk_tools import broken, faulty_disk, full
from tests.helpers.robustness_tools import KEPT, assert_sound, some_documents
from tests.helpers.toy import ToyEncoder

NEW = Document("new words", id="fox")


@pytest.fixture
def disk(monkeypatch):
    with faulty_disk(monkeypatch) as found:
        yield found


@pytest.fixture
def memory(tmp_path, disk):
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder()) as memory:
        memory.add(KEPT)
        yield memory


@pytest.mark.parametrize("fault", [full, broken])
def test_a_replaced_text_that_cannot_be_erased_is_reported(memory, disk, fault):
    disk.fault = fault
    report = memory.add([NEW])
    assert (report.updated, report.erased) == (1, False)
    assert "could not be emptied" in report.reason
    assert "call compact()" in report.reason
    disk.fault = None
    assert memory.get("fox")[0].text == "new words"
    assert memory.compact().erased
    assert b"frozen river" not in (memory.path / "memory.db").read_bytes()
    assert_sound(memory, ["fox", "kettle", "lighthouse"])


@pytest.mark.parametrize("fault", [full, broken])
def test_a_removal_is_reported(memory, disk, fault):
    disk.fault = fault
    report = memory.remove(["fox"])
    assert (report.documents, report.erased) == (1, False)
    assert "call compact()" in report.reason
    disk.fault = None
    assert memory.remove(["kettle"]).erased
    assert_sound(memory, ["lighthouse"])


def test_an_installation_is_reported(memory, disk):
    disk.fault = full
    report = memory.install(Hierarchy(level_encoders={2: MeanLevelEncoder()}, fingerprint="other"))
    assert (report.fingerprint, report.erased) == ("other", False)
    assert "call compact()" in report.reason
    assert memory.hierarchy.fingerprint == "other"


def test_imported_records_are_reported(memory, disk):
    record = {"id": "fox", "text": "new words"}
    disk.fault = full
    report = memory.import_records([record])
    assert (report.updated, report.erased) == (1, False)
    assert "call compact()" in report.reason


@pytest.mark.parametrize("fault", [full, broken])
def test_a_log_that_grows_long_on_a_full_disk_keeps_every_write(memory, disk, fault, monkeypatch):
    """A long log is moved into the file right after a commit, by the commit's own call."""
    monkeypatch.setattr(database, "_LONG_LOG", 4)
    disk.fault = fault
    for document in some_documents(20):
        assert memory.add([document]).added == 1
    assert memory.add([NEW]).updated == 1
    memory.close()
    disk.fault = None
    with MemoryIndex.open(memory.path, encoder=ToyEncoder()) as again:
        assert_sound(again, [one.id for one in (*KEPT, *some_documents(20))])


def test_a_long_log_is_moved_into_the_file(memory, monkeypatch):
    monkeypatch.setattr(database, "_LONG_LOG", 4)
    memory._handle.database.truncate_log(1.0)
    size = (memory.path / "memory.db").stat().st_size
    memory.add([Document("many words " * 20_000, id="big")])
    assert (memory.path / "memory.db").stat().st_size > size


def no_log(what, is_main):
    """The log has no room."""
    if not is_main and what == "write":
        raise apsw.FullError("database or disk is full")


def test_a_build_whose_tree_cannot_be_grouped_is_reported(memory, disk, monkeypatch):
    documents = some_documents(70)
    regroup = memory.regroup

    def without_space(*arguments, **options):
        disk.fault = no_log
        return regroup(*arguments, **options)

    monkeypatch.setattr(memory, "regroup", without_space)
    report = IndexBuilder(memory, progress=False).build(documents)
    assert report.added == 70
    assert "still provisional (database or disk is full); call compact()" in report.reason
    disk.fault = None
    monkeypatch.undo()
    assert memory.compact().trees_rebuilt == 1
    assert_sound(memory, [one.id for one in (*KEPT, *documents)])


def test_a_cache_that_cannot_be_erased_is_reported(memory, monkeypatch):
    def locked(self, wait):
        raise sqlite3.DatabaseError("file is not a database")

    monkeypatch.setattr(EmbeddingCache, "erase", locked)
    report = memory.remove(["fox"])
    assert (report.documents, report.erased) == (1, False)
    assert "file is not a database" in report.reason


# -- closing


@pytest.mark.parametrize("fault", [full, broken])
def test_closing_on_a_failing_disk_closes_everything_and_loses_nothing(memory, disk, fault):
    memory.add([NEW, *some_documents(5)])
    disk.fault = fault
    memory.close()
    assert memory._handle.cache._opened is None
    assert memory._handle.database._writer is None
    disk.fault = None
    with MemoryIndex.open(memory.path, encoder=ToyEncoder()) as again:
        assert again.get("fox")[0].text == "new words"
        assert_sound(again, [one.id for one in (*KEPT, *some_documents(5))])


def test_a_cache_that_cannot_be_closed_does_not_keep_the_rest_open(memory, monkeypatch):
    def failing(self):
        raise sqlite3.OperationalError("disk I/O error")

    cache = memory.vector_cache("of a model", 4)
    monkeypatch.setattr(cache, "close", failing.__get__(cache))
    memory.close()
    assert memory._handle.cache._opened is None
    assert memory._handle.database._writer is None


def test_a_write_that_fails_before_the_commit_still_raises(memory, disk):
    disk.fault = no_log
    with pytest.raises(DiskFullError, match="nothing of this write was kept"):
        memory.add([NEW])
    disk.fault = None
    assert memory.get("fox")[0].text == KEPT[2].text
