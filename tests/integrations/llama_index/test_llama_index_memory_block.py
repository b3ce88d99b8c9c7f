"""`HierarchicalMemoryBlock` in LlamaIndex's own `Memory`, alone and behind an agent."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ToolCallBlock
from llama_index.core.llms import ChatMessage
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.memory import Memory
from llama_index_mllm import HierarchicalMemoryBlock

from mllm_plugin import InvalidTypeError, MemoryIndex
from mllm_plugin.agent import AgentMemory, AgentScope, memory_functions
from tests.helpers.front_end_tools import any_file_holds
from tests.helpers.llama_index_tools import Gate, WordEncoder

SAID = [
    "My sister Ada lives in Lisbon and keeps bees.",
    "I am allergic to peanuts.",
    "My bicycle is green and has a flat tyre.",
    "On Thursday I fly to Oslo.",
]


def user(text: str) -> ChatMessage:
    return ChatMessage(role="user", content=text)


def assistant(text: str) -> ChatMessage:
    return ChatMessage(role="assistant", content=text)


def words(text: str) -> list[str]:
    return text.split()


@pytest.fixture
def agents(tmp_path: Path, encoder: WordEncoder) -> Iterator[AgentMemory]:
    with AgentMemory.open(tmp_path / "agents", encoder=encoder) as memory:
        yield memory


@pytest.fixture
def ann(agents: AgentMemory) -> AgentScope:
    return agents.scope(user="ann")


@asynccontextmanager
async def chat(block: HierarchicalMemoryBlock, session: str, **options: Any) -> AsyncIterator[Memory]:
    """A `Memory` with room for few words, whose database connection is closed at the end."""
    options = {"token_limit": 40, "token_flush_size": 10, "chat_history_token_ratio": 0.4, **options}
    memory = Memory.from_defaults(session_id=session, memory_blocks=[block], tokenizer_fn=words, **options)
    try:
        yield memory
    finally:
        await memory.sql_store._async_engine.dispose()  # type: ignore[attr-defined]


def system_text(messages: list[ChatMessage]) -> str:
    return "\n".join(message.content or "" for message in messages if message.role == "system")


# -- the block alone: what LlamaIndex's tests ask of its own blocks


async def test_what_is_put_is_got_by_what_is_asked(ann: AgentScope) -> None:
    block = HierarchicalMemoryBlock(ann, k=2)
    await block.aput(
        [
            user("What's the capital of France?"),
            assistant("The capital of France is Paris."),
            user("I like pears."),
        ]
    )
    found = await block.aget([user("What's the capital of France?")])
    assert [line.split("] ")[1] for line in found.splitlines()] == [
        "user: What's the capital of France?",
        "assistant: The capital of France is Paris.",
    ]


@pytest.mark.parametrize("messages", [None, [], [ChatMessage(role="user", blocks=[])], [user(" \n")]])
async def test_nothing_in_nothing_out(ann: AgentScope, messages: list[ChatMessage] | None) -> None:
    block = HierarchicalMemoryBlock(ann)
    ann.remember("something")
    await block.aput(messages or [])
    assert await block.aget(messages) == ""
    assert ann.stats()["items"] == 1


async def test_only_the_roles_asked_for_are_remembered(ann: AgentScope) -> None:
    block = HierarchicalMemoryBlock(ann)
    told = [user("tea"), assistant("noted"), ChatMessage(role="tool", content="{}"), user("tea again")]
    await block.aput(told, session_id="s1")
    assert [(item.speaker, item.text) for item in ann.list(order="created_at")] == [
        ("user", "tea"),
        ("assistant", "noted"),
        ("user", "tea again"),
    ]
    assert {item.session for item in ann.list()} == {"s1"}
    await block.aput([user("from the chat")], from_short_term_memory=True)
    closed = HierarchicalMemoryBlock(ann, accept_short_term_memory=False)
    await closed.aput([user("not taken")], from_short_term_memory=True)
    assert ann.stats()["items"] == 4


async def test_any_text_is_kept(ann: AgentScope) -> None:
    block = HierarchicalMemoryBlock(ann)
    texts = ["\ud800 broken", "日本語のテキスト", "a\nb\tc", "🐝" * 500, "tea", "tea"]
    await block.aput([user(text) for text in texts])
    assert sorted(item.text for item in ann.list(limit=None)) == sorted(["? broken", *texts[1:]])
    assert "日本語のテキスト" in await block.aget([user("日本語のテキスト")])


async def test_sessions_see_each_other_unless_told_otherwise(ann: AgentScope) -> None:
    block = HierarchicalMemoryBlock(ann)
    apart = HierarchicalMemoryBlock(ann, across_sessions=False)
    await block.aput([user("the red door")], session_id="s1")
    ann.remember("the red roof")
    assert "door" in await block.aget([user("the red")], session_id="s2")
    seen = await apart.aget([user("the red")], session_id="s2")
    assert "roof" in seen
    assert "door" not in seen
    assert "door" in await apart.aget([user("the red")], session_id="s1")


async def test_another_user_sees_nothing(agents: AgentMemory, ann: AgentScope) -> None:
    await HierarchicalMemoryBlock(ann).aput([user("the red door")], session_id="s1")
    bob = HierarchicalMemoryBlock(agents, scope={"user": "bob"})
    assert await bob.aget([user("the red door")], session_id="s1") == ""


async def test_a_hundred_puts_at_once(ann: AgentScope) -> None:
    block = HierarchicalMemoryBlock(ann)
    await asyncio.gather(
        *(block.aput([user(f"fact {n}")], session_id=f"s{n % 5}") for n in range(100)),
    )
    found = sorted(int(item.text.split()[1]) for item in ann.list(limit=None))
    assert found == list(range(100))


async def test_the_loop_runs_on(ann: AgentScope, encoder: WordEncoder, gate: Gate) -> None:
    block = HierarchicalMemoryBlock(ann)
    encoder.before = gate.hold
    await gate.passed_by(block.aput([user("tea")]))
    encoder.before = (second := Gate()).hold
    assert await second.passed_by(block.aget([user("tea please")]))


# -- truncation


async def test_truncation_drops_the_least_relevant_first(ann: AgentScope) -> None:
    block = HierarchicalMemoryBlock(ann, tokenizer=words)
    for text in ("tea with milk", "tea for two", "cars"):
        ann.remember(text)
    content = await block.aget([user("tea with milk")])
    lines = content.splitlines()
    assert len(lines) == 3
    assert await block.atruncate(content, 1) == "\n".join(lines[:2])
    assert await block.atruncate(content, 3) == lines[0]
    assert await block.atruncate(content, 0) == content
    assert await block.atruncate(content, 999) is None
    assert await block.atruncate("", 5) is None


async def test_one_long_line_is_cut_not_dropped(ann: AgentScope) -> None:
    block = HierarchicalMemoryBlock(ann, tokenizer=list, budget_tokens=100)
    ann.remember("tea " * 200)
    content = await block.aget([user("tea")])
    assert 90 < len(content) <= 100
    assert len(await block.atruncate(content, 40) or "") == 60
    assert await block.atruncate(content, 90) is None


async def test_memory_keeps_what_fits_of_a_block(ann: AgentScope) -> None:
    for text in SAID:
        ann.remember(text)
    block = HierarchicalMemoryBlock(ann, priority=1, tokenizer=words)
    async with chat(block, "s1", token_limit=24, chat_history_token_ratio=0.9) as memory:
        await memory.aput(user("Am I allergic to peanuts?"))
        shown = system_text(await memory.aget())
    assert SAID[1] in shown
    assert SAID[2] not in shown


# -- in `Memory`


async def test_what_leaves_the_chat_comes_back_in_another_session(ann: AgentScope) -> None:
    block = HierarchicalMemoryBlock(ann, k=1)
    async with chat(block, "monday") as memory:
        for text in [*SAID, "That is all for now, thank you and good bye."]:
            await memory.aput(user(text))
    async with chat(block, "tuesday", token_limit=200) as memory:
        await memory.aput(user("What am I allergic to?"))
        messages = await memory.aget()
    assert SAID[1] in system_text(messages)
    assert SAID[0] not in system_text(messages)
    assert "HierarchicalMemory" in system_text(messages)


@pytest.mark.filterwarnings(
    "ignore::pydantic.warnings.PydanticDeprecationWarning"
)  # LlamaIndex's agents look at all their members
async def test_an_agent_remembers_across_sessions_and_forgets(tmp_path: Path, encoder: WordEncoder) -> None:
    """Each conversation opens the memory anew, as another process would."""

    async def converse(session: str, question: str, reply: Callable[[list[ChatMessage]], ChatMessage]) -> str:
        with AgentMemory.open(tmp_path / "m", encoder=encoder) as memory:
            scope = memory.scope(user="ann")
            llm = MockFunctionCallingLLM(response_generator=lambda messages, **_: reply(messages))
            agent = FunctionAgent(llm=llm, tools=memory_functions(scope), streaming=False)
            async with chat(HierarchicalMemoryBlock(scope), session, token_limit=400) as history:
                return str(await agent.run(question, memory=history))

    def calls(tool: str, **arguments: Any) -> Callable[[list[ChatMessage]], ChatMessage]:
        def reply(messages: list[ChatMessage]) -> ChatMessage:
            if messages[-1].role == "tool":
                return assistant(messages[-1].content or "")
            given = {name: make(messages) if callable(make) else make for name, make in arguments.items()}
            return ChatMessage(
                role="assistant",
                blocks=[ToolCallBlock(tool_call_id="1", tool_name=tool, tool_kwargs=given)],
            )

        return reply

    fact = "Ann is allergic to zanzibar nuts."
    assert "Remembered as" in await converse("s1", "Note my allergy", calls("remember", text=fact))
    seen = await converse("s2", "Is Ann allergic to nuts?", lambda messages: assistant(system_text(messages)))
    assert fact in seen
    (line,) = (await converse("s3", "Look up", calls("recall", query="allergic"))).splitlines()
    assert await converse("s4", "Forget it", calls("forget", id=line.split()[0])) == "Forgotten."
    assert "no item" in await converse("s5", "Forget it", calls("forget", id=line.split()[0]))
    assert fact not in await converse("s6", "Is Ann allergic?", lambda messages: assistant(str(messages)))
    assert not any_file_holds(tmp_path / "m", "zanzibar")


# -- as JSON, copied, pickled


def test_json_makes_it_again(agents: AgentMemory, ann: AgentScope) -> None:
    block = HierarchicalMemoryBlock(ann, name="long term", priority=2, k=3, min_relevance=0.2)
    fields = json.loads(block.model_dump_json())
    assert fields["scope"] == {"user": "ann"}
    again = HierarchicalMemoryBlock(agents, **fields)
    assert again.model_dump() == block.model_dump()
    assert again.memory.namespace == ann.namespace
    assert block.model_json_schema()["properties"]["k"]["default"] == 10


def test_copies_share_the_memory_and_pickles_are_refused(ann: AgentScope) -> None:
    block = HierarchicalMemoryBlock(ann)
    for twin in (copy.copy(block), copy.deepcopy(block), block.model_copy(deep=True)):
        assert twin.memory is ann
        assert twin.model_dump() == block.model_dump()
    with pytest.raises(InvalidTypeError, match="cannot be pickled"):
        pickle.dumps(block)


def test_clear_errors(memory: MemoryIndex, ann: AgentScope) -> None:
    with pytest.raises(InvalidTypeError, match=r"AgentMemory\(index\)"):
        HierarchicalMemoryBlock(memory)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="similarity_top_k"):
        HierarchicalMemoryBlock(ann, similarity_top_k=3)
    with pytest.raises(ValueError, match="bound"):
        HierarchicalMemoryBlock(ann, scope={"user": "bob"})
