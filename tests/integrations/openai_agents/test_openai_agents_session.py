"""`HierarchicalMemorySession`: what the SDK's tests ask of its `SQLiteSession`, and what is ours."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from agents import Agent, RunConfig, Runner, SQLiteSession
from agents.memory import Session, SessionSettings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai_agents_mllm import HierarchicalMemorySession

from mllm_plugin import InvalidInputError, InvalidTypeError, MemoryIndex
from mllm_plugin.agent import AgentMemory, AgentScope
from tests.helpers.front_end_tools import any_file_holds
from tests.helpers.openai_agents_tools import Scripted, says

USER: Any = {"role": "user", "content": "Hello"}
CONVERSATION: list[Any] = [
    USER,
    {"role": "assistant", "content": "Hi there!"},
    {"role": "user", "content": "How are you?"},
]
ODD: list[Any] = [
    {"role": "user", "content": "日本語 \U0001f600 ünï"},
    {"role": "user", "content": "lone \ud800 surrogate"},
    {"role": "user", "content": 'He said "O\'Brien"; DROP TABLE items; --\n\ttabbed\\'},
    {"role": "user", "content": ""},
    {"role": "user", "content": " \n"},
    {"role": "assistant", "content": None},
    {
        "role": "user",
        "content": [{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": "x"}],
    },
    {"id": "m", "type": "message", "role": "assistant", "status": "completed", "content": []},
    {"type": "function_call", "call_id": "c", "name": "weather", "arguments": '{"city": "Rome"}'},
    {"type": "function_call_output", "call_id": "c", "output": "sunny"},
    {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "sunny"}]},
    {
        "type": "reasoning",
        "id": "r",
        "summary": [{"type": "summary_text", "text": "think"}],
        "encrypted": None,
    },
    {"type": "item_reference", "id": "__fake_id__"},
    {"nested": {"deep": [1, 2.5, None, True, {"x": []}]}, "role": "user", "content": "long " * 2000},
    {},
]


def session(scope: AgentScope, name: str = "s1", **options: Any) -> HierarchicalMemorySession:
    return HierarchicalMemorySession(name, scope, **options)


async def run(method: str, agent: Agent, given: Any, **options: Any) -> Any:
    if method == "run":
        return await Runner.run(agent, given, **options)
    result = Runner.run_streamed(agent, given, **options)
    async for _ in result.stream_events():
        pass
    return result


# -- what the SDK's own tests check


def test_it_is_a_session(ann: AgentScope) -> None:
    assert isinstance(session(ann), Session)


@pytest.mark.parametrize("method", ["run", "run_streamed"])
async def test_a_second_turn_sees_the_first(ann: AgentScope, method: str) -> None:
    model = Scripted(says("San Francisco"), says("California"))
    agent = Agent(name="test", model=model)
    first = await run(method, agent, "What city is the Golden Gate in?", session=session(ann))
    second = await run(method, agent, "What state is it in?", session=session(ann))
    assert (first.final_output, second.final_output) == ("San Francisco", "California")
    assert [item["content"] for item in model.inputs[1] if item["role"] == "user"] == [
        "What city is the Golden Gate in?",
        "What state is it in?",
    ]
    assert "San Francisco" in json.dumps(model.inputs[1])


@pytest.mark.parametrize("method", ["run", "run_streamed"])
async def test_sessions_are_apart(ann: AgentScope, method: str) -> None:
    model = Scripted(says("cats"), says("dogs"), says("you said cats"))
    agent = Agent(name="test", model=model)
    for name, text in (("one", "I like cats"), ("two", "I like dogs"), ("one", "What do I like?")):
        await run(method, agent, text, session=session(ann, name))
    assert "cats" in json.dumps(model.inputs[2])
    assert "dogs" not in json.dumps(model.inputs[2])


async def test_without_a_session_nothing_is_kept(ann: AgentScope) -> None:
    model = Scripted(says("Hello"), says("Again"))
    agent = Agent(name="test", model=model)
    await Runner.run(agent, "Hi")
    await Runner.run(agent, "Hi again")
    assert len(model.inputs[1]) == 1
    assert ann.stats()["items"] == 0


async def test_add_get_clear(ann: AgentScope) -> None:
    one = session(ann)
    await one.add_items(CONVERSATION)
    assert await one.get_items() == CONVERSATION
    await one.clear_session()
    assert await one.get_items() == []
    await one.clear_session()
    await one.add_items([])
    await one.add_items([USER])
    assert await one.get_items() == [USER]


async def test_pop_takes_the_last(ann: AgentScope) -> None:
    one, other = session(ann), session(ann, "other")
    assert await one.pop_item() is None
    await one.add_items(CONVERSATION)
    await other.add_items([USER])
    for item in reversed(CONVERSATION):
        assert await one.pop_item() == item
    assert await one.pop_item() is None
    assert await other.get_items() == [USER]


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 10, None])
async def test_a_limit_gives_the_latest_in_order(ann: AgentScope, limit: int | None) -> None:
    one = session(ann)
    await one.add_items(CONVERSATION)
    assert (
        await one.get_items(limit=limit)
        == CONVERSATION[len(CONVERSATION) - min(3, 3 if limit is None else limit) :]
    )


async def test_settings_bound_what_a_turn_gets(ann: AgentScope) -> None:
    one = session(ann, session_settings=SessionSettings(limit=1))
    await one.add_items(CONVERSATION)
    assert await one.get_items() == CONVERSATION[-1:]
    assert await one.get_items(limit=2) == CONVERSATION[-2:]
    model = Scripted(says("fine"))
    config = RunConfig(session_settings=SessionSettings(limit=2))
    await Runner.run(Agent(name="test", model=model), "So?", session=one, run_config=config)
    assert [item["content"] for item in model.inputs[0]] == ["Hi there!", "How are you?", "So?"]


async def test_a_callback_prepares_the_input(ann: AgentScope) -> None:
    one, model = session(ann), Scripted(says("I am a model"))
    await one.add_items(CONVERSATION)
    config = RunConfig(
        session_input_callback=lambda history, new: [i for i in history if i["role"] == "user"] + new
    )
    await Runner.run(
        Agent(name="test", model=model),
        [{"role": "user", "content": "Name?"}],
        session=one,
        run_config=config,
    )
    assert [item["content"] for item in model.inputs[0]] == ["Hello", "How are you?", "Name?"]
    assert len(await one.get_items()) == 5


# -- items come back as they were


@pytest.mark.parametrize("item", ODD, ids=range(len(ODD)))
async def test_every_item_comes_back_as_it_was(ann: AgentScope, item: Any) -> None:
    one = session(ann)
    await one.add_items([item, USER, item])
    assert await one.get_items() == [item, USER, item]
    assert [list(found) for found in await one.get_items()] == [list(item), list(USER), list(item)]
    assert await one.pop_item() == item


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
_ITEM = st.dictionaries(
    st.sampled_from(["role", "content", "type", "output", "id", "name"]), _JSON, max_size=4
)
_STEP = st.one_of(
    st.tuples(st.just("add"), st.lists(_ITEM, max_size=3)),
    st.tuples(st.just("pop"), st.none()),
    st.tuples(st.just("get"), st.none() | st.integers(0, 4)),
    st.tuples(st.just("clear"), st.none()),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(_STEP, max_size=8))
def test_it_does_what_the_sqlite_session_does(ann: AgentScope, steps: list[tuple[str, Any]]) -> None:
    async def compare() -> None:
        ours, theirs = session(ann), SQLiteSession("s1")
        for step, argument in steps:
            if step == "add":
                assert await ours.add_items(argument) == await theirs.add_items(argument)
            elif step == "pop":
                assert await ours.pop_item() == await theirs.pop_item()
            elif step == "get":
                assert await ours.get_items(argument) == await theirs.get_items(argument)
            else:
                assert await ours.clear_session() == await theirs.clear_session()
        assert await ours.get_items() == await theirs.get_items()
        await ours.clear_session()
        theirs.close()

    asyncio.run(compare())


@pytest.mark.parametrize("item", [{"role": "user", "content": {1, 2}}, {"at": object()}, "text", None])
async def test_what_is_no_json_is_refused_whole(ann: AgentScope, item: Any) -> None:
    one = session(ann)
    with pytest.raises(InvalidTypeError, match="dictionary of JSON values"):
        await one.add_items([USER, item])
    assert await one.get_items() == []


# -- memories


async def test_what_has_a_text_is_found_and_nothing_else(ann: AgentScope) -> None:
    await session(ann).add_items([item for item in ODD if "nested" not in item])
    found = {item.text for item in ann.recall("weather sunny think call Rome a lone", k=50)}
    assert {"sunny", "a", "lone ? surrogate"} <= found
    assert not any("weather" in text or "think" in text for text in found)
    assert ann.scope(session="s1").recall("sunny", k=1)[0].speaker == "tool"
    assert ann.scope(session="s2").recall("sunny") == []


async def test_what_is_hidden_is_not_shown_to_a_model(ann: AgentScope) -> None:
    one = session(ann)
    await one.add_items([*CONVERSATION, ODD[8]])
    (secret,) = [item for item in ann.list() if item.text == "Hello"]
    ann.forget(secret.id, how="hide")
    assert await one.get_items() == [*CONVERSATION[1:], ODD[8]]
    ann.restore()
    assert await one.get_items() == [*CONVERSATION, ODD[8]]


async def test_what_an_agent_remembers_in_the_session_is_no_item_of_it(ann: AgentScope) -> None:
    one = session(ann)
    await one.add_items([USER])
    one.scope.remember("a fact of this session")
    assert await one.get_items() == [USER]
    await one.clear_session()
    assert [item.text for item in one.scope.list()] == ["a fact of this session"]


async def test_popped_and_cleared_items_are_in_no_file(ann: AgentScope, tmp_path: Path) -> None:
    one = session(ann)
    secrets = ["zanzibar", "тайна", "kilimanjaro"]
    await one.add_items([{"role": "user", "content": f"the {secret} ferry"} for secret in secrets])
    await one.add_items([{"type": "function_call", "call_id": "c", "name": "x", "arguments": "serengeti"}])
    summary = ann.remember("about ngorongoro", derived_from=[ann.recall("kilimanjaro", k=1)[0].id])
    assert all(any_file_holds(tmp_path, text) for text in (*secrets, "serengeti", "ngorongoro"))
    await one.pop_item()
    assert not any_file_holds(tmp_path, "serengeti")
    await one.pop_item()
    assert not any_file_holds(tmp_path, "kilimanjaro")
    assert ann.get(summary.id) is None
    assert not any_file_holds(tmp_path, "ngorongoro")
    await one.clear_session()
    assert not any(any_file_holds(tmp_path, text) for text in secrets)


async def test_a_reader_that_holds_the_old_pages_is_told_of(
    ann: AgentScope, agents_memory: AgentMemory, caplog: pytest.LogCaptureFixture
) -> None:
    one = session(ann)
    await one.add_items([USER])
    with agents_memory.index.snapshot():
        await one.clear_session()
    assert "not erased from every file yet" in caplog.text


# -- many at once


async def test_a_hundred_adds_at_once(ann: AgentScope) -> None:
    one = session(ann)
    await asyncio.gather(
        *(one.add_items([{"role": "user", "content": f"{n}"}, {"n": n}]) for n in range(100)),
    )
    found: list[Any] = await one.get_items()
    assert [item["content"] for item in found[::2]] == [str(item["n"]) for item in found[1::2]]
    assert sorted(item["n"] for item in found[1::2]) == list(range(100))


async def test_no_two_get_the_same_when_they_pop(ann: AgentScope) -> None:
    one = session(ann)
    await one.add_items([{"n": n} for n in range(10)])
    popped: list[Any] = await asyncio.gather(*(session(ann).pop_item() for _ in range(12)))
    assert sorted(item["n"] for item in popped if item is not None) == list(range(10))


async def test_two_processes_write_one_session(ann: AgentScope, agents_memory: AgentMemory) -> None:
    script = """
