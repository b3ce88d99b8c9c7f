"""What callers pass: the wrong is refused by name, before anything is written."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from mllm_plugin import AgentMemory, ClosedError, InvalidInputError, InvalidTypeError, MLLMError
from tests.helpers.toy import ToyEncoder


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    with AgentMemory.open(tmp_path_factory.mktemp("given"), encoder=ToyEncoder(64)) as opened:
        opened.scope(user="ann").remember("ann likes tea", id="tea")
        yield opened


@pytest.fixture
def ann(memory):
    return memory.scope(user="ann")


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("id", "", InvalidInputError),
        ("id", 5, InvalidTypeError),
        ("kind", "", InvalidInputError),
        ("kind", 5, InvalidTypeError),
        ("metadata", "x", InvalidTypeError),
        ("at", datetime(2024, 1, 1), InvalidInputError),
        ("expires", datetime(2024, 1, 1), InvalidInputError),
        ("expires", timedelta(days=1), InvalidTypeError),
        ("supersedes", 5, InvalidTypeError),
        ("supersedes", "", InvalidInputError),
        ("speaker", 5, InvalidTypeError),
        ("speaker", "", InvalidInputError),
        ("session", 5, InvalidTypeError),
        ("participants", [1], InvalidTypeError),
        ("participants", 5, InvalidTypeError),
        ("derived_from", [5], InvalidTypeError),
        ("derived_from", 5, InvalidTypeError),
        ("derived_from", [""], InvalidInputError),
        ("mask", 5, InvalidTypeError),
        ("mask", "superseded", InvalidInputError),
    ],
)
def test_remember_refuses(ann, option, value, error) -> None:
    with pytest.raises(error, match=option if option != "mask" else "label"):
        ann.remember("some words", **{option: value})
    assert ann.stats() == {"items": 1, "masked": 0}


@pytest.mark.parametrize(
    ("call", "options"),
    [
        ("remember_many", {"items": "a text"}),
        ("remember_many", {"items": {"text": "a text"}}),
        ("remember_many", {"items": None}),
        ("update", {"id": "tea", "metadata": "x"}),
        ("update", {"id": "tea", "kind": ""}),
        ("update", {"id": "tea", "if_version": "1"}),
        ("update", {"id": 5, "text": "x"}),
        ("get", {"id": None}),
        ("get", {"id": ["tea"]}),
        ("recall", {"query": "tea", "within": 5}),
        ("recall", {"query": "tea", "within": ["user", "sesion"]}),
        ("recall", {"query": "tea", "kind": 5}),
        ("recall", {"query": "tea", "min_relevance": "0.5"}),
        ("recall", {"query": "tea", "include_masked": "hidden"}),
        ("context", {"messages": None}),
        ("context", {"messages": 5}),
        ("list", {"kind": 5}),
        ("consolidate", {"similar": "much"}),
        ("consolidate", {"merge": 5}),
        ("forget", {"id": 5}),
        ("forget", {"filter": {}}),
    ],
)
def test_calls_refuse(ann, call, options) -> None:
    with pytest.raises((InvalidInputError, InvalidTypeError)):
        getattr(ann, call)(**options)
    assert ann.stats() == {"items": 1, "masked": 0}


def test_one_name_is_a_list_of_one(memory) -> None:
    scope = memory.scope(user="one", participants="Ann")
    scope.remember("base of all", id="base")
    scope.remember("hello", id="said", speaker="Bo", derived_from="base")
    assert scope.get("said").derived_from == ("base",)
    assert memory.index.get("said", namespace=scope.namespace)[0].text == "Ann\nBo: hello"
    assert scope.forget("base").derived == ("said",)


def test_a_single_message_is_a_conversation(ann) -> None:
    assert ann.context({"role": "user", "content": "tea"}).endswith("ann likes tea")
    assert ann.context([{"content": [{"text": 5}, {"text": "tea"}]}]).endswith("ann likes tea")


def test_far_beyond_the_last_item_is_nothing(ann) -> None:
    assert ann.list(offset=10**20) == []
    assert len(ann.list(limit=10**20)) == 1


def test_a_mask_without_a_name_is_lifted_without_one(memory) -> None:
    scope = memory.scope(user="masked")
    scope.remember("a draft", id="d", mask="")
    assert scope.recall("draft") == []
    assert scope.restore() == ("d",)


def test_a_memory_that_cannot_be_opened_leaves_no_folder(tmp_path: Path) -> None:
    for wrong in ({"duplicates": "x"}, {"similar": "x"}, {"similar": 0}):
        with pytest.raises(MLLMError, match=next(iter(wrong))):
            AgentMemory.open(tmp_path / "m", encoder=ToyEncoder(64), **wrong)
    assert not (tmp_path / "m").exists()
    with pytest.raises(InvalidTypeError, match="MemoryIndex"):
        AgentMemory(5)


def test_the_log_of_a_closed_memory_is_closed(tmp_path: Path) -> None:
    with AgentMemory.open(tmp_path / "m", encoder=ToyEncoder(64)) as memory:
        memory.remember("tea")
    with pytest.raises(ClosedError):
        memory.audit()
