"""`MemoryLLM`: what is asked, what comes back, and who retrieves in a query engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core import PromptTemplate
from llama_index.core.base.llms.generic_utils import messages_to_history_str
from llama_index.core.base.llms.types import ImageBlock, TextBlock, ThinkingBlock
from llama_index.core.callbacks import CallbackManager, LlamaDebugHandler, TokenCountingHandler
from llama_index.core.callbacks.schema import CBEventType
from llama_index.core.chat_engine import ContextChatEngine, SimpleChatEngine
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.tools import QueryEngineTool
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
from llama_index_mllm import HierarchicalMemoryRetriever, MemoryLLM
from llama_index_mllm.messages import question_of
from pydantic import ValidationError

import mllm_plugin.memory_llm
from mllm_plugin import Document
from mllm_plugin.errors import InvalidInputError
from tests.helpers.llama_index_tools import Gate, WordEncoder
from tests.helpers.tiny_memory_llm import stop_inside

QUESTION = "where do dogs eat"


@pytest.fixture
def model(reader: mllm_plugin.memory_llm.MemoryLLM) -> MemoryLLM:
    return MemoryLLM(llm=reader)


@pytest.fixture
def asked(reader: mllm_plugin.memory_llm.MemoryLLM, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Answers that the model gives, as long as the test runs."""
    answers: list[Any] = []
    finish = reader._answer

    def kept(*args: Any) -> Any:
        answers.append(finish(*args))
        return answers[-1]

    monkeypatch.setattr(reader, "_answer", kept)
    return answers


