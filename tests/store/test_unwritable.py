"""Nothing can be written: read-only, no space, another writer, a network file system."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from mllm_plugin import (
    DiskFullError,
    Document,
    IndexBuilder,
    MemoryIndex,
    ReadOnlyStoreError,
    StoreBusyError,
    StoreError,
    UnsupportedFilesystemError,
)
from mllm_plugin.store.database import FILE_NAME
from mllm_plugin.store.filesystem import refuse_network_filesystem
from tests.helpers.file_tools import changing, own_database
from tests.helpers.robustness_tools import (
    KEPT,
    answers,
    assert_sound,
    contents,
    finish,
    some_documents,
    start_python,
    unharmed,
)
from tests.helpers.toy import ToyEncoder

BIG = [Document("many words " * 20_000, id=f"big{number}") for number in range(3)]
WRITES = {
    "add": lambda memory: memory.add([Document("new words", id="new")]),
    "add-vectors": lambda memory: memory.add([Document("new words", id="new")], embeddings=[[1.0] * 16]),
    "update": lambda memory: memory.add([Document("new words", id="fox")]),
    "metadata": lambda memory: memory.add([Document(KEPT[2].text, id="fox", metadata={"year": 1})]),
    "build": lambda memory: IndexBuilder(memory, progress=False).build([Document("new words", id="new")]),
    "mask": lambda memory: memory.mask(["fox"]),
    "unmask": lambda memory: memory.unmask(["fox"]),
    "remove": lambda memory: memory.remove(["fox"]),
    "compact": lambda memory: memory.compact(),
    "regroup": lambda memory: memory.regroup(),
    "import": lambda memory: memory.import_records([{"id": "a", "text": "b"}]),
}


# -- read-only
# -------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "memory"
    with MemoryIndex.open(path, encoder=ToyEncoder()) as memory:
        memory.add(KEPT)
    return path


def snapshot(folder):
    """Names and bytes of all files but SQLite's shared memory, which readers need."""
    files = (
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(("-shm", "-wal"))
    )
    return {path.name: path.read_bytes() for path in files}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_read_only_refuses_writes(folder, write):
    before = snapshot(folder)
    with (
        MemoryIndex.open(folder, encoder=ToyEncoder(), read_only=True) as memory,
        unharmed(memory),
        pytest.raises(ReadOnlyStoreError, match="opened read-only"),
    ):
        write(memory)
    assert snapshot(folder) == before


def test_read_only_reads_everything(folder, tmp_path):
    with MemoryIndex.open(folder, encoder=ToyEncoder()) as memory:
        expected = contents(memory), answers(memory, ["fox"], mode="beam"), memory.stats().documents
    with MemoryIndex.open(folder, encoder=ToyEncoder(), read_only=True) as memory:
        assert (contents(memory), answers(memory, ["fox"], mode="beam"), memory.stats().documents) == expected
        assert memory.verify().ok
        assert len(list(memory.export())) == len(KEPT)
        memory.backup(tmp_path / "backup.db")
    assert (tmp_path / "backup.db").exists()


def test_read_only_sees_what_another_writes(folder):
    with (
        MemoryIndex.open(folder, encoder=ToyEncoder()) as writer,
        MemoryIndex.open(folder, encoder=ToyEncoder(), read_only=True) as reader,
    ):
        assert len(reader.search("fox", k=9)) == 3
        writer.add([Document("a second fox", id="fox2")])
        assert len(reader.search("fox", k=9)) == 4


def test_search_in_an_unwritable_folder(folder, unwritable):
    with MemoryIndex.open(folder, encoder=ToyEncoder()) as memory:
        expected = contents(memory), answers(memory, ["fox ships"])
    with unwritable(folder), MemoryIndex.open(folder, encoder=ToyEncoder(), read_only=True) as memory:
        assert (contents(memory), answers(memory, ["fox ships"])) == expected
        assert memory.verify().ok


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_writes_to_an_unwritable_file_in_a_writable_folder(folder, unwritable, write):
    before = (folder / FILE_NAME).read_bytes()
    with unwritable(folder / FILE_NAME):
        with MemoryIndex.open(folder, encoder=ToyEncoder()) as memory:
            assert len(memory.search("fox", k=9)) == 3
            with pytest.raises(ReadOnlyStoreError, match="cannot be written"):
                write(memory)
        with MemoryIndex.open(folder, encoder=ToyEncoder(), read_only=True) as memory:
            assert memory.verify().ok
    assert (folder / FILE_NAME).read_bytes() == before


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("read_only", [False, True], ids=["opened-for-writing", "read-only"])
def test_writes_in_an_unwritable_folder(folder, unwritable, write, read_only):
    before = snapshot(folder)
    with (
        unwritable(folder),
        pytest.raises(ReadOnlyStoreError),
        MemoryIndex.open(folder, encoder=ToyEncoder(), read_only=read_only) as memory,
    ):
        write(memory)
    assert snapshot(folder) == before


