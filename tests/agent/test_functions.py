"""What front ends stand on: functions for a model's tools, and items that are masked from the first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mllm_plugin.agent import AgentMemory, memory_functions
from tests.helpers.toy import ToyEncoder


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[AgentMemory]:
    with AgentMemory.open(tmp_path / "m", encoder=ToyEncoder(64)) as opened:
        yield opened


def test_a_model_remembers_recalls_and_forgets(memory: AgentMemory) -> None:
    ann = memory.scope(user="ann")
    remember, recall, forget = memory_functions(ann, k=1)
    assert recall("tea") == "Nothing is remembered about that."
    name = remember("Ann likes tea").removeprefix("Remembered as ").removesuffix(".")
    assert f"Nearly the same as {name}: Ann likes tea" in remember("ann likes  tea")
    assert len(recall("tea").splitlines()) == 1
    assert forget("nothing").startswith("Nothing forgotten")
    assert forget(name) == "Forgotten."
    assert ann.get(name) is None


def test_a_duplicate_that_is_merged_is_told_of(tmp_path: Path) -> None:
    with AgentMemory.open(tmp_path / "m", encoder=ToyEncoder(64), duplicates="merge") as memory:
        remember, _, _ = memory_functions(memory.scope(user="ann"))
        name = remember("Ann likes tea").removeprefix("Remembered as ").removesuffix(".")
        assert remember("Ann likes tea") == f"Known already, as {name}."


def test_recall_takes_the_options_of_the_scope(memory: AgentMemory) -> None:
    ann = memory.scope(user="ann")
    ann.remember("tea, please", speaker="Ann")
    fact = ann.remember("Ann likes tea")
    _, recall, _ = memory_functions(ann, kind="fact")
    assert recall("tea").split()[0] == fact.id
    assert len(recall("tea").splitlines()) == 1


def test_what_is_masked_from_the_first_is_found_when_that_is_lifted(memory: AgentMemory) -> None:
    ann = memory.scope(user="ann")
    ann.remember_many(["tea one", {"text": "tea two", "mask": "later"}])
    assert [item.text for item in ann.recall("tea")] == ["tea one"]
    ann.restore()
    assert [item.text for item in ann.recall("tea")] == ["tea one"]
    assert [item.text for item in ann.recall("tea", include_masked=["later"], k=5)] != ["tea one"]
    ann.restore(label="later")
    assert {item.text for item in ann.recall("tea")} == {"tea one", "tea two"}


def test_items_in_the_order_they_were_written(memory: AgentMemory) -> None:
    ann = memory.scope(user="ann")
    ann.remember_many([{"text": f"tea {n}", "id": name} for n, name in enumerate("cab")])
    assert [item.id for item in ann.list(order=None)] == ["c", "a", "b"]
