"""A memory pickles and is copied as what opens it again; a handle without its file says so."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import shutil
import threading
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from mllm_plugin import (
    ClosedError,
    Document,
    InvalidTypeError,
    MemoryConfig,
    MemoryIndex,
    NotFoundError,
    ReadOnlyStoreError,
    SearchConfig,
    StoreError,
)
from mllm_plugin.hierarchy import Hierarchy, MeanLevelEncoder
from tests.helpers.file_tools import own_database
from tests.helpers.robustness_tools import KEPT
from tests.helpers.toy import ToyEncoder

CONFIG = MemoryConfig(search=SearchConfig(beam_width=7))


class Locked(ToyEncoder):
    """An encoder that no other process can have."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


def found_elsewhere(memory: MemoryIndex, query: str) -> tuple[str, int]:
    with memory:
        memory.add([Document("written by another process", id="elsewhere")])
        return memory.search(query, k=1)[0].document_id, memory.config.search.beam_width


def test_another_process_gets_a_handle_of_its_own(tmp_path, encoder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with MemoryIndex.open("memory", encoder=encoder, config=CONFIG) as memory:
        memory.add(KEPT)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            assert pool.submit(found_elsewhere, memory, KEPT[0].text).result() == (KEPT[0].id, 7)
        assert memory.get("elsewhere")[0].text == "written by another process"


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda memory: pickle.loads(pickle.dumps(memory))]
)
def test_a_copy_is_open_after_the_first_is_closed(tmp_path, encoder, again):
    with MemoryIndex.open(tmp_path / "memory", encoder=encoder, config=CONFIG, timeout=3) as memory:
        memory.add(KEPT)
        hits = memory.search("ships", k=3)
        other = again(memory)
    with other:
        assert other.search("ships", k=3) == hits
        assert (other.config, own_database(other).timeout) == (CONFIG, 3)
        assert other.remove(KEPT[0].id).erased


def test_a_deep_copy_shares_its_encoder_and_needs_no_pickle(tmp_path):
    with MemoryIndex.open(tmp_path / "memory", encoder=Locked()) as memory, copy.deepcopy(memory) as other:
        assert other.encoder is memory.encoder
    with (
        MemoryIndex.open(tmp_path / "memory", encoder=Locked()) as memory,
        pytest.raises(InvalidTypeError, match=r"cannot pickle '_thread.lock'.* MemoryIndex.open\("),
    ):
        pickle.dumps(memory)


def test_read_only_and_vectors_only_stay_so(tmp_path, encoder):
    MemoryIndex.open(tmp_path / "memory", encoder=encoder).close()
    with (
        MemoryIndex.open(tmp_path / "memory", encoder=None, read_only=True) as memory,
        pickle.loads(pickle.dumps(memory)) as other,
    ):
        assert other.search(np.ones(16)) == []
        with pytest.raises(ReadOnlyStoreError):
            other.remove("a")


def test_a_hierarchy_of_objects_goes_with_it(tmp_path, encoder):
    hierarchy = Hierarchy(level_encoders={2: MeanLevelEncoder()}, fingerprint="objects")
    with MemoryIndex.open(tmp_path / "memory", encoder=encoder, hierarchy=hierarchy) as memory:
        with pickle.loads(pickle.dumps(memory)) as other:
            assert other.hierarchy.fingerprint == "objects"
        memory.install("identity")
        with copy.deepcopy(memory) as other:
            assert other.hierarchy.fingerprint == "identity"


def test_a_closed_memory_and_one_that_is_gone_do_not_come_back(tmp_path, encoder):
    memory = MemoryIndex.open(tmp_path / "memory", encoder=encoder)
    pickled = pickle.dumps(memory)
    memory.close()
    for again in (copy.deepcopy, pickle.dumps):
        with pytest.raises(ClosedError):
            again(memory)
    shutil.rmtree(tmp_path / "memory")
    with pytest.raises(NotFoundError):
        pickle.loads(pickled)
    assert not (tmp_path / "memory").exists()


@pytest.mark.parametrize("what", ["deleted", "moved", "replaced"])
@pytest.mark.parametrize("read_only", [False, True], ids=["writing", "reading"])
def test_a_handle_whose_folder_is_gone_says_so(tmp_path, encoder, what, read_only):
    folder = tmp_path / "memory"
    with MemoryIndex.open(folder, encoder=encoder) as first:
        first.add(KEPT)
    memory = MemoryIndex.open(folder, encoder=encoder, read_only=read_only)
    if what == "moved":
        folder.rename(tmp_path / "elsewhere")
    else:
        shutil.rmtree(folder)
    if what == "replaced":
        MemoryIndex.open(folder, encoder=encoder).close()
    calls = [
        lambda: memory.search("ships"),
        memory.stats,
        lambda: memory.get("fox"),
        lambda: memory.recall("a"),
    ]
    if not read_only:
        calls += [
            lambda: memory.add([Document("lost", id="lost")]),
            lambda: memory.remove("fox"),
            memory.compact,
        ]
        calls += [lambda: memory.mask("fox"), lambda: memory.backup(tmp_path / "backup.db")]
    for call in calls:
        with pytest.raises(StoreError, match=r"memory\.db was deleted or replaced .* MemoryIndex\.open"):
            call()
    memory.close()
    assert not (tmp_path / "backup.db").exists()


def test_a_relative_path_is_meant_from_where_it_was_opened(tmp_path, encoder, monkeypatch):
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    with MemoryIndex.open("memory", encoder=encoder) as memory:
        memory.add(KEPT)
        monkeypatch.chdir(tmp_path / "other")
        assert memory.remove("fox").erased
        with copy.copy(memory) as other:
            assert other.get("fox") == []


def test_a_folder_that_goes_while_a_batch_is_written(tmp_path, encoder, monkeypatch):
    memory = MemoryIndex.open(tmp_path / "memory", encoder=encoder)
    write = memory._handle.ingest.write

    def deleting(*arguments, **options):
        shutil.rmtree(tmp_path / "memory")
        return write(*arguments, **options)

    monkeypatch.setattr(memory._handle.ingest, "write", deleting)
    with pytest.raises(StoreError, match="deleted or replaced"):
        memory.add([Document("lost", id="lost")])
    memory.close()
