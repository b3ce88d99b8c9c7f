"""`MemoryLLM`: what it reads in each mode, budgets, the context's limit, chats, bad calls."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mllm_plugin import AdapterMismatchError, InvalidInputError, InvalidTypeError, MemoryIndex, NotFoundError
from mllm_plugin.errors import FilterError
from mllm_plugin.llm import PromptLayout, load_llm
from mllm_plugin.memory.checks import Scope
from mllm_plugin.memory_llm import Answer, Dropped, MemoryLLM, MemoryLLMConfig
from mllm_plugin.memory_llm.question import turns_of
from tests.helpers.llm_tools import documents
from tests.helpers.tiny import write_tiny
from tests.helpers.tiny_memory_llm import random_reader
from tests.helpers.toy import ToyEncoder

QUESTION = "Which part has the violins number 6?"


def kinds(answer: Answer) -> list[tuple[int, bool]]:
    return [(one.level, one.as_text) for one in answer.sources]


# -- modes


def test_both_is_the_default_with_a_reader(reader):
    answer = reader.answer(QUESTION)
    assert answer.mode == "both"
    levels = [level for level, as_text in kinds(answer) if not as_text]
    assert kinds(answer)[0] == (1, True)
    assert levels == sorted(levels, reverse=True)
    assert set(levels) == {0, 1}
    assert answer.usage.memory_tokens == len(levels)
    assert answer.sources[0].text in answer.prompt
    assert f"[{len(levels)} memory tokens]" in answer.prompt
    assert answer.usage.output_tokens <= 12


def test_memory_spells_nothing_out(reader):
    answer = reader.answer(QUESTION, mode="memory")
    assert answer.mode == "memory"
    assert not any(one.as_text for one in answer.sources)
    assert answer.usage.text_tokens == 0
    assert "violins number 6 has" not in answer.prompt


def test_text_reads_no_embedding(reader):
    answer = reader.answer(QUESTION, mode="text", expand=None)
    assert (answer.mode, kinds(answer)) == ("text", [(1, True)] * 3)
    assert answer.usage.memory_tokens == 0
    assert [one.text for one in answer.sources] == [hit.text for hit in reader.memory.search(QUESTION, k=3)]


def test_text_mode_runs_the_untouched_model(reader, tiny, stocked):
    adapter = random_reader(tiny)
    changed, plain = (MemoryLLM(stocked, tiny, one, reader.config) for one in (adapter, None))
    assert changed.answer(QUESTION, mode="text").text == plain.answer(QUESTION, mode="text").text
    with_changes = changed.answer(QUESTION, mode="text", lora=True)
    assert with_changes.text != plain.answer(QUESTION).text


def test_none_is_the_plain_model(reader, monkeypatch):
    monkeypatch.setattr(MemoryIndex, "recall_batch", None, raising=False)  # nothing may be searched
    plain = MemoryLLM(reader.memory, reader.llm, None, MemoryLLMConfig(max_new_tokens=12))
    answer = reader.answer(QUESTION, mode="none", system="")
    assert (answer.mode, answer.sources, answer.usage.memory_tokens) == ("none", (), 0)
    assert answer.text == plain.answer(QUESTION, mode="none").text
    assert "Be brief." in reader.answer(QUESTION, mode="none").prompt
    assert "<|start|>system" not in plain.answer(QUESTION, mode="none").prompt


def test_sources_say_where_in_the_document(reader):
    texts = {one.id: one.text for one in documents()}
    answer = reader.answer(QUESTION)
    for one in answer.sources:
        if one.as_text:
            assert texts[one.document_id][one.start : one.end] == one.text
        else:
            assert 0 <= one.start < one.end <= len(texts[one.document_id])
    assert json.loads(json.dumps(answer.to_dict()))["sources"][0]["text"] == answer.sources[0].text


# -- one warning


def test_no_reader_for_the_model_is_said_once(stocked, tiny, recwarn):
    with pytest.warns(UserWarning, match="reads text only") as caught:
        llm = MemoryLLM.open(stocked, model=tiny, config=MemoryLLMConfig(max_new_tokens=2))
    assert len(caught) == 1
    assert llm.answer(QUESTION).mode == "text"
    assert llm.answer(QUESTION, mode="both").mode == "text"


def test_none_means_text_and_warns_nobody(stocked, tiny):
    llm = MemoryLLM.open(stocked, model=tiny, adapter=None, config=MemoryLLMConfig(max_new_tokens=2))
    assert llm.answer(QUESTION).mode == "text"
    with pytest.raises(InvalidInputError, match="mode 'memory' needs a reader"):
        llm.answer(QUESTION, mode="memory")
    with pytest.raises(InvalidInputError, match="mode 'both' needs a reader"):
        MemoryLLM.open(stocked, model=tiny, adapter=None, config=MemoryLLMConfig(mode="both"))


def test_a_folder_and_how_its_reader_was_trained_to_read(stocked, tiny, tmp_path):
    random_reader(tiny, reading={"windows": 2, "system": "As trained."}).save(tmp_path)
    llm = MemoryLLM.open(
        stocked, model=tiny, adapter=tmp_path, config=MemoryLLMConfig(max_new_tokens=2, windows=3)
    )
    answer = llm.answer(QUESTION, chunks=0)
    assert kinds(answer) == [(1, True), (0, False), (0, False), (0, False)]
    assert "As trained." in answer.prompt
    assert kinds(llm.answer(QUESTION, windows=0, chunks=1)) == [
        (1, True),
        (1, False),
    ]  # no nodes yet
    assert "As trained." not in llm.answer(QUESTION, mode="text").prompt
    random_reader(tiny, reading={"mode": "memory"}).save(tmp_path / "memory")
    llm = MemoryLLM.open(stocked, model=tiny, adapter=tmp_path / "memory")
    assert llm.answer(QUESTION, max_new_tokens=2).mode == "memory"


def test_another_models_reader_is_refused_and_any_encoder_will_do(stocked, tiny, tmp_path):
    other = load_llm(write_tiny(tmp_path / "other", seed=1), device="cpu")
    random_reader(tiny).save(tmp_path / "reader")
    with pytest.raises(AdapterMismatchError, match="trained for the model"):
        MemoryLLM.open(stocked, model=other, adapter=tmp_path / "reader")
    with MemoryIndex.open(tmp_path / "wide", encoder=ToyEncoder(dim=8)) as memory:
        memory.add(documents(2))
        llm = MemoryLLM.open(memory, model=tiny, adapter=tmp_path / "reader")
        assert llm.answer(QUESTION, mode="memory", max_new_tokens=2).usage.memory_tokens
    with pytest.raises(NotFoundError, match="no reader in"):
        MemoryLLM.open(stocked, model=tiny, adapter=tmp_path)
    (tmp_path / "adapter.json").write_text("{}")
    with pytest.raises(InvalidInputError, match="an adapter of an earlier version"):
        MemoryLLM.open(stocked, model=tiny, adapter=tmp_path)


# -- budgets


def test_the_memory_budget_drops_from_the_least_relevant_end(reader):
    everything = reader.answer(QUESTION, windows=6, chunks=3)
    total = everything.usage.memory_tokens
    assert everything.dropped == Dropped()
    for budget in range(total + 1):
        answer = reader.answer(QUESTION, windows=6, chunks=3, memory_budget=budget, max_new_tokens=1)
        assert answer.usage.memory_tokens == budget
        lost = answer.dropped
        assert lost.windows + lost.chunks == total - budget
        assert not lost.chunks or lost.windows == 6


def test_windows_that_are_kept_are_the_best_chunks(reader):
    best = reader.memory.search(QUESTION, k=1)[0]
    kept = [one for one in reader.answer(QUESTION, windows=4).sources if one.level == 0]
    assert [one.chunk_id for one in kept] == [best.chunk_id] * 4
    assert kept[0].start == best.start
    assert [one.end for one in kept[:-1]] == [one.start for one in kept[1:]]


def test_what_is_spelled_out_need_not_be_repeated(reader):
    best = reader.memory.search(QUESTION, k=1)[0].chunk_id
    again = {one.chunk_id for one in reader.answer(QUESTION).sources if not one.as_text}
    once = {one.chunk_id for one in reader.answer(QUESTION, repeat=False).sources if not one.as_text}
    assert again - once == {best}


def test_the_text_budget(reader):
    whole = reader.answer(QUESTION, expand=3, max_new_tokens=1)
    for budget in (whole.usage.text_tokens, 300, 100, 30, 3):
        answer = reader.answer(QUESTION, expand=3, text_tokens=budget, max_new_tokens=1)
        assert answer.usage.text_tokens <= budget
        spelled = [one for one in answer.sources if one.as_text]
        assert len(spelled) + answer.dropped.passages == 3
        for one, full in zip(spelled, whole.sources, strict=False):
            assert one.text in full.text
            assert not one.text or f" {one.text} " in f" {full.text} "  # whole words
    assert whole.dropped == Dropped()


# -- the context is never exceeded


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    question=st.integers(1, 1300),
    history=st.lists(st.integers(0, 400), max_size=6),
    expand=st.integers(0, 3),
    windows=st.integers(0, 24),
    new=st.integers(1, 600),
)
def test_the_context_is_never_exceeded(reader, question, history, expand, windows, new):
    messages = [
        {"role": ("user", "assistant")[place % 2], "content": "h" * size + "."}
        for place, size in enumerate(history[: len(history) // 2 * 2])
    ]
    messages.append({"role": "user", "content": "q" * question})
    plan = planned(reader, messages, expand=expand, windows=windows, max_new_tokens=new)
    if plan is None:
        assert len(_layout(reader).build("q" * question)) + new > reader.llm.context
        return
    assert len(plan.prompt) + new <= reader.llm.context
    assert not plan.dropped.windows or plan.dropped.turns == len(messages) - 1
    assert not plan.dropped.passages or plan.prompt.memory_tokens <= 3


def planned(reader: MemoryLLM, messages: list[dict[str, str]], **options):
    """What would be read; None when the question does not fit."""
    with suppress(InvalidInputError):
        return reader._plans([turns_of(messages)], Scope(), reader._settings(options))[0]
    return None


def _layout(reader: MemoryLLM) -> PromptLayout:
    return PromptLayout(reader.llm.tokenizer, reader.config.system)


def test_a_question_that_is_too_long_is_refused(reader):
    with pytest.raises(InvalidInputError, match=r"does not fit the model: \d+ tokens, expected at most 1012"):
        reader.answer("q" * 1100)


def test_old_turns_go_first(reader):
    def chat(turns):
        messages = [
            {"role": role, "content": f"{role} turn {turn} " + 40 * "x"}
            for turn in range(turns)
            for role in ("user", "assistant")
        ]
        return [*messages, {"role": "user", "content": QUESTION}]

    short = reader.answer(chat(1), windows=2)
    assert short.dropped == Dropped()
    assert "assistant turn 0" in short.prompt
    long = reader.answer(chat(14), windows=2)
    assert long.dropped == Dropped(turns=long.dropped.turns)
    assert long.dropped.turns % 2 == 0
    assert "assistant turn 13" in long.prompt
    assert "user turn 0" not in long.prompt


# -- chats


def test_a_message_may_say_what_to_search_by(reader):
    message = {"role": "user", "content": "In one word, please.", "query": QUESTION}
    answer, plain = reader.answer([message], mode="text"), reader.answer(QUESTION, mode="text")
    assert answer.sources == plain.sources
    assert "In one word, please." in answer.prompt
    assert QUESTION not in answer.prompt


def test_the_last_message_is_searched_by(reader):
    chat = [
        {"role": "system", "content": "Rhyme."},
        {"role": "user", "content": "Tell me of the kettles number 1."},
        {"role": "assistant", "content": "They boil."},
        {"role": "user", "content": QUESTION},
    ]
    answer, alone = reader.answer(chat, windows=2), reader.answer(QUESTION, windows=2)
    assert answer.sources == alone.sources
    assert "Rhyme." in answer.prompt
    assert "They boil." in answer.prompt
    assert "Be brief." not in answer.prompt


def test_neighbours_of_one_role_are_one_message(reader):
    chat = [
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Good day."},
        {"role": "user", "content": QUESTION},
    ]
    together = [chat[0], {"role": "user", "content": f"Good day.\n\n{QUESTION}"}]
    answers = [reader.answer(messages, mode="text") for messages in (chat, together)]
    assert answers[0].prompt == answers[1].prompt
    assert answers[0].sources == answers[1].sources
    assert turns_of([*chat[:2], chat[2] | {"query": "kettles"}]).query == "kettles"


BAD_QUESTIONS = {
    "empty": ("", InvalidInputError, "is empty"),
    "blank": (" \n", InvalidInputError, "is empty"),
    "surrogate": ("a\ud800", InvalidInputError, "lone surrogate"),
    "none": (None, InvalidTypeError, "a string or a list of messages"),
    "bytes": (b"who", InvalidTypeError, "a string or a list of messages"),
    "one-message": ({"role": "user", "content": "who"}, InvalidTypeError, "a list of messages"),
    "no-messages": ([], InvalidInputError, "the last message must be the user's, got 'none'"),
    "ends-with-assistant": ([{"role": "assistant", "content": "a"}], InvalidInputError, "got 'assistant'"),
    "role": ([{"role": "tool", "content": "a"}], InvalidInputError, "unknown role 'tool'"),
    "query": ([{"role": "user", "content": "who", "query": 1}], InvalidTypeError, "the query of a message"),
    "parts": ([{"role": "user", "content": [{"type": "text"}]}], InvalidTypeError, "both text"),
    "strings": (["who", "what"], InvalidTypeError, "a message has a role"),
    "late-system": (
        [{"role": role, "content": "a"} for role in ("user", "system", "user")],
        InvalidInputError,
        "only be the first",
    ),
}


@pytest.mark.parametrize("name", BAD_QUESTIONS)
def test_bad_questions(reader, name):
    question, error, message = BAD_QUESTIONS[name]
    for call in (reader.answer, reader.stream, lambda one: reader.answer_batch([QUESTION, one])):
        with pytest.raises(error, match=message):
            call(question)


@pytest.mark.parametrize(
    ("settings_given", "error", "message"),
    [
        ({"mode": "books"}, InvalidInputError, "'mode'"),
        ({"k": 0}, InvalidInputError, "'k'"),
        ({"temprature": 1}, InvalidInputError, "temprature.*settings are mode, k"),
        ({"stop": ("",)}, InvalidInputError, "'stop"),
        ({"filter": {"number": {"$near": 1}}}, FilterError, "near"),
        ({"namespace": 5}, InvalidTypeError, "namespace"),
        ({"exclude_labels": "draft"}, InvalidTypeError, "exclude_labels"),
    ],
    ids=str,
)
def test_bad_settings(reader, settings_given, error, message):
    for call in (reader.answer, reader.stream, lambda one, **more: reader.answer_batch([one], **more)):
        with pytest.raises(error, match=message):
            call(QUESTION, **settings_given)


def test_bad_parts(reader, stocked, tiny):
    with pytest.raises(InvalidTypeError, match="must be a MemoryIndex"):
        MemoryLLM.open("memory", model=tiny)  # type: ignore[arg-type]
    with pytest.raises(InvalidTypeError, match="must be a MemoryLLMConfig"):
        MemoryLLM.open(stocked, model=tiny, config={"k": 3})  # type: ignore[arg-type]
    with pytest.raises(InvalidTypeError, match="adapter must be"):
        MemoryLLM.open(stocked, model=tiny, adapter=5)  # type: ignore[arg-type]
    with pytest.raises(InvalidTypeError, match="questions are a list"):
        reader.answer_batch(QUESTION)


# -- empty


def test_an_empty_memory_is_said(tmp_path, tiny, reader):
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder()) as memory:
        for adapter in (None, random_reader(tiny)):
            answer = MemoryLLM(memory, tiny, adapter, MemoryLLMConfig(max_new_tokens=4)).answer(QUESTION)
            assert (answer.mode, answer.sources, answer.usage.memory_tokens) == ("none", (), 0)
            assert answer.usage.output_tokens > 0


def test_a_memory_without_levels_or_windows(tmp_path, tiny):
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder(windows=False)) as memory:
        memory.add(documents(1))
        config = MemoryLLMConfig(max_new_tokens=4, chunks=1, repeat=True)
        answer = MemoryLLM(memory, tiny, random_reader(tiny), config).answer(QUESTION, text_tokens=60)
        assert set(kinds(answer)) == {(1, True), (1, False), (0, False)}
        assert answer.dropped.cut == 1
