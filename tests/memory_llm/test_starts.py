"""What the model remembers of chunks: it saves reading them again, is bounded, and goes with them."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from mllm_plugin import Document, MemoryIndex
from mllm_plugin.llm import PromptLayout
from mllm_plugin.llm.generate import generate
from mllm_plugin.llm.starts import KeptStarts, Start
from mllm_plugin.memory_llm import MemoryLLM, MemoryLLMConfig
from tests.helpers.llm_tools import documents
from tests.helpers.tiny_memory_llm import random_reader
from tests.helpers.toy import ToyEncoder

ASKED = ("What part have the kettles number 1?", "Which of the kettles?")

KETTLES = {"filter": {"number": 1}}


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[MemoryIndex]:
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder()) as opened:
        opened.add(documents(4))
        yield opened


@pytest.fixture
def llm(memory, tiny) -> MemoryLLM:
    return MemoryLLM(memory, tiny, None, MemoryLLMConfig(k=1, max_new_tokens=6))


@pytest.fixture
def positions(tiny, monkeypatch) -> list[int]:
    """How many positions the model read in each call, answers' tokens left out."""
    read: list[int] = []
    decoder = tiny.model.get_decoder()
    real = decoder.forward

    def forward(*args, **given):
        if (embeds := given.get("inputs_embeds")) is not None:
            read.append(embeds.shape[1])
        return real(*args, **given)

    monkeypatch.setattr(decoder, "forward", forward)
    return read


def test_the_same_chunk_is_read_once(llm, positions):
    first = llm.answer(ASKED[0], **KETTLES)
    assert positions == [first.usage.input_tokens]
    positions.clear()
    second = llm.answer(ASKED[1], **KETTLES)
    assert second.sources[0].chunk_id == first.sources[0].chunk_id
    assert len(positions) == 1
    assert positions[0] < second.usage.input_tokens / 3
    positions.clear()
    assert llm.answer(ASKED[1], hot_bytes=0, **KETTLES) == second
    assert positions == [second.usage.input_tokens]
    assert llm.stream(ASKED[1], **KETTLES).answer == second
    assert llm.answer(ASKED[0], **KETTLES) == first


def test_with_the_readers_changes_it_is_another(memory, tiny):
    llm = MemoryLLM(memory, tiny, random_reader(tiny), MemoryLLMConfig(k=1, max_new_tokens=6, mode="text"))
    for lora in (False, True):
        expected = llm.answer(ASKED[0], lora=lora, hot_bytes=0)
        for _ in range(2):
            assert llm.answer(ASKED[0], lora=lora).text == expected.text
    assert len(llm.starts) == 2


def test_what_was_written_before_is_read_by_a_reader_just_opened(memory, tiny):
    config = MemoryLLMConfig(k=1, max_new_tokens=4, mode="memory")
    first = MemoryLLM(memory, tiny, random_reader(tiny), config).answer(ASKED[0])
    assert MemoryLLM(memory, tiny, random_reader(tiny), config).answer(ASKED[0]) == first


def test_it_is_bounded(memory, tiny):
    one = MemoryLLM(memory, tiny, None, MemoryLLMConfig(k=1, max_new_tokens=1))
    one.answer(ASKED[0])
    capacity = int(2.5 * one.starts.size)
    llm = MemoryLLM(memory, tiny, None, MemoryLLMConfig(k=1, max_new_tokens=1, hot_bytes=capacity))
    for number in range(4):
        llm.answer(ASKED[0], filter={"number": number})
        assert 0 < llm.starts.size <= capacity
    assert len(llm.starts) == 2
    none = MemoryLLM(memory, tiny, None, MemoryLLMConfig(k=1, max_new_tokens=1, hot_bytes=0))
    none.answer(ASKED[0])
    assert len(none.starts) == 0


@pytest.mark.parametrize(
    "write",
    [
        lambda memory: memory.mask(["d1"]),
        lambda memory: memory.remove(["d1"]),
        lambda memory: memory.add([Document("All is new.", id="d1")]),
        lambda memory: memory.update("d1", text="All is new."),
        lambda memory: memory.update("d1", expires_at="2001-01-01T00:00:00Z"),
    ],
    ids=["masked", "removed", "replaced", "updated", "expired"],
)
def test_it_goes_with_the_chunk_at_once(llm, memory, write):
    assert llm.answer(ASKED[0], **KETTLES).sources[0].document_id == "d1"
    kept = next(iter(llm.starts._kept._entries.values()))[0]
    keys = weakref.ref(kept.layers[0][0])
    del kept
    assert keys() is not None
    write(memory)
    gc.collect()
    assert keys() is None
    assert (len(llm.starts), llm.starts.size) == (0, 0)


def test_other_writes_leave_it(llm, memory):
    llm.answer(ASKED[0], **KETTLES)
    memory.add([Document("Something else.", id="new")])
    memory.mask(["d2"])
    assert len(llm.starts) == 1


def test_what_another_process_removed_goes_with_the_next_answer(llm, memory):
    llm.answer(ASKED[0], **KETTLES)
    with MemoryIndex.open(memory.path, encoder=ToyEncoder()) as other:
        other.remove(["d1"])
    assert len(llm.starts) == 1
    llm.answer(ASKED[0], filter={"number": 3})
    [chunk] = llm.starts.chunks
    assert {one.document_id for one in memory.chunks() if one.chunk_id == chunk} == {"d3"}


def test_what_is_removed_while_it_is_read_is_not_kept(tiny):
    layout = PromptLayout(tiny.tokenizer)
    prompt = layout.build("Who?", passages=["The captain is Ingrid."])
    prompt = type(prompt)(prompt.ids, start=Start(7, 20))
    starts = KeptStarts(1 << 20, live=lambda chunks: set())
    generate(tiny, [prompt], starts=starts)
    assert len(starts) == 0


@pytest.mark.parametrize(
    "options", [{"labels": 2}, {"text_tokens": 9}, {"mode": "none"}], ids=["labels", "cut", "nothing"]
)
def test_what_depends_on_the_question_is_not_kept(stocked, tiny, options):
    llm = MemoryLLM(stocked, tiny, None, MemoryLLMConfig(k=1, max_new_tokens=1))
    llm.answer(ASKED[0], **options)
    assert len(llm.starts) == 0


def test_chats_and_batches_are_read_whole(llm):
    chat = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Yes?"}]
    llm.answer([*chat, {"role": "user", "content": ASKED[0]}], **KETTLES)
    llm.answer_batch(list(ASKED), **KETTLES)
    assert len(llm.starts) == 0
