"""The parts of an agent memory, each by itself: names, headers, likeness, prompts."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone

import numpy as np
import pytest

from mllm_plugin import Document, InvalidInputError, InvalidTypeError, MemoryIndex
from mllm_plugin.agent import forgetting, naming
from mllm_plugin.agent.given import Given, given_item
from mllm_plugin.agent.items import AgentTopic, Memory
from mllm_plugin.agent.likeness import Likeness, same
from mllm_plugin.agent.prompting import query_of
from mllm_plugin.agent.recalling import by_time
from mllm_plugin.agent.shared import Shared
from mllm_plugin.agent.topics import consolidate, overview
from mllm_plugin.agent.writing import remember
from mllm_plugin.store.audit import Audit
from tests.helpers.toy import ToyEncoder

JUNE = datetime(2025, 6, 1, 9, 30, tzinfo=timezone.utc)
ANN = ("user:ann",)


@pytest.fixture
def memory(tmp_path):
    with MemoryIndex.open(tmp_path, encoder=ToyEncoder()) as opened:
        yield opened


@pytest.fixture
def shared(memory):
    found = Shared(memory, "report", Likeness(memory, 0.9), Audit(memory.path, True))
    yield found
    found.audit.close()


# -- names


def test_a_scope_is_a_namespace_the_widest_part_first():
    names = {"session": "s:1", "app": "a"}
    assert naming.namespace_of(names) == ("app:a", "session:s:1")
    assert naming.names_of(naming.namespace_of(names)) == names


def test_a_scope_is_narrowed_and_never_left():
    assert naming.checked_names({"user": "ann"}, {"session": "s", "app": None}) == {
        "user": "ann",
        "session": "s",
    }
    with pytest.raises(InvalidInputError, match="bound to user='ann'"):
        naming.checked_names({"user": "ann"}, {"user": "bob"})
    with pytest.raises(InvalidInputError):
        naming.checked_names({}, {"user": ""})
    with pytest.raises(InvalidTypeError):
        naming.checked_names({}, {"user": 3})


def test_a_recall_falls_through_to_the_scopes_around_the_nearest_first():
    inner = ("app:a", "user:ann", "session:s")
    assert naming.outer_namespaces(inner, None) == [inner[:2], inner[:1]]
    assert naming.outer_namespaces(inner, ["app"]) == [inner[:1]]
    assert naming.inner_keys(ANN) == ("user", "agent", "session")
    assert naming.inner_keys(ANN, ["app", "session"]) == ("session",)
    with pytest.raises(InvalidInputError, match="names nothing"):
        naming.inner_keys(ANN, ["app"])


def test_turns_of_a_session_lie_side_by_side():
    first = naming.place_of("s1", 1)
    assert naming.place_of("s1", 2) == first + 1 < 2**53
    assert abs(naming.place_of("s2", 1) - first) > 1000


def test_only_what_somebody_said_has_a_header():
    said = Given("hello", speaker="Ann", session="s", participants=("Ann", "Bob"), at=JUNE).told()
    assert said.header() == "Ann & Bob, 1 June 2025, 09:30\nAnn: "
    assert Given("the sky is blue", at=JUNE).told().header() == ""
    with pytest.raises(InvalidInputError, match="'item'"):
        naming.given_metadata({"item": 1})


# -- what callers give


def test_an_item_is_a_text_or_its_arguments():
    assert given_item("a", {"kind": "note"}) == Given("a", kind="note")
    assert given_item({"text": "a", "kind": None}, {"kind": "note"}).kind == "note"
    for wrong in (3, {"text": "a", "colour": 1}):
        with pytest.raises(InvalidTypeError):
            given_item(wrong, {})


def test_the_last_two_messages_are_asked_for():
    class Said:
        content = "or the mill"

    parts = [{"type": "text", "text": "by"}, {"type": "image"}]
    assert query_of("where?") == "where?"
    assert query_of(["one", {"role": "user", "content": parts}, Said(), " "]) == "by\nor the mill"
    assert query_of([{"role": "assistant", "content": None}]) == ""
    assert len(query_of("x" * 5000)) == 1000
    with pytest.raises(InvalidTypeError):
        query_of([{"role": "user"}])


def test_old_versions_are_masked_by_the_memory_alone():
    assert naming.hiding_mask(None) == "hidden"
    with pytest.raises(InvalidInputError, match="agent memory's own"):
        naming.hiding_mask("superseded")


# -- likeness


def test_equal_but_for_case_and_blanks_is_a_duplicate(memory):
    memory.add([Document("The mill  stands", id="mill"), Document("the fox runs", id="fox")])
    alike = Likeness(memory, 0.9)
    with memory.batch() as batch:
        ((found,), none) = alike.duplicates(["the MILL stands", "a kettle whistles"], (), batch)
    assert (found.id, found.similarity) == ("mill", 1.0)
    assert none == ()
    assert same("A  b", "a B ")
    with memory.batch() as batch:
        assert alike.duplicates(["x"], ("other",), batch) == [()]


def test_vectors_of_texts_are_made_once_until_forgotten(memory):
    alike, encoder = Likeness(memory, 0.9), memory.encoder
    first = alike.vectors(["a", "b", "a"])
    assert np.array_equal(first[0], first[2])
    made = len(encoder.encoded)
    assert np.array_equal(alike.vectors(["b"])[0], first[1])
    assert len(encoder.encoded) == made
    alike.forget()
    alike.vectors(["b"])
    assert len(encoder.encoded) == made + 1


def test_items_that_say_the_same_are_grouped_and_merged(shared):
    given = [Given("the mill stands by the river"), Given("The mill stands by the river "), Given("a fox")]
    written = remember(shared, ANN, given, "keep", history=True)
    (group,) = consolidate(shared, ANN, None, 0.9)
    assert set(group.ids) == {one.id for one in written[:2]}
    assert group.into is None
    (merged,) = consolidate(shared, ANN, lambda items: f"merged {len(items)}", 0.9)
    (document,) = shared.memory.get(merged.into, namespace=ANN)
    assert document.text == "merged 2"
    (topic,) = overview(shared, ANN, None, 1, 1)
    assert topic.size == 2


def test_what_was_made_of_an_item_goes_with_it(shared):
    made = [
        Given("the mill stands", id="mill"),
        Given("a sum", id="sum", derived_from=("mill",)),
        Given("a sum of it", id="more", derived_from=("sum",)),
        Given("a fox runs", id="fox"),
    ]
    remember(shared, ANN, made, "keep", history=True)
    named, missing = forgetting.chosen(shared, ANN, ["mill", "owl"], None)
    assert (named, missing) == ({ANN: {"mill": "mill"}}, ("owl",))
    assert forgetting.derived(shared, named) == {ANN: {"sum": "sum", "more": "more"}}
    report = forgetting.erase(shared, forgetting.Here(ANN), named, missing)
    assert (report.ids, set(report.derived), report.missing) == (("mill",), {"sum", "more"}, ("owl",))
    assert [one.id for one in shared.memory.documents(namespace=ANN)] == ["fox"]


# -- items as lines


def test_items_and_topics_as_lines_of_a_prompt():
    item = Memory("a", "by  the\nriver", "message", {}, {}, None, "Ann", None, (), JUNE, JUNE, JUNE)
    assert item.line() == "[2025-06-01] Ann: by the river"
    assert not replace(item, masks=("hidden",)).live
    topic = AgentTopic(("mill",), 2, JUNE, JUNE, (item,), 2)
    assert topic.line() == "mill (2 items, 2025-06-01 to 2025-06-01); e.g. by the river"
    later = replace(item, id="b", at=JUNE.replace(month=7))
    assert [one.id for one in by_time([later, item])] == ["a", "b"]