def test_opening_for_writing_in_an_unwritable_folder_says_what_to_do(folder, unwritable):
    with unwritable(folder), pytest.raises(ReadOnlyStoreError, match="read_only=True"):
        MemoryIndex.open(folder, encoder=ToyEncoder()).add([Document("new words")])


def test_creating_in_an_unwritable_folder(tmp_path, unwritable):
    parent = tmp_path / "parent"
    parent.mkdir()
    with unwritable(parent), pytest.raises(ReadOnlyStoreError, match="cannot"):
        MemoryIndex.open(parent / "memory", encoder=ToyEncoder())
    assert list(parent.iterdir()) == []


@pytest.mark.parametrize("shared_memory", [True, False], ids=["with-shm", "without-shm"])
def test_an_unwritable_folder_with_an_unfinished_log(folder, unwritable, shared_memory):
    """What a killed writer committed lies in the log; a reader that cannot use the log must not ignore it."""
    finish(start_python(KILLED_WRITER, folder), expected=-signal.SIGKILL)
    assert (folder / f"{FILE_NAME}-wal").stat().st_size > 0
    if not shared_memory:
        (folder / f"{FILE_NAME}-shm").unlink()
    with unwritable(folder):
        try:
            with MemoryIndex.open(folder, encoder=ToyEncoder(), read_only=True) as memory:
                found = sorted(document.id for document in memory.documents())
        except StoreError:
            return
    assert found == ["fox", "kettle", "late", "lighthouse"]


KILLED_WRITER = """
import os, signal, sys
from mllm_plugin import Document, MemoryIndex
from tests.helpers.toy import ToyEncoder
memory = MemoryIndex.open(sys.argv[1], encoder=ToyEncoder())
memory.add([Document("committed late", id="late")])
os.kill(os.getpid(), signal.SIGKILL)
"""


# -- no space
# --------------------------------------------------------------------------------------------------------


def limit_pages(memory: MemoryIndex, spare: int | None) -> None:
    """Lets the file grow by `spare` pages at most, as a full disk would."""

    def limit(connection):
        most = 1 << 30 if spare is None else connection.pragma("page_count") + spare
        return connection.pragma("max_page_count", most)

    own_database(memory).exclusive(limit)


@pytest.mark.parametrize("spare", [0, 1, 3, 10])
def test_a_write_without_space_is_rolled_back(stocked, spare):
    limit_pages(stocked, spare)
    with unharmed(stocked), pytest.raises(DiskFullError, match="no space left"):
        stocked.add([*some_documents(20), *BIG])
    with unharmed(stocked), pytest.raises(DiskFullError, match="no space left"):
        stocked.add([Document(BIG[0].text, id="fox")])
    limit_pages(stocked, None)
    assert stocked.add(BIG).added == 3
    assert_sound(stocked, [*(document.id for document in KEPT), "big0", "big1", "big2"])


def test_what_fits_still_works_without_space(stocked):
    stocked.add(BIG[:1])
    stocked.remove(["big0"])
    limit_pages(stocked, 0)
    assert stocked.mask(["fox"]).documents == 1
    assert stocked.unmask(["fox"]).documents == 1
    assert stocked.remove(["fox"]).erased
    assert_sound(stocked, ["lighthouse", "kettle"])


def test_a_bulk_build_without_space_keeps_the_batches_before(stocked):
    limit_pages(stocked, 40)
    documents = [*some_documents(20), *BIG]
    with pytest.raises(DiskFullError):
        IndexBuilder(stocked, batch_size=10, progress=False).build(documents)
    assert_sound(stocked, [document.id for document in [*KEPT, *documents[:20]]])
    limit_pages(stocked, None)
    assert IndexBuilder(stocked, batch_size=10, progress=False).build(documents).added == 3
    assert_sound(stocked, [document.id for document in [*KEPT, *documents]])


def fill(memory: MemoryIndex) -> None:
    for number in range(100):
        memory.add(some_documents(30, prefix=f"p{number}-", words=60))