import asyncio, sys
from openai_agents_mllm import HierarchicalMemorySession
from mllm_plugin import AgentMemory
from tests.helpers.toy import ToyEncoder

async def main():
    with AgentMemory.open(sys.argv[1], encoder=ToyEncoder(64)) as memory:
        session = HierarchicalMemorySession("s1", memory.scope(user="ann"))
        for n in range(10):
            await session.add_items([{"from": sys.argv[2], "n": n}])

asyncio.run(main())
"""
    path = str(agents_memory.index.path)
    worker = subprocess.Popen([sys.executable, "-c", script, path, "there"])
    one = session(ann)
    for n in range(10):
        await one.add_items([{"from": "here", "n": n}])
    assert await asyncio.to_thread(worker.wait, 120) == 0
    found: list[Any] = await one.get_items()
    assert len(found) == 20
    for name in ("here", "there"):
        assert [item["n"] for item in found if item["from"] == name] == list(range(10))


def test_clear_errors(ann: AgentScope, memory: MemoryIndex) -> None:
    with pytest.raises(InvalidTypeError, match=r"AgentMemory\(index\)"):
        HierarchicalMemorySession("s1", memory)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="empty"):
        session(ann, "")
    with pytest.raises(InvalidInputError, match="bound"):
        session(ann.scope(session="s1"), "s2")


@pytest.mark.parametrize(
    ("item", "after"),
    [
        ({"role": "user", "content": "lives in Oslo"}, {"role": "user", "content": "lives in Rome"}),
        (
            {"role": "user", "content": [{"type": "input_text", "text": "lives"}, {"text": "in Oslo"}]},
            {"role": "user", "content": [{"type": "input_text", "text": "lives in Rome"}, {"text": ""}]},
        ),
        (
            {"type": "function_call_output", "call_id": "1", "output": "lives in Oslo"},
            {"type": "function_call_output", "call_id": "1", "output": "lives in Rome"},
        ),
        (
            {
                "role": "user",
                "content": "Oslo \ud800",
            },  # no memory can have it, so it is kept beside the text
            {"role": "user", "content": "lives in Rome"},
        ),
    ],
)
async def test_what_the_scope_changed_is_what_a_model_gets(
    ann: AgentScope, item: Any, after: Any, tmp_path: Path
) -> None:
    one = session(ann)
    await one.add_items([item])
    assert await one.get_items() == [item]
    (memory,) = one.scope.list()
    one.scope.update(memory.id, text="lives in Rome")
    assert await one.get_items() == [after]


async def test_a_text_that_was_replaced_for_good_is_in_no_file(ann: AgentScope, tmp_path: Path) -> None:
    one = session(ann)
    await one.add_items([{"role": "user", "content": "my pin is zebra9417"}])
    (memory,) = one.scope.list()
    assert one.scope.update(memory.id, text="my pin is a secret", history=False).erased
    folder = ann._shared.memory.path
    assert b"zebra9417" not in b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("text", ["  blanks around \n", "a\n\nb", "\n"])
@pytest.mark.parametrize("parts", [False, True], ids=["text", "parts"])
async def test_texts_come_back_to_the_letter(ann: AgentScope, text: str, parts: bool) -> None:
    item = {"role": "user", "content": [{"text": text}, "", {"text": "end"}] if parts else text}
    one = session(ann)
    await one.add_items([item])
    assert await one.get_items() == [item]


async def test_a_session_has_a_name_of_its_own(ann: AgentScope) -> None:
    """Without one it would be all sessions of the user, and clearing it would erase them."""
    await session(ann).add_items([{"role": "user", "content": "kept"}])
    for name in (None, 5):
        with pytest.raises(InvalidTypeError, match="session_id"):
            HierarchicalMemorySession(name, ann)  # type: ignore[arg-type]
    one = session(ann)
    for wrong in (5, {"role": "user"}, "text"):
        with pytest.raises(InvalidTypeError, match="items"):
            await one.add_items(wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidTypeError, match="limit"):
        await one.get_items("1")  # type: ignore[arg-type]
    assert await one.get_items() == [{"role": "user", "content": "kept"}]
