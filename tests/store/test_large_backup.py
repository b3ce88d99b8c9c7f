"""A backup larger than SQLite's page cache, of a memory whose pages are still in the write-ahead log."""

from __future__ import annotations

from mllm_plugin import Document, IndexBuilder, MemoryIndex
from tests.helpers.toy import ToyEncoder

_DOCUMENTS, _DIM = 2500, 256


def test_a_large_backup_of_a_memory_just_built_can_be_read(tmp_path):
    (tmp_path / "copy").mkdir()
    words = " ".join(f"w{place}" for place in range(40))
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder(_DIM), hierarchy="identity") as memory:
        documents = (Document(f"{words} n{place} {words}", id=str(place)) for place in range(_DOCUMENTS))
        IndexBuilder(memory, progress=False, batch_size=250).build(documents)
        memory.backup(tmp_path / "copy" / "memory.db")
    assert (tmp_path / "copy" / "memory.db").stat().st_size > 4_000_000
    with MemoryIndex.open(tmp_path / "copy", encoder=ToyEncoder(_DIM)) as copy:
        assert copy.verify().ok
        assert copy.stats().chunks == _DOCUMENTS


def test_a_copy_may_have_a_long_name(tmp_path):
    names = ["x" * 240, "ж" * 120]
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder()) as memory:
        memory.add([Document("the old lighthouse keeper", id="a")])
        for name in names:
            memory.backup(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["memory", *names])