def test_a_really_full_disk(small_disk):
    with MemoryIndex.open(small_disk / "memory", encoder=ToyEncoder()) as memory:
        memory.add(KEPT)
        with pytest.raises(DiskFullError):
            fill(memory)
        assert memory.verify().problems == ()
        kept = sorted(document.id for document in memory.documents())
        assert {"fox", "kettle", "lighthouse"} <= set(kept)
        assert memory.search("fox crosses the frozen river", k=1)[0].document_id == "fox"
    with MemoryIndex.open(small_disk / "memory", encoder=ToyEncoder()) as memory:
        assert_sound(memory, kept)


# -- another writer
# --------------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(stocked):
    with MemoryIndex.open(stocked.path, encoder=ToyEncoder(), timeout=0.3) as memory:
        yield memory


@pytest.mark.parametrize(
    "write",
    [WRITES[name] for name in ("add", "mask", "remove", "build")],
    ids=["add", "mask", "remove", "build"],
)
def test_a_writer_that_waits_too_long(stocked, impatient, write):
    with unharmed(stocked), changing(stocked):
        started = time.perf_counter()
        with pytest.raises(StoreBusyError, match=r"held .* for more than 0\.3 s; nothing was written"):
            write(impatient)
        assert 0.25 < time.perf_counter() - started < 2
        assert len(impatient.search("ships")) == 3
    write(impatient)
    assert impatient.verify().problems == ()


def test_a_thread_that_waits_too_long(impatient):
    entered, leave = threading.Event(), threading.Event()

    def hold():
        with own_database(impatient).write():
            entered.set()
            leave.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    entered.wait(10)
    try:
        started = time.perf_counter()
        with pytest.raises(StoreBusyError, match="nothing was written"):
            impatient.mask(["fox"])
        assert time.perf_counter() - started < 2
    finally:
        leave.set()
        holder.join()
    assert impatient.mask(["fox"]).documents == 1


def test_a_write_waits_for_its_turn(stocked):
    with MemoryIndex.open(stocked.path, encoder=ToyEncoder(), timeout=20) as patient:
        with changing(stocked):
            late = threading.Thread(target=lambda: patient.mask(["fox"]))
            late.start()
            time.sleep(0.2)
        late.join(10)
    assert stocked.get(["fox"])[0].masks == ("",)


def test_compact_while_another_writes_is_busy_or_done(stocked, impatient):
    with unharmed(stocked), changing(stocked):
        started = time.perf_counter()
        with pytest.raises(StoreBusyError):
            impatient.compact()
        assert time.perf_counter() - started < 3


def test_a_locked_embedding_cache_is_no_strange_error(stocked):
    """The cache only saves time: another process that holds it must not break a write."""
    stocked.add([Document("makes the cache", id="cached")])
    holder = sqlite3.connect(stocked.path / "cache" / "cache.db", isolation_level=None, timeout=0)
    try:
        holder.execute("BEGIN")
        holder.execute("SELECT * FROM Settings").fetchall()
        started = time.perf_counter()
        report = stocked.remove(["cached"], wait=0.2)
        assert time.perf_counter() - started < 3, "wait= holds for the cache too"
        assert report.documents == 1
        assert report.erased or report.reason
    finally:
        holder.close()
    assert stocked.verify().problems == ()


# -- network file systems
# --------------------------------------------------------------------------------------------

MOUNTS = """
/dev/sda1 / ext4 rw 0 0
server:/export /data nfs4 rw,vers=4.2 0 0
//host/share /media/my\\040share cifs rw 0 0
/dev/sdb1 /data/local xfs rw 0 0
user@host: /home/me/remote fuse.sshfs rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/data/memory", "nfs4"),
        ("/data", "nfs4"),
        ("/media/my share/memory", "cifs"),
        ("/home/me/remote/a/b", "fuse.sshfs"),
        ("/srv/memory", None),
        ("/data/local/memory", None),
        ("/database", None),
    ],
)
def test_network_file_systems_are_refused(tmp_path, folder, kind):
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS.lstrip())
    if kind is None:
        refuse_network_filesystem(Path(folder), mounts)
        return
    with pytest.raises(UnsupportedFilesystemError, match=rf"network file system \({kind}\).*local disk"):
        refuse_network_filesystem(Path(folder), mounts)


def test_opening_on_a_network_file_system_creates_nothing(tmp_path, monkeypatch):
    mounts = tmp_path / "mounts"
    mounts.write_text(f"server:/export {tmp_path} nfs rw 0 0\n")
    monkeypatch.setattr(refuse_network_filesystem, "__defaults__", (mounts,))
    with pytest.raises(UnsupportedFilesystemError, match="nfs"):
        MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder())
    assert os.listdir(tmp_path) == ["mounts"]
