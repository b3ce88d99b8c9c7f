"""The parts of an answer, each by itself: passages, block, relevance, plan, what is written, streams."""

from __future__ import annotations

from threading import Event

import numpy as np
import pytest

from mllm_plugin import Hit, InvalidInputError, InvalidTypeError, MemoryEmbedding, Recall
from mllm_plugin.llm import PromptLayout
from mllm_plugin.llm.generate import Generated
from mllm_plugin.memory_llm import MemoryLLMConfig
from mllm_plugin.memory_llm.answer import Answer, Dropped, Usage
from mllm_plugin.memory_llm.block import choose_block
from mllm_plugin.memory_llm.config import settings_of
from mllm_plugin.memory_llm.nodes import choose_labels, choose_nodes, topics_text
from mllm_plugin.memory_llm.passages import Passage, choose_passages, cut_passage
from mllm_plugin.memory_llm.plan import Plan, Planner
from mllm_plugin.memory_llm.question import Turns
from mllm_plugin.memory_llm.reader_choice import choose_reader
from mllm_plugin.memory_llm.relevance import chance_of_nothing, worth_reading
from mllm_plugin.memory_llm.streams import AnswerStream
from mllm_plugin.memory_llm.writing import Writer
from mllm_plugin.types import StoredChunk
from tests.helpers.llm_tools import documents
from tests.helpers.tiny_memory_llm import random_reader

TEXT = "The old mill stands by the river. Its wheel has turned since spring."


TURNS = Turns("Where?", "Where?")


def hit(chunk: int, text: str = TEXT, relevance: float = 0.5) -> Hit:
    return Hit(f"d{chunk}", chunk, text, 10, 10 + len(text), 1.0 - chunk / 10, relevance, {})


def piece(level: int, node: int, start: int = 0, end: int = 0, score: float = 0.5, **more) -> MemoryEmbedding:
    vectors = np.full((1, 4), 10 * level + node, np.float32)
    return MemoryEmbedding(level, vectors, score, node, f"d{node}" if level < 2 else "", start, end, **more)


def words(text: str) -> int:
    return len(text.split())


@pytest.fixture
def recall() -> Recall:
    windows = (piece(0, 1, 22, 44), piece(0, 2, 10, 22), piece(0, 1, 10, 22))
    levels = {
        0: windows,
        1: (piece(1, 1, 10, 78), piece(1, 2, 10, 78)),
        2: (piece(2, 7, words=("mill",)), piece(2, 8, words=("river", "spring"))),
        3: (piece(3, 9),),
    }
    return Recall("Where?", (hit(1, relevance=0.9), hit(2, relevance=0.2)), levels)


# -- nodes


def test_nodes_are_taken_by_turns_of_the_levels_and_read_coarse_to_fine(recall):
    assert [node.node_id for node in choose_nodes(recall, 2)] == [9, 7]
    assert [node.node_id for node in choose_nodes(recall, 9)] == [9, 7, 8]
    assert choose_nodes(recall, 0) == ()
    labels = choose_labels(recall, 9)
    assert topics_text(labels) == "Topics: mill; river, spring"


# -- passages


def test_chunks_are_spelled_out_until_the_budget_is_used_up():
    one, two = hit(1, "one two three"), hit(2, "four five six seven")
    assert [p.text for p in choose_passages([one, two], (), None, words)] == [one.text, two.text]
    found = choose_passages([one, two], (), 5, words)
    assert [p.text for p in found] == ["one two three", "four five"]
    assert [p.is_cut for p in found] == [False, True]
    assert choose_passages([one], (), 0, words) == []


def test_a_cut_passage_is_the_whole_windows_around_the_best_that_fit():
    whole = Passage(hit(1), 10, 10 + len(TEXT))
    windows = [
        piece(0, 1, 10 + at, 10 + at + 17, score) for at, score in ((0, 0.1), (17, 0.3), (34, 0.9), (51, 0.2))
    ]
    assert cut_passage(whole, windows, 5, words).text == "Its wheel has turned"
    wider = cut_passage(whole, windows, 9, words)
    assert wider.text in TEXT
    assert wider.covers(windows[2])
    assert words(wider.text) <= 9
    assert cut_passage(whole, [piece(0, 2, 10, 20)], 3, words).text == "The old mill"  # of another chunk


def test_a_word_without_an_end_is_cut_between_letters():
    long = Passage(hit(1, "ä" * 50), 10, 60)
    assert cut_passage(long, (), 7, len).text == "ä" * 7
    short = Passage(hit(1, "ä" * 30), 10, 40)
    assert cut_passage(short, (), 7, len) is None


# -- block


def test_the_block_is_read_coarse_to_fine_and_dropped_from_its_end(recall):
    block = choose_block(recall, MemoryLLMConfig(nodes=1, chunks=2, windows=2, memory_budget=5))
    assert [(one.level, one.node_id) for one in block.pieces] == [(3, 9), (1, 1), (1, 2), (0, 1), (0, 2)]
    vectors, levels = block.tensors()
    assert levels.tolist() == sorted(levels.tolist(), reverse=True)
    assert vectors[:, 0].tolist() == [39.0, 11.0, 12.0, 1.0, 2.0]
    less = block.without_last(9, windows_only=True)
    assert [one.level for one in less.pieces] == [3, 1, 1]
    assert less.dropped == {"windows": 2}
    assert block.first(1).dropped == {"windows": 2, "chunks": 2}


