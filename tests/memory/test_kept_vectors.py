"""What is made of chunks and kept beside them goes with them, whoever removes them and when."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from mllm_plugin import MemoryIndex, StoreBusyError
from mllm_plugin.store.cache import EmbeddingCache, hash_text
from tests.helpers.robustness_tools import KEPT
from tests.helpers.toy import ToyEncoder

VECTOR = np.ones(4, np.float32)
MARKS = {document.id: hash_text((), document.text) for document in KEPT}


@pytest.fixture
def memory(tmp_path):
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder()) as memory:
        memory.add(KEPT)
        yield memory


def entries(memory: MemoryIndex) -> dict[int, tuple]:
    chunks = {hit.document_id: hit.chunk_id for hit in memory.search("a", k=10, mode="exact")}
    return {chunks[name]: (mark, VECTOR, name.encode()) for name, mark in MARKS.items()}


def kept(cache: EmbeddingCache) -> set[str]:
    return {name for name, mark in MARKS.items() if cache.get(mark) is not None}


def test_nothing_is_kept_of_what_was_removed_meanwhile_even_when_the_cache_is_busy(memory, monkeypatch):
    cache, made = memory.vector_cache("llm", 4), entries(memory)
    memory.remove(["fox"])
    monkeypatch.setattr(EmbeddingCache, "erase", lambda *_: False)  # another process is using it
    memory.keep_vectors(cache, made)
    assert kept(cache) == {"lighthouse", "kettle"}


def test_no_removal_comes_between_the_look_and_the_keeping(memory, monkeypatch):
    cache, made, put, refused = memory.vector_cache("llm", 4), entries(memory), EmbeddingCache.put, []

    def slow_put(self, rows):
        with (
            MemoryIndex.open(memory.path, encoder=ToyEncoder(), timeout=0.05) as other,
            pytest.raises(StoreBusyError) as error,
        ):
            other.remove(["fox"], wait=0.05)
        refused.append(error)
        return put(self, rows)

    monkeypatch.setattr(EmbeddingCache, "put", slow_put)
    memory.keep_vectors(cache, made)
    assert (len(refused), kept(cache)) == (1, set(MARKS))
    assert memory.remove(["fox"]).erased
    assert kept(cache) == set()


def test_a_writer_that_takes_long_is_not_waited_for(memory, monkeypatch):
    monkeypatch.setattr("mllm_plugin.memory.handle._PATIENCE", 0.05)
    cache, made = memory.vector_cache("llm", 4), entries(memory)
    with MemoryIndex.open(memory.path, encoder=ToyEncoder()) as other, other._database.write():
        memory.keep_vectors(cache, made)
    assert kept(cache) == set()
    memory.keep_vectors(cache, made)
    assert kept(cache) == set(MARKS)


def open_files(folder: Path) -> list[str]:
    links = [link for link in Path("/proc/self/fd").iterdir() if link.exists() or link.is_symlink()]
    names = [str(link.readlink()) for link in links if link.is_symlink()]
    return [name for name in names if name.startswith(str(folder))]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to see open files")
def test_closing_closes_the_files_of_all_threads(tmp_path):
    memory = MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder())
    memory.add(KEPT)
    cache, made = memory.vector_cache("llm", 4), entries(memory)
    used, over = threading.Barrier(5), threading.Event()

    def use() -> None:
        memory.keep_vectors(cache, made)
        kept(cache)
        memory.search("fox")
        used.wait()
        over.wait()

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    used.wait()
    try:
        assert open_files(tmp_path)
        memory.close()
        assert open_files(tmp_path) == []
    finally:
        over.set()
        for thread in threads:
            thread.join()
    with closing(sqlite3.connect(tmp_path / "memory" / "cache" / "cache.db")) as connection:
        assert connection.execute("SELECT count(*) FROM Cache").fetchone() == (len(KEPT),)
