"""Threads share a memory, processes share a folder: no errors, nothing lost, every invariant holds.

`make soak` has each thread and each task do $MLLM_STEPS (150) rounds of eight or nine calls.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from mllm_plugin import ClosedError, Document, MemoryConfig, MemoryIndex, StoreBusyError, TreeConfig
from tests.helpers.fault_tools import SOAK
from tests.helpers.file_tools import changing
from tests.helpers.robustness_tools import KEPT, assert_sound, finish, some_documents, start_python
from tests.helpers.toy import ToyEncoder

SMALL_GROUPS = MemoryConfig(tree=TreeConfig(fan_out=4))
STEPS = int(os.environ.get("MLLM_STEPS", 150 if SOAK else 8))


def together(*calls: Callable[[], object]) -> list[object]:
    """Starts all calls at once in threads of their own; raises the first error."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> object:
        barrier.wait(10)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(60 * STEPS) for future in [pool.submit(run, call) for call in calls]]


def busy_worker(memory: MemoryIndex, worker: int) -> set[str]:
    """Adds, masks, updates, searches and removes documents of its own; returns the ids that it left."""
    generator = random.Random(worker)
    mine: set[str] = set()
    for step in range(STEPS):
        batch = some_documents(4, prefix=f"t{worker}s{step}x")
        memory.add(batch)
        mine |= {document.id for document in batch}
        chosen = generator.choice(sorted(mine))
        mode = generator.choice(["auto", "beam", "flat", "exact"])
        number = {"number": int(chosen.rpartition("x")[2])}
        assert chosen in {hit.document_id for hit in memory.search(chosen, k=9, mode=mode)}
        assert chosen in {hit.document_id for hit in memory.search(chosen, k=9, mode=mode, filter=number)}
        memory.mask([chosen], label=f"by{worker}")
        assert chosen not in {hit.document_id for hit in memory.search(chosen, k=9, mode=mode)}
        assert memory.get([chosen])[0].masks == (f"by{worker}",)
        memory.unmask(label=f"by{worker}")
        memory.add([Document(f"{chosen} rewritten", id=chosen, metadata=number)])
        gone = generator.choice(sorted(mine))
        assert memory.remove([gone], wait=0).documents == 1
        mine.discard(gone)
    return mine


def test_eight_threads_edit_and_search_one_memory(tmp_path):
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder(128), config=SMALL_GROUPS) as memory:
        memory.add(KEPT)
        left = together(*(lambda worker=worker: busy_worker(memory, worker) for worker in range(8)))
        expected = {document.id for document in KEPT}.union(*left)
        assert_sound(memory, expected)
        assert memory.stats().live_chunks == len(expected)
        for document in KEPT:
            for mode in ("beam", "flat", "exact"):
                assert memory.search(document.text, k=1, mode=mode)[0].document_id == document.id


async def busy_task(memory: MemoryIndex, task: int) -> set[str]:
    """What `busy_worker` does, awaited."""
    generator = random.Random(task)
    mine: set[str] = set()
    for step in range(STEPS):
        batch = some_documents(4, prefix=f"a{task}s{step}x")
        await memory.aadd(batch)
        mine |= {document.id for document in batch}
        chosen = generator.choice(sorted(mine))
        mode = generator.choice(["auto", "beam", "flat", "exact"])
        assert chosen in {hit.document_id for hit in await memory.asearch(chosen, k=9, mode=mode)}
        await memory.amask([chosen], label=f"by{task}")
        assert chosen not in {hit.document_id for hit in await memory.asearch(chosen, k=9, mode=mode)}
        assert (await memory.aget([chosen]))[0].masks == (f"by{task}",)
        await memory.aunmask(label=f"by{task}")
        await memory.aadd([Document(f"{chosen} rewritten", id=chosen)])
        gone = generator.choice(sorted(mine))
        assert (await memory.aremove([gone], wait=0)).documents == 1
        mine.discard(gone)
    return mine


