"""Processes that are forked: an inherited memory opens itself anew, or says why it cannot."""

from __future__ import annotations

import multiprocessing
import os
import threading
import warnings
from pathlib import Path

import pytest

from mllm_plugin import Document, MemoryIndex
from mllm_plugin.store.forks import watch_forks
from tests.helpers.fault_tools import in_child
from tests.helpers.file_tools import own_database
from tests.helpers.robustness_tools import KEPT, assert_sound, finish, start_python
from tests.helpers.toy import ToyEncoder

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


def test_a_child_searches_writes_and_closes(stocked):
    stocked.search("fox", k=1)

    def use() -> str:
        found = stocked.search("fox crosses the frozen river", k=1)[0].document_id
        stocked.add([Document("of the child", id="child")])
        stocked.close()
        return found

    assert in_child(use) == "fox"
    assert stocked.get(["child"])[0].text == "of the child"
    stocked.add([Document("of the parent", id="parent")])
    assert_sound(stocked, ["fox", "kettle", "lighthouse", "child", "parent"])


def test_closing_in_a_child_leaves_the_parents_locks(stocked):
    """Whoever opens the memory next must still see that the parent has it open."""
    stocked.add([Document("still in the log", id="logged")])
    assert in_child(stocked.close) == "None"
    log = stocked.path / "memory.db-wal"
    with MemoryIndex.open(stocked.path, encoder=ToyEncoder()) as other:
        reading = own_database(stocked).read()
        reading.__enter__()
        assert in_child(lambda: MemoryIndex.open(stocked.path, encoder=ToyEncoder())).startswith("StoreError")
        assert not other.remove(["fox"], wait=0.1).erased, "the parent's reader is not seen"
        reading.__exit__(None, None, None)
    assert log.exists()
    assert_sound(stocked, ["kettle", "lighthouse", "logged"])


def test_a_fork_in_the_middle_of_an_iteration_is_refused(stocked):
    records = stocked.export()
    first = next(records)["id"]
    for use in (lambda: stocked.search("fox"), lambda: stocked.add(KEPT), lambda: next(records)):
        assert in_child(use).startswith("StoreError: this process was forked while")
    assert in_child(stocked.close) == "None"
    assert {first, *(one["id"] for one in records)} == {"fox", "kettle", "lighthouse"}
    assert in_child(lambda: len(stocked.search("fox", k=9))) == "3"


def test_a_fork_while_another_thread_writes_is_refused(stocked):
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with own_database(stocked).write() as tx:
            tx.execute("UPDATE documents SET metadata = '{}'")
            entered.set()
            leave.wait(30)
            raise KeyError

    def hold_and_undo() -> None:
        with pytest.raises(KeyError):
            hold()

    thread = threading.Thread(target=hold_and_undo)
    thread.start()
    try:
        assert entered.wait(10)
        assert in_child(lambda: stocked.search("fox")).startswith("StoreError: this process was forked")
    finally:
        leave.set()
        thread.join()
    assert stocked.get(["fox"])[0].metadata == {"year": 2001}


def test_forks_while_others_search_never_hang(stocked):
    stop = threading.Event()

    def search() -> None:
        while not stop.is_set():
            stocked.search("fox", k=1)

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        found = {
            in_child(lambda: stocked.search("a fox", k=1)[0].document_id).split(":")[0] for _ in range(8)
        }
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert found <= {"fox", "StoreError"}
    assert stocked.verify().ok


def _search(memory: MemoryIndex, query: str) -> str:
    return memory.search(query, k=1)[0].document_id


def _put(memory: MemoryIndex, query: str, results) -> None:
    results.put(_search(memory, query))


def test_multiprocessing_by_fork(stocked):
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    workers = [
        context.Process(target=_put, args=(stocked, document.text, results))
        for document in KEPT
        for _ in range(2)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for worker in workers:
            worker.start()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0] * len(workers)
    assert sorted(results.get() for _ in workers) == sorted(document.id for document in KEPT * 2)
    assert stocked.verify().ok


LOADER = """
import sys
from tests.helpers.toy import ToyEncoder
from torch.utils.data import DataLoader, Dataset
from mllm_plugin import MemoryIndex

class Found(Dataset):
    def __init__(self, memory):
        self.memory = memory
    def __len__(self):
        return 24
    def __getitem__(self, place):
        return self.memory.search(["ships", "kettles", "fox"][place % 3], k=1)[0].document_id

memory = MemoryIndex.open(sys.argv[1], encoder=ToyEncoder())
memory.search("fox")
loader = DataLoader(Found(memory), batch_size=4, num_workers=2, multiprocessing_context="fork")
print(sorted(set(name for batch in loader for name in batch)), memory.verify().ok)
memory.close()
"""


def test_a_data_loader_of_torch(stocked, tmp_path: Path):
    pytest.importorskip("torch")
    assert finish(start_python(LOADER, stocked.path)) == "['fox', 'kettle', 'lighthouse'] True\n"


class Told:
    def __init__(self) -> None:
        self.of: list[str] = []

    def before_fork(self) -> None:
        self.of.append("before")

    def after_fork(self, *, child: bool) -> None:
        self.of.append("child" if child else "parent")


def test_whoever_watches_is_told_on_both_sides():
    told = Told()
    watch_forks(told)
    assert in_child(lambda: str(told.of)) == "['before', 'child']"
    assert told.of == ["before", "parent"]
