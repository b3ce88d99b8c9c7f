"""`ChatMemoryLLM` and `MemoryLLM`: what is asked, what comes back, piece by piece and together."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.globals import set_llm_cache
from langchain_core.messages import (
    AIMessage,
    ChatMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
    trim_messages,
)
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_mllm import ChatMemoryLLM, MemoryLLM
from langchain_mllm.messages import question_of
from pydantic import ValidationError

import mllm_plugin.memory_llm
from mllm_plugin import Document
from mllm_plugin.errors import InvalidInputError, InvalidTypeError
from tests.helpers.tiny_memory_llm import stop_inside

QUESTION = "Which planet has oceans and one moon?"


@pytest.fixture
def chat(reader: mllm_plugin.memory_llm.MemoryLLM) -> ChatMemoryLLM:
    return ChatMemoryLLM(llm=reader)


@pytest.fixture
def text(reader: mllm_plugin.memory_llm.MemoryLLM) -> MemoryLLM:
    return MemoryLLM(llm=reader)


def ids(message: Any) -> list[str]:
    """Documents that were spelled out."""
    return [one["document_id"] for one in message.response_metadata["sources"] if one["as_text"]]


# -- answers


def test_an_answer_says_what_it_rests_on(chat: ChatMemoryLLM) -> None:
    message, answer = chat.invoke(QUESTION), chat.llm.answer(QUESTION)
    assert (message.content, message.response_metadata["mode"]) == (answer.text, "both")
    assert message.response_metadata["finish_reason"] == answer.finish_reason
    assert message.response_metadata["model_name"] == chat.llm.llm.name
    first, *others = message.response_metadata["sources"]
    assert (first["document_id"], first["start"], first["level"], first["as_text"]) == ("earth", 0, 1, True)
    assert first["text"][first["start"] : first["end"]] == "Earth is a planet with oceans and one moon."
    assert {one["as_text"] for one in others} == {False}
    assert message.usage_metadata is not None
    assert message.usage_metadata["input_tokens"] == answer.usage.input_tokens
    assert message.usage_metadata["total_tokens"] == answer.usage.input_tokens + answer.usage.output_tokens
    assert message.response_metadata["memory_tokens"] == len(others) > 0
    json.dumps(message.response_metadata)


async def test_chunks_of_a_chat_add_up_to_the_answer(chat: ChatMemoryLLM) -> None:
    whole = chat.invoke(QUESTION)
    for chunks in (list(chat.stream(QUESTION)), [one async for one in chat.astream(QUESTION)]):
        assert len(chunks) > 2
        total = chunks[0]
        for chunk in chunks[1:]:
            total += chunk
        assert total.content == whole.content
        assert total.response_metadata == whole.response_metadata
        assert total.usage_metadata == whole.usage_metadata
    assert (await chat.ainvoke(QUESTION)).response_metadata == whole.response_metadata
    streaming = ChatMemoryLLM(llm=chat.llm, streaming=True).invoke(QUESTION)
    assert (streaming.content, streaming.response_metadata) == (whole.content, whole.response_metadata)


async def test_chunks_of_an_llm_add_up_to_the_answer(text: MemoryLLM, chat: ChatMemoryLLM) -> None:
    whole = text.invoke(QUESTION)
    assert whole == chat.invoke(QUESTION).content
    assert "".join(text.stream(QUESTION)) == whole
    assert "".join([piece async for piece in text.astream(QUESTION)]) == whole
    assert await text.ainvoke(QUESTION) == whole


def test_a_batch_of_an_llm_is_one_call(text: MemoryLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    questions = [QUESTION, "Which planet is red?", "Which is the largest planet?"]
    singles = [text.invoke(one) for one in questions]
    sizes: list[int] = []
    answer_batch = text.llm.answer_batch

    def counted(asked: Any, **options: Any) -> Any:
        sizes.append(len(asked))
        return answer_batch(asked, **options)

    monkeypatch.setattr(text.llm, "answer_batch", counted)
    assert text.batch(questions) == singles
    assert sizes == [3]
    infos = [one[0].generation_info or {} for one in text.generate(questions).generations]
    assert [one["sources"][0]["document_id"] for one in infos] == ["earth", "mars", "jupiter"]
    assert all(one["usage_metadata"]["output_tokens"] <= 12 for one in infos)


def test_callbacks_hear_every_piece(chat: ChatMemoryLLM, text: MemoryLLM) -> None:
    class Ear(BaseCallbackHandler):
        def __init__(self) -> None:
            self.heard: list[str] = []
            self.ended: list[Any] = []

        def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
            self.heard.append(token)

        def on_llm_end(self, response: Any, **kwargs: Any) -> None:
            self.ended.append(response.generations[0][0])

    for model in (chat, text):
        ear = Ear()
        pieces = list(model.stream(QUESTION, config={"callbacks": [ear]}))
        assert "".join(ear.heard) == "".join(one if isinstance(one, str) else one.content for one in pieces)
        assert ear.ended[0].generation_info or ear.ended[0].message.response_metadata


async def test_a_cancelled_stream_stops_the_model(chat: ChatMemoryLLM) -> None:
    first = asyncio.Event()

    async def read() -> None:
        async for _ in chat.astream(QUESTION, max_tokens=3000):
            first.set()

    task = asyncio.create_task(read())
    await asyncio.wait_for(first.wait(), 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await asyncio.wait_for(chat.ainvoke(QUESTION), 60)).content


@pytest.mark.parametrize("call", ["ainvoke", "agenerate", "abatch"])
async def test_a_cancelled_call_stops_the_model(
    chat: ChatMemoryLLM, text: MemoryLLM, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, steps = asyncio.get_running_loop(), 0
    begun = asyncio.Event()
    ask = chat.llm.llm.model.forward

    def forward(*args: Any, **options: Any) -> Any:
        nonlocal steps
        steps += 1
        loop.call_soon_threadsafe(begun.set)
        return ask(*args, **options)

    monkeypatch.setattr(chat.llm.llm.model, "forward", forward)
    for model in (chat, text):
        begun.clear()
        prompts = [HumanMessage(QUESTION)] if model is chat and call == "agenerate" else QUESTION
        asked = prompts if call == "ainvoke" else [prompts]
        task = asyncio.create_task(getattr(model, call)(asked, max_tokens=3000))
        await asyncio.wait_for(begun.wait(), 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        steps = 0
        assert (await asyncio.wait_for(chat.ainvoke(QUESTION, max_tokens=2), 60)).content
        assert steps <= 2 + 2  # those of this answer, and what was under way


# -- messages


def test_a_conversation_keeps_its_history_and_searches_by_the_last_message(chat: ChatMemoryLLM) -> None:
    messages = [
        SystemMessage("Rhyme."),
        HumanMessage("Tell me of Mars."),
        AIMessage([{"type": "reasoning", "reasoning": "Hm."}, {"type": "text", "text": "It is red."}]),
        HumanMessage(["Which planet has ", {"type": "text", "text": "oceans and one moon?"}], name="Ann"),
    ]
    asked = [
        {"role": "system", "content": "Rhyme."},
        {"role": "user", "content": "Tell me of Mars."},
        {"role": "assistant", "content": "It is red."},
        {"role": "user", "content": QUESTION},
    ]
    assert question_of(messages) == asked
    message = chat.invoke(messages)
    assert message.content == chat.llm.answer(asked).text
    assert ids(message) == ["earth"]


def test_neighbours_of_one_role_become_one_message() -> None:
    messages = [SystemMessage("a"), ChatMessage("b", role="system"), HumanMessage("c"), HumanMessage("d")]
    assert question_of(messages) == [
        {"role": "system", "content": "a\n\nb"},
        {"role": "user", "content": "c\n\nd"},
    ]


CALL = {"name": "search", "args": {}, "id": "1"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
REFUSED = {
    "image": ([HumanMessage([{"type": "text", "text": "What is this?"}, IMAGE])], "reads text only, got a c"),
    "tool-call": (
        [HumanMessage("a"), AIMessage("", tool_calls=[CALL]), HumanMessage("b")],
        "with tool calls",
    ),
    "tool": ([HumanMessage("a"), ToolMessage("b", tool_call_id="1")], "of type 'tool'; give the retriever"),
    "remove": ([RemoveMessage(id="1")], "of type 'remove'"),
    "answer-last": ([HumanMessage("a"), AIMessage("b")], "last message must be the user's"),
    "system-later": ([HumanMessage("a"), SystemMessage("b"), HumanMessage("c")], "only be the first one"),
    "none": ([], "last message must be the user's"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_cannot_read_is_refused(chat: ChatMemoryLLM, name: str) -> None:
    messages, reason = REFUSED[name]
    with pytest.raises(InvalidInputError, match=reason):
        chat.invoke(messages)
    with pytest.raises(InvalidInputError, match=reason):
        list(chat.stream(messages))


# -- options


def test_options_of_the_object_of_bind_and_of_the_call(chat: ChatMemoryLLM) -> None:
    chat.llm.memory.add([Document("My moon is made of cheese.", id="cheese")], namespace="dreams")
    assert ids(ChatMemoryLLM(llm=chat.llm, namespace="dreams").invoke(QUESTION)) == ["cheese"]
    assert ids(chat.bind(namespace="dreams").invoke(QUESTION)) == ["cheese"]
    assert ids(chat.invoke(QUESTION, namespace="dreams")) == ["cheese"]
    moonless = ChatMemoryLLM(llm=chat.llm, filter={"moons": 0}, mode="text", k=5, expand=5)
    assert sorted(ids(moonless.invoke(QUESTION))) == ["mercury", "venus"]
    assert ids(moonless.invoke(QUESTION, filter={"moons": 1})) == ["earth"]
    assert moonless.invoke(QUESTION, mode="none").response_metadata["mode"] == "none"
    assert len(ids(moonless.invoke(QUESTION, filter=None, k=3))) == 3
    assert ids(chat.invoke("Say it in French.", query=QUESTION)) == ["earth"]


def test_options_of_writing(chat: ChatMemoryLLM, text: MemoryLLM) -> None:
    short = chat.invoke(QUESTION, max_tokens=3)
    assert (short.usage_metadata or {})["output_tokens"] == 3
    assert short.response_metadata["finish_reason"] == "length"
    whole = chat.invoke(QUESTION, max_tokens=60).text
    stop = stop_inside(whole)
    for stopped in (
        chat.invoke(QUESTION, stop=[stop], max_tokens=60).text,
        chat.bind(stop=[stop], max_tokens=60).invoke(QUESTION).text,
        ChatMemoryLLM(llm=chat.llm, stop=[stop], max_tokens=60).invoke(QUESTION).text,
        text.invoke(QUESTION, stop=[stop], max_tokens=60),
        "".join(text.stream(QUESTION, stop=[stop], max_tokens=60)),
    ):
        assert stopped == whole[: whole.index(stop)].strip()
    warm = ChatMemoryLLM(llm=chat.llm, temperature=5.0)
    assert warm.invoke(QUESTION, seed=1).content == warm.invoke(QUESTION, seed=1).content
    assert warm.invoke(QUESTION, seed=1).content != warm.invoke(QUESTION, seed=2).content


def test_unknown_options_are_errors(chat: ChatMemoryLLM) -> None:
    with pytest.raises(ValidationError, match="max_token"):
        ChatMemoryLLM(llm=chat.llm, max_token=3)  # pyright: ignore
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        MemoryLLM(llm=chat.llm, k=0)
    with pytest.raises(InvalidInputError, match="setting 'model' of the MemoryLLM"):
        chat.invoke(QUESTION, model="other")
    with pytest.raises(InvalidTypeError, match=r"unknown option 'top_k'; did you mean k\?"):
        MemoryLLM.from_memory(chat.llm.memory, top_k=3)


def test_from_memory_opens_a_model(chat: ChatMemoryLLM, tiny: Any) -> None:
    opened = ChatMemoryLLM.from_memory(chat.llm.memory, model=tiny.folder, adapter=None, max_tokens=2, k=1)
    message = opened.invoke(QUESTION)
    assert (ids(message), message.response_metadata["mode"]) == (["earth"], "text")
    assert (message.usage_metadata or {})["output_tokens"] <= 2
    with pytest.raises(TypeError, match="modle"):
        MemoryLLM.from_memory(chat.llm.memory, modle=tiny)


# -- in LangChain


@pytest.fixture
def global_cache() -> Iterator[None]:
    set_llm_cache(InMemoryCache())
    yield
    set_llm_cache(None)


@pytest.mark.usefixtures("global_cache")
def test_a_masked_fact_does_not_come_out_of_a_cache(chat: ChatMemoryLLM, text: MemoryLLM) -> None:
    assert ids(chat.invoke(QUESTION)) == ["earth"]
    before = text.generate([QUESTION]).generations[0][0].generation_info or {}
    chat.llm.memory.mask(["earth"])
    assert "earth" not in ids(chat.invoke(QUESTION))
    after = text.generate([QUESTION]).generations[0][0].generation_info or {}
    assert before["sources"][0]["document_id"] == "earth"
    assert "earth" not in [one["document_id"] for one in after["sources"]]


async def test_a_blank_message_is_answered(chat: ChatMemoryLLM, text: MemoryLLM) -> None:
    blank = [HumanMessage(QUESTION), AIMessage("Earth."), HumanMessage(" ")]
    answers = [
        chat.invoke(""),
        await chat.ainvoke(blank),
        chat.invoke([HumanMessage(""), AIMessage("Yes?"), HumanMessage(QUESTION)], query=" "),
        list(chat.stream(""))[-1],
    ]
    assert all(answer.response_metadata["sources"] for answer in answers)
    assert ids(answers[2]) == ["earth"]
    assert ids(chat.invoke("", filter={"moons": 95})) == ["jupiter"]
    assert ids(chat.invoke("", query=QUESTION)) == ["earth"]
    [[generation], [other]] = text.generate(["", QUESTION]).generations
    assert generation.generation_info is not None
    assert generation.generation_info["sources"]
    assert other.generation_info == text.generate([QUESTION]).generations[0][0].generation_info


def test_in_a_chain(chat: ChatMemoryLLM) -> None:
    prompt = ChatPromptTemplate.from_messages([("system", "Be {manner}."), ("human", "{question}")])
    chain = prompt | chat | StrOutputParser()
    asked = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": QUESTION}]
    values = {"manner": "kind", "question": QUESTION}
    expected = chat.llm.answer(asked).text
    assert chain.invoke(values) == "".join(chain.stream(values)) == expected
    assert chain.batch([values, values]) == [expected] * 2


def test_an_agent_without_tools_and_none_with(chat: ChatMemoryLLM) -> None:
    agent = create_agent(chat, tools=[])
    assert ids(agent.invoke({"messages": [HumanMessage(QUESTION)]})["messages"][-1]) == ["earth"]
    for error in (NotImplementedError, InvalidInputError):
        with pytest.raises(error, match="calls no tools: it searches the memory by itself"):
            chat.bind_tools([])


def test_no_answers_by_a_schema(chat: ChatMemoryLLM, text: MemoryLLM) -> None:
    for model in (chat, text):
        with pytest.raises(NotImplementedError, match="answers in plain text, not by a schema"):
            model.with_structured_output({"title": "Planet", "type": "object"})


def test_tokens_are_counted_by_the_model(chat: ChatMemoryLLM, text: MemoryLLM) -> None:
    assert chat.get_num_tokens("moons") == text.get_num_tokens("moons") == 5  # its tokens are bytes
    messages = [HumanMessage("long " * 50), AIMessage("ago"), HumanMessage("now")]
    kept = trim_messages(messages, max_tokens=100, token_counter=chat, start_on="human")
    assert kept == messages[2:]


def test_what_traces_see(chat: ChatMemoryLLM, text: MemoryLLM) -> None:
    for model, kind in ((chat, "chat"), (text, "llm")):
        params = model._get_ls_params(stop=["x"], max_tokens=7)
        assert (params["ls_provider"], params["ls_model_type"]) == ("mllm", kind)
        assert params["ls_model_name"] == model.llm.llm.name
        assert (params["ls_max_tokens"], params["ls_temperature"], params["ls_stop"]) == (7, 0.0, ["x"])
        assert json.loads(json.dumps(model._identifying_params))["model_name"] == model.model_name
    assert (chat._llm_type, text._llm_type) == ("mllm-chat", "mllm")
