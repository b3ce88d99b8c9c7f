"""The tools remember, recall and forget in an agent of the SDK."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from agents import Agent, Runner
from openai_agents_mllm import HierarchicalMemorySession, memory_tools

from mllm_plugin.agent import AgentMemory, AgentScope, memory_functions
from tests.helpers.front_end_tools import any_file_holds
from tests.helpers.openai_agents_tools import Scripted, calls, says

ROOT = Path(__file__).parents[3]


def say_last(given: Any) -> Any:
    """Says what the tool gave."""
    return says(given[-1]["output"])


async def ask(scope: AgentScope, session: str, question: str, *replies: Any) -> str:
    agent = Agent(name="notes", model=Scripted(*replies), tools=list(memory_tools(scope)))
    run = await Runner.run(agent, question, session=HierarchicalMemorySession(session, scope))
    return run.final_output


async def test_it_remembers_across_sessions_and_forgets_on_request(ann: AgentScope, tmp_path: Path) -> None:
    told = await ask(ann, "s1", "Note it", calls("remember", text="Ann likes zanzibar tea"), say_last)
    assert told.startswith("Remembered as ")
    found = await ask(ann, "s2", "What tea?", calls("recall", query="zanzibar tea"), say_last)
    (item,) = [line for line in found.splitlines() if line.endswith("] Ann likes zanzibar tea")]
    for session in ("s1", "s2"):
        await HierarchicalMemorySession(session, ann).clear_session()
    assert await ask(ann, "s3", "Forget", calls("forget", id=item.split()[0]), say_last) == "Forgotten."
    assert "there is no item" in await ask(ann, "s3", "Again", calls("forget", id=item.split()[0]), say_last)
    assert not any("zanzibar" in item.text for item in ann.recall("zanzibar", k=50))
    assert not any_file_holds(tmp_path, "zanzibar")


async def test_tools_stay_inside_of_their_scope(ann: AgentScope, agents_memory: AgentMemory) -> None:
    secret = agents_memory.scope(user="bob").remember("Bob likes coffee", id="b1")
    assert "Bob" not in await ask(ann, "s", "Who?", calls("recall", query="likes coffee"), say_last)
    assert "no item" in await ask(ann, "s", "Forget", calls("forget", id=secret.id), say_last)
    assert agents_memory.scope(user="bob").get("b1")


async def test_an_error_is_told_to_the_model(ann: AgentScope) -> None:
    said = await ask(ann, "s", "Note", calls("remember", text="  "), say_last)
    assert said.startswith("That failed")
    assert "a text that is not empty" in said


def test_a_model_is_told_what_each_tool_does(ann: AgentScope) -> None:
    remember, recall, forget = memory_tools(ann)
    assert [tool.name for tool in (remember, recall, forget)] == ["remember", "recall", "forget"]
    for tool in (remember, recall, forget):
        (argument,) = tool.params_json_schema["properties"].values()
        assert tool.description
        assert argument["type"] == "string"
        assert argument["description"]


def test_a_duplicate_is_told_of(ann: AgentScope) -> None:
    remember, _, _ = memory_functions(ann)
    remember("Ann likes tea")
    assert "Nearly the same as" in remember("ann likes  tea")


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples" / "agent_openai.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    answers = [line[5:] for line in lines if line.startswith("  -> ")]
    assert answers[0].startswith("Remembered as")
    assert answers[1] == "I cannot eat peanuts. / What did I say?"
    assert answers[2].endswith("Ann is allergic to peanuts.")
    assert answers[3:] == ["Forgotten.", "Nothing is remembered about that."]