async def test_eight_tasks_edit_and_search_one_memory(tmp_path):
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder(128), config=SMALL_GROUPS) as memory:
        memory.add(KEPT)
        left = await asyncio.gather(*(busy_task(memory, task) for task in range(8)))
        expected = {document.id for document in KEPT}.union(*left)
        assert_sound(memory, expected)
        assert memory.stats().live_chunks == len(expected)


def test_threads_in_namespaces_of_their_own(tmp_path):
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder(), config=SMALL_GROUPS) as memory:

        def work(name: str) -> None:
            for step in range(8):
                memory.add(some_documents(5, prefix=f"{step}-"), namespace=("users", name))
                hits = memory.search("0-1 1-2", k=9, namespace=("users", name))
                assert {hit.namespace for hit in hits} == {("users", name)}

        together(*(lambda name=name: work(name) for name in "abcdef"))
        assert {len(list(memory.documents(namespace=space))) for space in memory.namespaces()} == {40}
        assert memory.verify().problems == ()


def test_threads_update_the_same_document(memory):
    def work(worker: int) -> None:
        for step in range(10):
            memory.add([Document(f"version {worker} {step}", id="contested"), *KEPT])

    together(*(lambda worker=worker: work(worker) for worker in range(6)))
    assert_sound(memory, ["contested", *(document.id for document in KEPT)])


def test_one_snapshot_per_search(tmp_path):
    """Both documents are replaced in one transaction; no search may see one old and one new."""
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder()) as memory:
        stop = threading.Event()

        def write() -> None:
            for step in range(20):
                memory.add(
                    [Document(f"left generation{step}", id="l"), Document(f"right generation{step}", id="r")]
                )
            stop.set()

        def read() -> int:
            seen = 0
            while not stop.is_set() or not seen:
                texts = {hit.text.split()[1] for hit in memory.search("generation", k=2)}
                assert len(texts) <= 1
                seen += len(texts)
            return seen

        memory.add([Document("left generation", id="l"), Document("right generation", id="r")])
        together(write, read, read)


@pytest.mark.parametrize("attempt", range(5))
def test_threads_create_one_memory_at_once(tmp_path, attempt):
    def work(number: int) -> None:
        with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder()) as memory:
            memory.add([Document(f"by thread {number}", id=str(number))])

    together(*(lambda number=number: work(number) for number in range(6)))
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder()) as memory:
        assert_sound(memory, map(str, range(6)))


def test_closing_while_threads_search(memory):
    memory.add(some_documents(60))
    errors: list[BaseException] = []

    def work() -> None:
        for _ in range(500):
            try:
                assert memory.search("d7", k=1, mode="beam")[0].document_id == "d7"
            except ClosedError:
                return
            except BaseException as error:
                errors.append(error)
                return

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    memory.close()
    for thread in threads:
        thread.join(20)
    assert errors == []


async def test_async_calls_run_together_and_leave_the_loop_free(memory):
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.001)

    ticking = asyncio.create_task(tick())
    await asyncio.gather(*(memory.aadd(some_documents(5, prefix=f"a{n}x")) for n in range(6)))
    found = await asyncio.gather(*(memory.asearch(f"a{n}x3", k=1) for n in range(6)))
    assert [hits[0].document_id for hits in found] == [f"a{n}x3" for n in range(6)]
    await memory.amask(["a0x0"])
    await memory.aunmask(["a0x0"])
    assert (await memory.aremove(["a0x0"])).documents == 1
    assert await memory.aget(["a0x0"]) == []
    assert len((await memory.asearch_batch(["a1x1", "a2x2"]))[1]) == 5
    ticking.cancel()
    assert ticks > 10
    assert memory.verify().problems == ()


def test_a_document_that_another_writer_changed_meanwhile_is_not_unchanged(tmp_path):
    """`add` looks first and writes later; what it was given must be what is stored when it returns."""

    class Interloper(ToyEncoder):
        def encode_documents(self, texts):
            if "the new one" in texts:
                other.add([Document("somebody else's text", id="a")])
            return super().encode_documents(texts)

    with (
        MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder()) as other,
        MemoryIndex.open(tmp_path / "memory", encoder=Interloper()) as memory,
    ):
        memory.add([Document("the first text", id="a")])
        memory.add([Document("the first text", id="a"), Document("the new one", id="b")])
        assert memory.get(["a"])[0].text == "the first text"
        assert memory.verify().problems == ()


