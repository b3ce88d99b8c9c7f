"""Async twins: the same names, signatures and docstrings, and the same calls."""

from __future__ import annotations

import inspect
import threading

import pytest

from mllm_plugin import Document, InvalidInputError, MemoryIndex
from mllm_plugin.memory_llm import MemoryLLM
from tests.helpers.toy import ToyEncoder

DOCUMENTS = [Document(f"word{number} of many", id=str(number)) for number in range(150)]
NOT_WAITING = {"batch", "snapshot", "vector_cache", "keep_vectors", "watch"}


def public(cls: type) -> list[str]:
    return [name for name, one in inspect.getmembers(cls, callable) if not name.startswith("_")]


def test_every_call_has_a_twin_of_the_same_signature():
    names = public(MemoryIndex)
    for name in names:
        if name in NOT_WAITING or hasattr(inspect.getattr_static(MemoryIndex, name), "twin_of"):
            continue
        if f"a{name}" not in names:
            assert name == "aopen" or name.startswith("a"), f"{name} has no twin"
            continue
        plain, twin = getattr(MemoryIndex, name), getattr(MemoryIndex, f"a{name}")
        assert inspect.signature(plain).parameters == inspect.signature(twin).parameters
        assert (plain.__doc__ or "") in (twin.__doc__ or "")


@pytest.mark.parametrize("name", ["answer", "answer_batch", "stream"])
def test_twins_of_a_language_model_show_what_they_take(name):
    plain, twin = getattr(MemoryLLM, name), getattr(MemoryLLM, f"a{name}")
    assert inspect.signature(plain).parameters == inspect.signature(twin).parameters
    assert "without blocking" in twin.__doc__


async def test_a_memory_from_opening_to_closing(tmp_path):
    folder = tmp_path / "memory"
    async with await MemoryIndex.aopen(folder, encoder=ToyEncoder()) as memory:
        assert (await memory.aadd(DOCUMENTS)).added == 150
        assert await memory.asearch("word7", k=3) == memory.search("word7", k=3)
        assert await memory.asearch_batch(["word7"]) == memory.search_batch(["word7"])
        assert (await memory.arecall("word7")).hits == memory.recall("word7").hits
        assert [one.id async for one in memory.adocuments()] == [one.id for one in memory.documents()]
        assert [one async for one in memory.aexport()] == list(memory.export())
        assert await memory.anamespaces() == [()]
        assert (await memory.astats()).documents == 150
        assert (await memory.averify()).ok
        assert await memory.aregroup()
        await memory.abackup(tmp_path / "backup.db")
        assert (await memory.aremove(["3"])).erased
        assert (await memory.acompact()).erased
    with MemoryIndex.open(folder, encoder=ToyEncoder()) as memory:
        assert memory.stats().documents == 149


async def test_a_listing_that_is_left_early_ends_its_transaction(memory):
    memory.add(DOCUMENTS)
    listing = memory.aexport()
    assert (await anext(listing))["id"] == "0"
    await listing.aclose()
    assert memory.remove(["0"], wait=0.0).erased


async def test_a_twin_calls_what_a_subclass_made_of_the_call(tmp_path):
    class Counted(MemoryIndex):
        threads: list[int]

        def search(self, query, **options):
            self.threads.append(threading.get_ident())
            return super().search(query, **options)

    with Counted.open(tmp_path / "memory", encoder=ToyEncoder()) as memory:
        memory.threads = []
        assert await memory.asearch("word") == []
        assert memory.threads
        assert memory.threads[0] != threading.get_ident()


@pytest.mark.parametrize("call", ["search", "recall"])
def test_exact_and_another_mode_contradict_each_other(memory, call):
    memory.add(DOCUMENTS[:5])
    for mode in ("auto", "exact"):
        assert getattr(memory, call)("word1", exact=True, mode=mode)
    for mode in ("beam", "flat"):
        with pytest.raises(InvalidInputError, match=f"exact=True and mode='{mode}' contradict each other"):
            getattr(memory, call)("word1", exact=True, mode=mode)