@pytest.fixture
def queries(reader: mllm_plugin.memory_llm.MemoryLLM, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the model searches by."""
    found: list[str] = []
    recall_batch = reader.memory.recall_batch

    def kept(asked: list[str], **options: Any) -> Any:
        found.extend(asked)
        return recall_batch(asked, **options)

    monkeypatch.setattr(reader.memory, "recall_batch", kept, raising=False)
    return found


def ids(response: Any) -> list[str]:
    """Documents that were spelled out."""
    return [one["document_id"] for one in response.additional_kwargs["sources"] if one["as_text"]]


# -- answers


async def test_a_completion_says_what_it_rests_on(model: MemoryLLM) -> None:
    answer = model.llm.answer(QUESTION)
    for response in (model.complete(QUESTION), await model.acomplete(QUESTION)):
        assert (response.text, response.raw) == (answer.text, answer.to_dict())
        assert ids(response) == ["dogs"]
        first = response.additional_kwargs["sources"][0]
        assert (first["start"], first["end"], first["level"]) == (0, 32, 1)
        assert response.additional_kwargs["mode"] == "both"
        assert response.additional_kwargs["input_tokens"] == answer.usage.input_tokens


async def test_a_chat_keeps_its_history(model: MemoryLLM) -> None:
    messages = [
        ChatMessage("Rhyme.", role="system"),
        ChatMessage("Tell me of cats.", role="user"),
        ChatMessage([ThinkingBlock(content="Hm."), TextBlock(text="They eat.")], role="assistant"),
        ChatMessage([TextBlock(text="where do"), TextBlock(text="dogs eat")], role="user"),
    ]
    plain = [
        {"role": "system", "content": "Rhyme."},
        {"role": "user", "content": "Tell me of cats."},
        {"role": "assistant", "content": "They eat."},
        {"role": "user", "content": "where do\ndogs eat"},
    ]
    assert question_of(messages) == plain
    answer = model.llm.answer(plain)
    for response in (model.chat(messages), await model.achat(messages)):
        assert (response.message.content, response.raw) == (answer.text, answer.to_dict())
        assert ids(response) == ["dogs"]
        assert messages_to_history_str([response.message]) == f"assistant: {answer.text}"


async def test_streams_add_up_to_the_answer(model: MemoryLLM) -> None:
    messages = [ChatMessage(QUESTION)]
    whole = model.complete(QUESTION)
    streams = [
        list(model.stream_complete(QUESTION)),
        [one async for one in await model.astream_complete(QUESTION)],
        list(model.stream_chat(messages)),
        [one async for one in await model.astream_chat(messages)],
    ]
    for responses in streams:
        assert len(responses) > 2
        assert "".join(one.delta or "" for one in responses) == whole.text
        last = responses[-1]
        text = last.text if hasattr(last, "text") else last.message.content
        assert (text, last.raw, last.additional_kwargs) == (whole.text, whole.raw, whole.additional_kwargs)
        assert all(one.raw is None for one in responses[:-1])


async def test_the_event_loop_is_not_blocked(model: MemoryLLM, encoder: WordEncoder, gate: Gate) -> None:
    encoder.before = gate.hold
    assert ids(await gate.passed_by(model.acomplete(QUESTION))) == ["dogs"]


async def test_a_cancelled_stream_stops_the_model(model: MemoryLLM) -> None:
    first = asyncio.Event()

    async def read() -> None:
        async for _ in await model.astream_complete(QUESTION, max_tokens=3000):
            first.set()

    task = asyncio.create_task(read())
    await asyncio.wait_for(first.wait(), 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await asyncio.wait_for(model.acomplete(QUESTION), 60)).text


@pytest.mark.parametrize(
    "ask",
    [
        lambda model: model.acomplete(QUESTION, max_tokens=3000),
        lambda model: model.achat([ChatMessage(QUESTION)], max_tokens=3000),
    ],
    ids=["acomplete", "achat"],
)
async def test_a_cancelled_answer_stops_the_model(
    model: MemoryLLM, asked: list[Any], ask: Callable[[MemoryLLM], Any]
) -> None:
    task = asyncio.create_task(ask(model))
    while not model.llm.llm.lock.locked():
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await asyncio.wait_for(model.acomplete(QUESTION, max_tokens=3), 60)).text
    assert all(answer.usage.output_tokens < 1000 for answer in asked)  # none was written to its end


# -- no question


async def test_a_blank_message_is_answered(model: MemoryLLM) -> None:
    blank = [
        ChatMessage("", role="user"),
        ChatMessage("Yes?", role="assistant"),
        ChatMessage(" ", role="user"),
    ]
    responses = [
        model.complete(""),
        await model.acomplete(" "),
        model.complete("", query=" "),
        model.chat([ChatMessage("")]),
        await model.achat(blank),
        list(model.stream_complete(""))[-1],
        list(model.stream_chat([ChatMessage(QUESTION), ChatMessage("In the hall."), ChatMessage("")]))[-1],
    ]
    for response in responses:
        assert response.additional_kwargs["sources"]
    assert ids(model.complete("", query=QUESTION)) == ["dogs"]
    filters = MetadataFilters(filters=[MetadataFilter(key="number", value=2)])
    assert ids(model.complete("", filter=filters)) == ["horses"]


async def test_an_engine_without_a_question(model: MemoryLLM) -> None:
    for mode in ("compact", "generation"):
        tool = QueryEngineTool.from_defaults(engine(model, response_mode=mode), name="n", description="d")
        for output in (tool(input=""), await tool.acall(input="")):
            assert len(output.raw_output.source_nodes) == 2


def test_a_chat_engine_without_a_question(model: MemoryLLM) -> None:
    history = ChatMemoryBuffer.from_defaults(token_limit=3000)
    retriever = HierarchicalMemoryRetriever(model.llm.memory, k=2)
    chat = ContextChatEngine.from_defaults(retriever, llm=model, memory=history)
    assert len(chat.chat("").source_nodes) == 2
    assert chat.chat("where do cats eat").source_nodes[0].node.ref_doc_id == "cats"


# -- options


def test_options_of_the_object_and_of_the_call(model: MemoryLLM) -> None:
    model.llm.memory.add([Document("unicorns eat in the hall", id="unicorns")], namespace="tales")
    assert ids(MemoryLLM(llm=model.llm, namespace="tales").complete(QUESTION)) == ["unicorns"]
    assert ids(model.complete(QUESTION, namespace="tales")) == ["unicorns"]
    filters = MetadataFilters(filters=[MetadataFilter(key="number", value=2)])
    assert ids(MemoryLLM(llm=model.llm, filter=filters).complete(QUESTION)) == ["horses"]
    assert ids(model.complete(QUESTION, filter={"number": 0})) == ["cats"]
    text = MemoryLLM(llm=model.llm, mode="text", k=3, expand=3, max_tokens=2)
    response = text.complete(QUESTION)
    assert sorted(ids(response)) == ["cats", "dogs", "horses"]
    assert (response.additional_kwargs["output_tokens"], response.additional_kwargs["mode"]) == (2, "text")
    assert len(ids(text.chat([ChatMessage(QUESTION)], k=1))) == 1
    assert ids(model.complete("say it in French", query=QUESTION)) == ["dogs"]
    assert ids(model.chat([ChatMessage("say it in French")], query=QUESTION)) == ["dogs"]


def test_stop_texts(model: MemoryLLM) -> None:
    whole = model.complete(QUESTION, max_tokens=60).text
    stop = stop_inside(whole)
    stopped = MemoryLLM(llm=model.llm, stop=[stop], max_tokens=60).complete(QUESTION)
    assert stopped.text == whole[: whole.index(stop)].strip()
    pieces = model.stream_complete(QUESTION, stop=[stop], max_tokens=60)
    assert "".join(one.delta or "" for one in pieces) == stopped.text


def test_unknown_options_are_errors(model: MemoryLLM) -> None:
    with pytest.raises(ValidationError, match="max_token"):
        MemoryLLM(llm=model.llm, max_token=3)
    with pytest.raises(InvalidInputError, match="setting 'tools' of the MemoryLLM"):
        model.complete(QUESTION, tools=[])


def test_what_it_cannot_read_is_refused(model: MemoryLLM) -> None:
    image = ImageBlock(url="https://example.org/image.png")
    with pytest.raises(InvalidInputError, match="reads text only, got a ImageBlock"):
        model.chat([ChatMessage([TextBlock(text="What is this?"), image])])
    with pytest.raises(InvalidInputError, match="of role 'tool'; give the retriever"):
        model.chat([ChatMessage(QUESTION), ChatMessage("found", role="tool")])
    with pytest.raises(InvalidInputError, match="last message must be the user's"):
        model.chat([])


def test_from_memory_opens_a_model(model: MemoryLLM, tiny: Any) -> None:
    opened = MemoryLLM.from_memory(model.llm.memory, model=tiny.folder, adapter=None, k=1, max_tokens=2)
    response = opened.complete(QUESTION)
    assert (ids(response), response.additional_kwargs["mode"]) == (["dogs"], "text")
    assert (opened.metadata.context_window, opened.metadata.num_output) == (tiny.context, 2)
    assert (opened.metadata.is_chat_model, opened.metadata.model_name) == (True, str(tiny.folder))


# -- who retrieves


def engine(model: MemoryLLM, **options: Any) -> RetrieverQueryEngine:
    retriever = HierarchicalMemoryRetriever(model.llm.memory, k=2)
    return RetrieverQueryEngine.from_args(retriever, llm=model, **options)


def test_beside_an_engine_s_context_only_embeddings_are_added(
    model: MemoryLLM, asked: list[Any], queries: list[str]
) -> None:
    response = engine(model).query(QUESTION)
    [answer] = asked
    assert str(response) == answer.text
    assert response.source_nodes[0].node.ref_doc_id == "dogs"
    assert (queries, answer.mode) == ([QUESTION], "memory")
    assert answer.prompt.count("dogs eat in the kitchen") == 1


def test_an_engine_may_leave_all_retrieval_to_the_model(
    model: MemoryLLM, asked: list[Any], queries: list[str]
) -> None:
    response = engine(model, response_mode="generation").query(QUESTION)
    [answer] = asked
    assert queries == [QUESTION]
    assert answer == model.llm.answer(QUESTION)
    assert str(response) == answer.text
    assert response.source_nodes[0].node.ref_doc_id == "dogs"


def test_the_plain_model_retrieves_nothing(model: MemoryLLM, asked: list[Any], queries: list[str]) -> None:
    engine(MemoryLLM(llm=model.llm, mode="none")).query(QUESTION)
    assert (queries, asked[0].mode, asked[0].sources) == ([], "none", ())
    assert asked[0].prompt.count("dogs eat in the kitchen") == 1


def test_text_is_repeated_only_when_asked_for(model: MemoryLLM, asked: list[Any]) -> None:
    engine(MemoryLLM(llm=model.llm, expand=1)).query(QUESTION)
    assert asked[0].prompt.count("dogs eat in the kitchen") == 2


@pytest.mark.parametrize("mode", ["compact", "refine", "tree_summarize"])
def test_every_step_of_an_engine_searches_by_the_question(
    model: MemoryLLM, asked: list[Any], queries: list[str], mode: str
) -> None:
    engine(model, response_mode=mode).query(QUESTION)
    assert set(queries) == {QUESTION}
    assert {answer.usage.text_tokens for answer in asked} == {0}


async def test_engines_stream_and_wait(model: MemoryLLM) -> None:
    for options in ({}, {"response_mode": "generation"}):
        whole = str(engine(model, **options).query(QUESTION))
        streamed = engine(model, streaming=True, **options).query(QUESTION)
        assert "".join(streamed.response_gen) == whole
        assert str(await engine(model, **options).aquery(QUESTION)) == whole


def test_a_template_of_one_s_own(model: MemoryLLM, queries: list[str]) -> None:
    template = PromptTemplate("Answer in French.\n{query_str}")
    assert model.predict(template, query_str=QUESTION)
    assert model.predict(PromptTemplate("dogs or {animal}?"), animal="cats")
    assert queries == [QUESTION, "dogs or cats?"]


# -- in LlamaIndex


def test_a_chat_engine_remembers(model: MemoryLLM, asked: list[Any]) -> None:
    history = ChatMemoryBuffer.from_defaults(token_limit=3000)
    chat = SimpleChatEngine.from_defaults(llm=model, memory=history, system_prompt="Rhyme.")
    first = chat.chat("where do cats eat")
    chat.chat(QUESTION)
    assert [one.sources[0].document_id for one in asked] == ["cats", "dogs"]
    for words in ("Rhyme.", "where do cats eat", str(first)):
        assert words in asked[1].prompt


@pytest.mark.parametrize(
    "ask",
    [
        lambda model: model.complete(QUESTION),
        lambda model: model.chat([ChatMessage(QUESTION)]),
        lambda model: list(model.stream_complete(QUESTION)),
        lambda model: list(model.stream_chat([ChatMessage(QUESTION)])),
    ],
    ids=["complete", "chat", "stream_complete", "stream_chat"],
)
def test_handlers_see_every_call(model: MemoryLLM, ask: Callable[[MemoryLLM], Any]) -> None:
    debug, counter = LlamaDebugHandler(print_trace_on_end=False), TokenCountingHandler()
    heard = MemoryLLM(llm=model.llm, callback_manager=CallbackManager([debug, counter]))
    ask(heard)
    assert len(debug.get_event_pairs(CBEventType.LLM)) == 1
    usage = model.llm.answer(QUESTION).usage
    assert counter.prompt_llm_token_count == usage.input_tokens
    assert counter.completion_llm_token_count == usage.output_tokens