def test_a_document_that_another_writer_removed_meanwhile_is_stored(tmp_path):
    class Interloper(ToyEncoder):
        def encode_documents(self, texts):
            if "the new one" in texts:
                other.remove(["a"], wait=0)
            return super().encode_documents(texts)

    with (
        MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder()) as other,
        MemoryIndex.open(tmp_path / "memory", encoder=Interloper()) as memory,
    ):
        memory.add([Document("the first text", id="a")])
        memory.add([Document("the first text", id="a"), Document("the new one", id="b")])
        assert_sound(memory, ["a", "b"])


WRITER = """
import sys
from mllm_plugin import MemoryIndex
from tests.helpers.robustness_tools import some_documents
from tests.helpers.toy import ToyEncoder
folder, name = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
with MemoryIndex.open(folder, encoder=ToyEncoder()) as memory:
    for step in range(10):
        memory.add(some_documents(6, prefix=f"{name}{step}x"))
        if step % 3 == 2:
            memory.mask([f"{name}{step}x0"])
            memory.remove([f"{name}{step}x1"], wait=0.05)
        assert f"{name}{step}x2" in {hit.document_id for hit in memory.search(f"{name}{step}x2", k=5)}
"""
READER = """
import sys
from mllm_plugin import MemoryIndex
from tests.helpers.toy import ToyEncoder
folder = sys.argv[1]
with MemoryIndex.open(folder, encoder=ToyEncoder(), read_only=sys.argv[2] == "1") as memory:
    print("ready", flush=True)
    before, searches = 0, 0
    while before < 3 + 4 * 57:
        for mode in ("beam", "flat", "exact"):
            hits = memory.search("lighthouse keeper", k=3, mode=mode)
            assert hits[0].document_id == "lighthouse", hits
        now = memory.stats().documents
        before, searches = max(before, now), searches + 1
print(searches)
"""


def test_four_processes_write_while_others_search(tmp_path):
    folder = tmp_path / "memory"
    with MemoryIndex.open(folder, encoder=ToyEncoder(), config=SMALL_GROUPS) as memory:
        memory.add(KEPT)
    readers = [start_python(READER, folder, read_only) for read_only in (0, 1)]
    writers = [start_python(WRITER, folder, name) for name in "abcd"]
    for process in [*writers, *readers]:
        assert process.stdout.readline() == "ready\n"
    for process in writers:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in writers:
        finish(process)
    assert all(int(finish(process)) > 0 for process in readers)
    expected = [
        f"{name}{step}x{n}"
        for name in "abcd"
        for step in range(10)
        for n in range(6)
        if step % 3 != 2 or n != 1
    ]
    with MemoryIndex.open(folder, encoder=ToyEncoder()) as memory:
        assert_sound(memory, [*expected, *(document.id for document in KEPT)])
        assert memory.stats().masked_documents == 12
        for name in expected[::17]:
            if not memory.get([name])[0].masks:
                assert name in {hit.document_id for hit in memory.search(name, k=5, mode="exact")}


def test_processes_create_one_memory_at_once(tmp_path):
    folder = tmp_path / "memory"
    writers = [start_python(WRITER, folder, name) for name in "abcd"]
    for process in writers:
        assert process.stdout.readline() == "ready\n"
    for process in writers:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in writers:
        finish(process)
    with MemoryIndex.open(folder, encoder=ToyEncoder()) as memory:
        assert memory.verify().problems == ()
        assert memory.stats().documents == 4 * 57


def test_an_opener_without_patience_is_told_so(tmp_path):
    """A second opener of a folder whose writer is busy neither hangs nor breaks."""
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder()) as memory:
        memory.add(KEPT)
        with (
            changing(memory),
            MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder(), timeout=0.1) as second,
        ):
            assert len(second.search("ships")) == 3
            with pytest.raises(StoreBusyError):
                second.mask(["fox"])