def test_what_is_spelled_out_is_not_in_the_block_too(recall):
    passages = [Passage(recall.hits[0], 10, 78)]
    block = choose_block(recall, MemoryLLMConfig(nodes=0, chunks=2, windows=9, repeat=False), passages)
    assert {one.node_id for one in block.pieces} == {2}


# -- relevance


def test_what_is_not_relevant_goes_with_its_windows_and_chunks(recall):
    kept = worth_reading(recall, 0.5)
    assert [one.chunk_id for one in kept.hits] == [1]
    assert {one.node_id for level in (0, 1) for one in kept.levels[level]} == {1}
    assert kept.levels[2] == recall.levels[2]
    assert worth_reading(recall, 0.1) is recall
    assert chance_of_nothing(recall) == pytest.approx(0.1)
    assert chance_of_nothing(worth_reading(recall, 0.99)) == 1.0


# -- plan


def test_a_plan_fits_and_says_what_was_dropped(tiny, recall):
    planner = Planner(PromptLayout(tiny.tokenizer), 4096)
    config = MemoryLLMConfig(mode="text", expand=2, max_new_tokens=8)
    whole = planner.plan(TURNS, recall, config, None)
    assert whole.mode == "text"
    assert [source.text for source in whole.sources()] == [TEXT, TEXT]
    tight = Planner(planner.layout, len(whole.prompt) + 8 - 5)
    fitted = tight.plan(TURNS, recall, config, None)
    assert len(fitted.prompt) <= len(whole.prompt) - 5
    assert fitted.dropped.passages + fitted.dropped.cut == 1
    with pytest.raises(InvalidInputError, match="does not fit the model"):
        Planner(planner.layout, 10).plan(TURNS, recall, config, None)
    assert Plan.unread(0.8).mode == "none"


def test_settings_are_a_callers_over_a_readers():
    own = MemoryLLMConfig(k=3)
    assert settings_of({"expand": 1}, own, {"k": 2}).k == 2
    with pytest.raises(InvalidInputError):
        settings_of({}, own, {"k": -1})


# -- what is written, and by whom


def test_what_is_written_is_kept_and_the_same(memory, tiny):
    memory.add(documents(4))
    reader = random_reader(tiny)
    writer = Writer(memory, tiny, reader)
    hits = memory.search("kettles", k=2)
    chunks = {(one.namespace, one.text): one.chunk_id for one in hits}
    first = writer.written(chunks)
    assert writer.ahead(chunks) == 0
    again = writer.written(chunks)
    for chunk, written in first.items():
        assert again[chunk].spans.tolist() == written.spans.tolist()
        np.testing.assert_allclose(again[chunk].vectors, written.vectors, atol=1e-2)  # as float16


def test_a_node_is_the_mean_of_its_faces(memory, tiny):
    memory.add(documents(4))
    writer = Writer(memory, tiny, random_reader(tiny))
    one, two = memory.search("kettles", k=2)
    faces = tuple(
        StoredChunk(h.chunk_id, h.document_id, h.text, h.start, h.end, h.namespace) for h in (one, two)
    )
    recall = Recall("kettles", (), {2: (piece(2, 5, faces=faces),)})
    (read,) = writer.read([recall], MemoryLLMConfig(mode="memory", nodes=1))
    means = [
        v.vectors.mean(axis=0)
        for v in writer.written({((), h.text): h.chunk_id for h in (one, two)}).values()
    ]
    np.testing.assert_allclose(read.levels[2][0].vectors[0], np.mean(means, axis=0), atol=1e-2)


def test_a_reader_is_given_or_named(tiny):
    reader = random_reader(tiny)
    assert choose_reader(None, tiny) is None
    assert choose_reader(reader, tiny) is reader
    with pytest.raises(InvalidTypeError, match="adapter must be"):
        choose_reader(3, tiny)
    with pytest.warns(UserWarning, match="reads text only"):
        assert choose_reader("default", tiny) is None


# -- streams


def stream(*pieces: str) -> AnswerStream:
    def made():
        yield from pieces
        yield Generated("".join(pieces), "stop", len(pieces))

    def finish(plan: Plan, generated: Generated) -> Answer:
        return Answer(generated.text, (), Usage(), plan.mode, "stop", Dropped(), "")

    return AnswerStream(Plan.unread(0.5), made(), finish, Event())


def test_pieces_together_are_the_answer():
    whole = stream("By ", "the ", "river.")
    assert next(whole) == "By "
    assert whole.answer.text == "By the river."
    assert list(whole) == []


def test_a_closed_stream_has_no_answer():
    closed = stream("By ", "the ")
    next(closed)
    closed.close()
    with pytest.raises(InvalidInputError, match="closed before its end"):
        _ = closed.answer
