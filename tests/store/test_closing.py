"""Closing a memory, and opening one, where the system refuses."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import apsw
import pytest

from mllm_plugin import MemoryIndex, StoreError
from mllm_plugin.store.cache import EmbeddingCache
from tests.helpers.faulty_disk_tools import faulty_disk
from tests.helpers.robustness_tools import KEPT, assert_sound
from tests.helpers.toy import ToyEncoder

resource = pytest.importorskip("resource", reason="limits of open files are known on Unix alone")

IDS = [document.id for document in KEPT]


def open_files() -> set[str]:
    return {os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()}


@pytest.mark.parametrize("what", ["write", "truncate", "sync"])
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to see open files")
def test_closing_on_a_full_disk_closes_everything_and_loses_nothing(tmp_path, monkeypatch, what):
    folder = tmp_path / "memory"
    with faulty_disk(monkeypatch) as disk:
        memory = MemoryIndex.open(folder, encoder=ToyEncoder())
        memory.add(KEPT)
        memory._handle.ingest.prepare(KEPT, (), True)

        def full(call: str, _: bool) -> None:
            if call == what:
                raise apsw.FullError

        disk.fault = full
        memory.close()
        assert not [name for name in open_files() if name.startswith(str(tmp_path))]
    with MemoryIndex.open(folder, encoder=ToyEncoder()) as memory:
        assert_sound(memory, IDS)


def test_a_cache_that_cannot_be_closed_leaves_nothing_open(tmp_path, monkeypatch):
    memory = MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder())
    memory.add(KEPT)

    def refused(_: EmbeddingCache) -> None:
        raise OSError(errno.EIO, "refused")

    monkeypatch.setattr(EmbeddingCache, "close", refused)
    memory.close()
    assert not [name for name in open_files() if "memory.db" in name and name.startswith(str(tmp_path))]


@pytest.mark.parametrize("read_only", [False, True], ids=["writable", "read-only"])
def test_without_file_handles_the_error_says_so(tmp_path, read_only):
    """SQLite says "unable to open", which looks like missing permissions."""
    folder = tmp_path / "memory"
    with MemoryIndex.open(folder, encoder=ToyEncoder()) as memory:
        memory.add(KEPT)
    limits, held = resource.getrlimit(resource.RLIMIT_NOFILE), []
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 8, limits[1]))
    errors = []
    try:
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        for spare in range(4):  # with so many handles left, the opening fails at another place
            try:
                MemoryIndex.open(folder, encoder=ToyEncoder(), read_only=read_only).close()
            except StoreError as error:
                errors.append(str(error))
            if spare < 3:
                os.close(held.pop())
    finally:
        for handle in held:
            os.close(handle)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert errors
    assert all("no file handles left" in error for error in errors), errors
    with MemoryIndex.open(folder, encoder=ToyEncoder()) as memory:
        assert_sound(memory, IDS)
