"""A closed scope: whoever has it reaches nothing around it, by no call and by no id."""

from __future__ import annotations

import pytest

from mllm_plugin import AgentMemory, InvalidInputError, NotFoundError


@pytest.fixture
def memory(tmp_path, encoder):
    with AgentMemory.open(tmp_path / "agents", encoder=encoder) as opened:
        yield opened


@pytest.fixture
def ann(memory):
    scope = memory.scope(user="ann")
    scope.remember("Ann's own herons.", id="own")
    scope.remember("Ann's old herons.", id="same")
    scope.update("same", text="Ann's same herons.")
    return scope


def test_it_sees_what_is_in_it_and_below_alone(memory, ann) -> None:
    planner = memory.scope(user="ann", agent="planner")
    closed = planner.closed()
    assert {one.id for one in planner.recall("herons")} == {"own", "same"}
    assert closed.recall("herons") == []
    assert closed.get("own") is None
    with pytest.raises(NotFoundError):
        closed.history("own")
    with pytest.raises(InvalidInputError, match="within"):
        closed.recall("herons", within=("user",))

    chat = closed.scope(session="s1")
    chat.remember("The chat's herons.", id="chat")
    closed.remember("The planner's herons.", id="plan")
    assert {one.id for one in closed.recall("herons")} == {"chat", "plan"}
    assert {one.id for one in chat.recall("herons")} == {"chat", "plan"}
    assert {one.id for one in chat.recall("herons", within=("agent", "user", "app"))} == {"plan"}
    assert chat.get("plan").text == "The planner's herons."
    assert chat.get("own") is None


def test_an_id_below_is_found_though_the_same_lies_around(memory, ann) -> None:
    closed = memory.scope(user="ann", agent="planner").closed()
    closed.scope(session="s1").remember("The chat's herons.", id="own")
    assert closed.get("own").text == "The chat's herons."


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "open"])
def test_the_same_id_around_is_another_item(memory, ann, closed) -> None:
    planner = memory.scope(user="ann", agent="planner")
    ann.remember("What Ann's same herons come to.", id="sum", derived_from=["same"])
    (planner.closed() if closed else planner).remember("The planner's.", id="same")
    (planner.closed() if closed else planner).forget("same")
    assert ann.get("sum") is not None
    assert [one.version for one in ann.history("same")] == [2, 1]


def test_what_lies_around_is_not_forgotten_from_in_it(memory, ann) -> None:
    planner = memory.scope(user="ann", agent="planner")
    planner.remember("A detail.", id="detail")
    ann.remember("A summary of the detail.", id="sum", derived_from=["detail"])
    planner.closed().forget("detail", how="hide")
    assert ann.get("sum").live
    planner.closed().restore("detail")
    planner.closed().forget("detail")
    assert ann.get("sum") is not None

    planner.remember("A detail.", id="detail")
    planner.forget("detail")
    assert ann.get("sum") is None


def test_restore_says_what_was_hidden(ann) -> None:
    ann.hide("own", label="later")
    assert ann.restore(label="other") == ()
    assert ann.restore(label="later") == ("own",)
    assert ann.restore(label="later") == ()


@pytest.mark.parametrize("label", ["superseded", "expired"])
def test_the_memorys_own_masks_are_not_put_on_nor_lifted(ann, label) -> None:
    with pytest.raises(InvalidInputError, match="own"):
        ann.hide("own", label=label)
    with pytest.raises(InvalidInputError, match="own"):
        ann.restore("same", label=label)
    assert [one.live for one in ann.history("same")] == [True, False]
