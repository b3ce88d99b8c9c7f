"""Memories of older formats open, answer and verify; a step of the format is taken whole or not at all."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path
from types import ModuleType

import apsw
import pytest

from mllm_plugin import Document, FormatVersionError, MemoryIndex, StoreError, clock, repair
from mllm_plugin.store import creation, schema
from mllm_plugin.store.database import FILE_NAME
from tests.helpers.toy import ToyEncoder


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


made, made_2 = script("make_memory_of_format_1"), script("make_memory_of_format_2")


@pytest.fixture
def folder(tmp_path) -> Path:
    path = tmp_path / "memory"
    path.mkdir()
    (path / FILE_NAME).write_bytes(gzip.decompress(made.FIXTURE.read_bytes()))
    return path


@pytest.fixture
def next_format(monkeypatch):
    """A release whose format has one table more."""

    def m003_notes(connection: apsw.Connection) -> None:
        connection.execute("CREATE TABLE notes (document_rowid INTEGER PRIMARY KEY, note TEXT)")
        connection.execute("INSERT INTO notes SELECT document_rowid, 'kept' FROM documents")

    monkeypatch.setitem(schema.MIGRATIONS, 3, m003_notes)
    monkeypatch.setattr(schema, "FORMAT_VERSION", 3)
    monkeypatch.setattr(creation, "FORMAT_VERSION", 3)


def check(memory: MemoryIndex) -> None:
    assert memory.verify().problems == ()
    stored = {one.id: one for one in memory.documents()}
    for document in made.DOCUMENTS:
        found = stored[document.id]
        assert (found.text, found.metadata, found.labels) == (
            document.text,
            document.metadata,
            document.labels,
        )
        assert found.masks == (("draft",) if document.metadata["number"] < 3 else ())
    assert memory.search(made.DOCUMENTS[17].text, k=1)[0].document_id == "room-17"
    assert memory.search("door", k=50, filter={"colour": "red", "number": {"$gte": 3}}, mode="exact")
    assert memory.search("key", k=1, namespace=("users", "anna"))[0].document_id == made.PRIVATE.id
    assert memory.stats().namespaces[0].levels[-1].level >= 2


@pytest.mark.parametrize("read_only", [False, True], ids=["writable", "read-only"])
def test_a_memory_of_format_1_opens_answers_and_verifies(folder, read_only):
    with MemoryIndex.open(folder, encoder=ToyEncoder(made.DIM), read_only=read_only) as memory:
        check(memory)


def test_a_memory_of_format_1_is_read_without_being_written_and_gets_times_when_it_is(folder):
    before = (folder / FILE_NAME).read_bytes()
    with MemoryIndex.open(folder, encoder=ToyEncoder(made.DIM), read_only=True) as reader:
        stored = reader.get("room-7")[0]
        assert (stored.created_at, stored.updated_at, stored.version) == (None, None, 0)
        assert reader.search("door", k=99, as_of="2020-01-01")
        assert not reader.search("door", k=99, since="2020-01-01")
        assert [one.id for one in reader.documents(order="-updated_at", limit=2)] == ["vector", "whole"]
        assert (folder / FILE_NAME).read_bytes() == before
        with MemoryIndex.open(folder, encoder=ToyEncoder(made.DIM)) as memory:
            report = memory.update("room-7", expires_at="2020-01-01", if_version=0)
            assert (report.document.created_at, report.document.masks) == (None, ("expired",))
            memory.add([Document("a room of today", id="new")])
            check_but(memory, "room-7")
        check_but(reader, "room-7")
        assert reader.get("room-7")[0].version == report.document.version
        assert reader.get("new")[0].created_at is not None


def check_but(memory: MemoryIndex, gone: str) -> None:
    assert memory.verify().problems == ()
    found = {one.document_id for one in memory.search("room", k=99, exact=True)}
    assert len(found) == 43 - 1 - 3
    assert gone not in found


@pytest.mark.parametrize("read_only", [False, True], ids=["writable", "read-only"])
def test_a_memory_of_format_2_has_its_times(tmp_path, read_only):
    (tmp_path / FILE_NAME).write_bytes(gzip.decompress(made_2.FIXTURE.read_bytes()))
    with MemoryIndex.open(tmp_path, encoder=ToyEncoder(made_2.DIM), read_only=read_only) as memory:
        assert memory.verify().problems == ()
        stored = {one.id: one for one in memory.documents(namespace="doors")}
        for document in made_2.DOCUMENTS:
            one = stored[document.id]
            for name in ("expires_at", "valid_from", "valid_to"):
                assert clock.moment(name, getattr(one, name)) == clock.moment(name, getattr(document, name))
            assert one.created_at == stored["was"].created_at
        assert stored["is"].updated_at > stored["is"].created_at
        assert stored["is"].version > stored["was"].version
        assert stored["gone"].masks == ("expired",)
        found = {one.document_id for one in memory.search("door", namespace="doors")}
        assert found == {"is", "long"}
        (then,) = memory.search("door", namespace="doors", as_of="2021-01-01")
        assert then.document_id == "was"


def test_a_memory_of_format_1_is_edited_and_repaired(folder, tmp_path):
    with MemoryIndex.open(folder, encoder=ToyEncoder(made.DIM)) as memory:
        memory.add([Document("a new room", id="new")])
        assert memory.remove(["new"]).erased
        check(memory)
    assert repair(folder, tmp_path / "repaired", progress=False).lost == ()
    with MemoryIndex.open(tmp_path / "repaired", encoder=ToyEncoder(made.DIM)) as memory:
        check(memory)


def test_the_next_format_is_reached_on_opening(folder, next_format):
    with pytest.raises(FormatVersionError, match="open it once for writing"):
        MemoryIndex.open(folder, encoder=ToyEncoder(made.DIM), read_only=True)
    for _ in range(2):
        with MemoryIndex.open(folder, encoder=ToyEncoder(made.DIM)) as memory, memory._database.read() as tx:
            assert tx.pragma("user_version") == 3
            assert tx.execute("SELECT count(*) FROM notes WHERE note = 'kept'").get == 43
            check(memory)
    with MemoryIndex.open(folder, encoder=ToyEncoder(made.DIM), read_only=True) as memory:
        check(memory)


def test_a_new_memory_has_the_newest_format(tmp_path, next_format):
    with MemoryIndex.open(tmp_path / "new", encoder=ToyEncoder()) as memory, memory._database.read() as tx:
        assert tx.pragma("user_version") == 3
        assert memory.verify().ok


def test_a_step_that_fails_leaves_the_file_as_it_was(folder, next_format, monkeypatch):
    step = schema.MIGRATIONS[3]

    def fails(connection: apsw.Connection) -> None:
        step(connection)
        raise apsw.FullError("refused on purpose")

    before = (folder / FILE_NAME).read_bytes()
    with monkeypatch.context() as patch:
        patch.setitem(schema.MIGRATIONS, 3, fails)
        with pytest.raises(StoreError, match="no space left"):
            MemoryIndex.open(folder, encoder=ToyEncoder(made.DIM))
    assert sorted(path.name for path in folder.iterdir() if path.stat().st_size) == [FILE_NAME]
    after = (folder / FILE_NAME).read_bytes()
    assert after[schema.PAGE_SIZE :] == before[schema.PAGE_SIZE :], "the first page tells that there is a log"
    with MemoryIndex.open(folder, encoder=ToyEncoder(made.DIM)) as memory:
        check(memory)
