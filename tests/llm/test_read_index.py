"""Reading vectors written ahead of time: what is there is left, and answers do not change."""

from __future__ import annotations

import pytest

from mllm_plugin import InvalidInputError, MemoryConfig, MemoryIndex
from mllm_plugin.memory_llm import MemoryLLM, MemoryLLMConfig, facade
from tests.helpers.llm_tools import documents
from tests.helpers.tiny_memory_llm import random_reader
from tests.helpers.toy import ToyEncoder

QUESTION = "What part has the kettles number 1?"
CONFIG = MemoryLLMConfig(mode="memory", max_new_tokens=4, k=3)


@pytest.fixture
def memory(tmp_path):
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder()) as memory:
        memory.add(documents())
        yield memory


@pytest.fixture
def llm(memory, tiny):
    return MemoryLLM(memory, tiny, random_reader(tiny), CONFIG)


@pytest.fixture
def written(llm, monkeypatch):
    """Texts that the reader writes."""
    seen: list[str] = []
    write = llm.adapter.write
    monkeypatch.setattr(llm.adapter, "write", lambda model, texts: seen.extend(texts) or write(model, texts))
    return seen


def chunks(memory, **where):
    return list(memory.chunks(**where))


def test_every_chunk_is_written_once_and_no_answer_writes(llm, memory, written):
    before = llm.answer(QUESTION)
    some = len(written)
    report = llm.read_index()
    texts = {chunk.text for chunk in chunks(memory)}
    assert report.chunks == len(chunks(memory)) == memory.stats().live_chunks
    assert report.written == len(texts) - some
    assert sorted(written) == sorted(texts)
    assert llm.read_index().written == 0
    assert llm.answer(QUESTION) == before
    assert len(written) == len(texts)
    assert report.to_dict()["written"] == report.written


def test_an_interrupted_run_goes_on(llm, memory, written, monkeypatch):
    monkeypatch.setattr(facade, "_WRITTEN_AT_ONCE", 5)
    write, calls = llm.adapter.write, []

    def interrupted(model, texts):
        calls.append(texts)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return write(model, texts)

    monkeypatch.setattr(llm.adapter, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        llm.read_index()
    kept = len(written)
    assert kept == 10
    monkeypatch.setattr(llm.adapter, "write", write)
    assert llm.read_index().written == len({chunk.text for chunk in chunks(memory)}) - kept


def test_of_a_namespace_or_what_a_filter_lets_through(llm, memory):
    memory.add(documents(3), namespace=("users", "1"))
    memory.add(documents(2), namespace=("users", "2"))
    assert llm.read_index(namespace=("users", "1")).chunks == len(chunks(memory, namespace=("users", "1")))
    report = llm.read_index(namespace="users", prefix=True)
    assert (report.chunks, report.written) == (
        len(chunks(memory, namespace="users", prefix=True)),
        len(chunks(memory, namespace=("users", "2"))),
    )
    assert llm.read_index(filter={"number": 3}).chunks == len(chunks(memory, filter={"number": 3})) > 0


def test_masked_documents_are_left_out_and_removed_ones_are_gone(llm, memory):
    everything = chunks(memory)
    memory.mask(["d3"])
    assert {chunk.document_id for chunk in everything} - {chunk.document_id for chunk in chunks(memory)} == {
        "d3"
    }
    assert llm.read_index().chunks == len(chunks(memory)) < len(everything)
    memory.remove(["d4"])
    assert "d4" not in {chunk.document_id for chunk in chunks(memory)}
    assert llm.read_index().written == len({chunk.text for chunk in chunks(memory)}), "a removal empties it"


def test_chunks_are_pieces_of_their_documents(memory):
    texts = {one.id: one.text for one in memory.documents()}
    for chunk in chunks(memory):
        assert texts[chunk.document_id][chunk.start : chunk.end] == chunk.text
    hit = memory.search(QUESTION, k=1)[0]
    (same,) = (chunk for chunk in chunks(memory) if chunk.chunk_id == hit.chunk_id)
    assert (same.text, same.start, same.end) == (hit.text, hit.start, hit.end)


async def test_async(llm, memory):
    assert (await llm.aread_index()).chunks == memory.stats().live_chunks


def test_without_a_reader_or_a_place_to_keep_them(memory, tiny, tmp_path):
    with pytest.raises(InvalidInputError, match="a reader writes the reading vectors"):
        MemoryLLM(memory, tiny, None, MemoryLLMConfig()).read_index()
    with (
        MemoryIndex.open(memory.path, encoder=ToyEncoder(), read_only=True) as reading,
        pytest.raises(InvalidInputError, match="keeps no reading vectors"),
    ):
        MemoryLLM(reading, tiny, random_reader(tiny), CONFIG).read_index()
    config = MemoryConfig(embedding_cache=False)
    with MemoryIndex.open(tmp_path / "other", encoder=ToyEncoder(), config=config) as other:
        other.add(documents(1))
        with pytest.raises(InvalidInputError, match="keeps no reading vectors"):
            MemoryLLM(other, tiny, random_reader(tiny), CONFIG).read_index()
