"""What is not relevant enough is not read; with nothing left the model is not asked."""

from __future__ import annotations

import pytest

from mllm_plugin import InvalidInputError, MemoryIndex
from mllm_plugin.memory_llm import MemoryLLM, MemoryLLMConfig
from mllm_plugin.memory_llm.relevance import worth_reading
from tests.helpers.llm_tools import documents
from tests.helpers.tiny_memory_llm import random_reader
from tests.helpers.toy import ToyEncoder

QUESTION = "What part has the kettles number 1?"


def relevances(reader) -> list[float]:
    return [hit.relevance for hit in reader.memory.search(QUESTION, k=3)]


def test_hits_below_it_are_not_read(reader):
    best, second, _ = relevances(reader)
    answer = reader.answer(QUESTION, min_relevance=(best + second) / 2)
    assert {one.chunk_id for one in answer.sources} == {reader.memory.search(QUESTION, k=1)[0].chunk_id}
    assert answer.sources[0].as_text
    assert answer.mode == "both"
    assert answer.usage.output_tokens > 0
    everything = reader.answer(QUESTION, min_relevance=0.0)
    assert everything == reader.answer(QUESTION)
    assert len({one.chunk_id for one in everything.sources}) == 3


@pytest.mark.parametrize("mode", ["memory", "text", "both"])
def test_with_nothing_left_it_says_so_and_the_model_is_not_asked(reader, monkeypatch, mode):
    monkeypatch.setattr(reader.llm.model, "generate", None)
    answer = reader.answer(QUESTION, min_relevance=0.99, mode=mode)
    assert (answer.text, answer.known, answer.sources, answer.mode) == ("unknown", False, (), "none")
    assert answer.unknown == pytest.approx(1 - relevances(reader)[0])
    assert (answer.finish_reason, answer.prompt) == ("stop", "")
    assert not any((answer.usage.input_tokens, answer.usage.output_tokens))
    stream = reader.stream(QUESTION, min_relevance=0.99, mode=mode)
    assert list(stream) == ["unknown"]
    assert stream.answer == answer
    assert stream.sources == ()


def test_the_readers_words_for_it(tiny, stocked):
    config = MemoryLLMConfig(min_relevance=0.99, max_new_tokens=4)
    learned = MemoryLLM(stocked, tiny, random_reader(tiny, refusal="no idea"), config)
    assert learned.answer(QUESTION).text == "no idea"
    assert MemoryLLM(stocked, tiny, None, config).answer(QUESTION).text == "unknown"


def test_some_of_a_batch(reader):
    best = relevances(reader)[0]
    questions = [QUESTION, "zebra?"]
    single = [reader.answer(one, min_relevance=best - 1e-6) for one in questions]
    assert single[0].sources
    assert single[1].known is False
    assert reader.answer_batch(questions, min_relevance=best - 1e-6) == single


def test_the_plain_model_answers_whatever_the_memory_has(reader):
    answer = reader.answer(QUESTION, mode="none", min_relevance=0.99)
    assert answer.usage.output_tokens > 0
    assert answer.known is not False


def test_a_masked_fact_is_declined_and_unmasked_it_is_read_again(tiny, tmp_path):
    with MemoryIndex.open(tmp_path, encoder=ToyEncoder()) as memory:
        memory.add(documents(1))
        llm = MemoryLLM(memory, tiny, None, MemoryLLMConfig(min_relevance=0.01, max_new_tokens=4))
        question = "The ships number 0"
        before = llm.answer(question)
        memory.mask(["d0"])
        masked = llm.answer(question)
        assert (masked.known, masked.unknown, masked.sources) == (False, 1.0, ())
        memory.unmask()
        assert llm.answer(question) == before
        assert before.sources


def test_windows_and_chunks_go_with_their_hit(stocked):
    recall = stocked.recall(QUESTION, k=3, nodes=2)
    best = recall.hits[0]
    kept = worth_reading(recall, best.relevance)
    assert kept.hits == (best,)
    assert {one.node_id for level in (0, 1) for one in kept.levels[level]} == {best.chunk_id}
    assert {level: found for level, found in kept.levels.items() if level > 1} == {
        level: found for level, found in recall.levels.items() if level > 1
    }
    assert worth_reading(recall, 0.0) is recall


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_what_is_no_relevance(reader, value):
    with pytest.raises(InvalidInputError, match="min_relevance"):
        reader.answer(QUESTION, min_relevance=value)
