"""`mem0_mllm.Memory`: scopes, filters, expiry, extraction, forgetting, many at once."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from mem0_mllm import AsyncMemory, Memory

from mllm_plugin import InvalidInputError, InvalidTypeError, clock
from mllm_plugin.agent import AgentMemory
from tests.helpers.front_end_tools import any_file_holds
from tests.helpers.toy import ToyEncoder

ANN = {"user_id": "ann"}


def texts(found: dict[str, Any]) -> set[str]:
    return {one["memory"] for one in found["results"]}


def add(m: Memory, text: str, **options: Any) -> str:
    return m.add(text, infer=False, **options)["results"][0]["id"]


# -- whose they are


def test_any_of_the_ids_finds_a_memory_and_all_must_agree(m: Memory) -> None:
    add(m, "tea one", user_id="ann")
    add(m, "tea two", user_id="ann", agent_id="x")
    add(m, "tea three", user_id="ann", run_id="r")
    add(m, "tea four", user_id="ann", agent_id="x", run_id="r")
    add(m, "tea five", user_id="bob", agent_id="x")
    add(m, "tea six", run_id="r")
    wanted = {
        (("user_id", "ann"),): {"tea one", "tea two", "tea three", "tea four"},
        (("agent_id", "x"),): {"tea two", "tea four", "tea five"},
        (("run_id", "r"),): {"tea three", "tea four", "tea six"},
        (("user_id", "ann"), ("run_id", "r")): {"tea three", "tea four"},
        (("user_id", "ann"), ("agent_id", "x")): {"tea two", "tea four"},
        (("user_id", "bob"), ("run_id", "r")): set(),
        (("user_id", "*"), ("agent_id", "x")): {"tea two", "tea four", "tea five"},
    }
    for ids, expected in wanted.items():
        filters = dict(ids)
        assert texts(m.get_all(filters=filters)) == expected
        assert texts(m.search("tea", filters=filters, threshold=0.0)) == expected
        assert texts(m.search("tea", threshold=0.0, limit=50, **filters)) == expected  # as before release 2
    m.delete_all(agent_id="x")
    assert texts(m.get_all(filters={"user_id": "*"})) == {"tea one", "tea three"}
    m.delete_all(user_id="ann", run_id="r")
    assert texts(m.get_all(filters={"user_id": "*"})) == {"tea one"}
    assert texts(m.get_all(filters={"run_id": "r"})) == {"tea six"}


def test_ids_cannot_be_set_through_metadata(m: Memory, caplog: pytest.LogCaptureFixture) -> None:
    name = add(m, "mine", user_id="ann", metadata={"user_id": "bob", "item": 1, "a.b": 2})
    m.update(name, metadata={"user_id": "bob", "mood": "good"})
    found: Any = m.get(name)
    assert found["user_id"] == "ann"
    assert found["metadata"] == {"item": 1, "a.b": 2, "mood": "good"}
    assert "'user_id'] is ignored" in caplog.text
    assert m.get_all(filters={"user_id": "bob"}) == {"results": []}


def test_numbers_and_blanks_of_ids(m: Memory) -> None:
    add(m, "tea", user_id=42)
    assert texts(m.get_all(filters={"user_id": " 42 "})) == {"tea"}


# -- filters


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ({"price": 10}, "a"),
        ({"price": {"gt": 10}}, "b"),
        ({"price": {"gte": 10, "lt": 20}}, "a"),
        ({"kind": {"in": ["x", "y"]}}, "ab"),
        ({"kind": {"nin": ["x"]}}, "bc"),
        ({"kind": {"ne": "x"}}, "bc"),
        ({"kind": "*"}, "ab"),
        ({"note": {"contains": "green"}}, "a"),
        ({"OR": [{"price": 10}, {"price": 20}]}, "ab"),
        ({"AND": [{"price": {"gte": 5}}, {"kind": "y"}]}, "b"),
        ({"NOT": [{"price": 10}, {"price": 20}]}, "c"),
        ({"AND": [{"OR": [{"kind": "x"}, {"kind": "y"}]}, {"NOT": [{"kind": "x"}]}]}, "b"),
        ({"role": "user"}, "abc"),
        ({"price": {"eq": 10}}, "a"),
        ({"tags": {"contains": "red"}}, "b"),
    ],
)
def test_filters(m: Memory, condition: dict[str, Any], found: str) -> None:
    add(m, "a", user_id="ann", metadata={"price": 10, "kind": "x", "note": "a green one"})
    add(m, "b", user_id="ann", metadata={"price": 20, "kind": "y", "tags": ["red", "blue"]})
    add(m, "c", user_id="ann")
    add(m, "d", user_id="bob", metadata={"price": 10, "kind": "x"})
    assert texts(m.get_all(filters={**ANN, **condition})) == set(found)
    assert texts(m.search("a b c d", filters={**ANN, **condition}, threshold=0.0)) == set(found)


@pytest.mark.parametrize("condition", [{"OR": []}, {"AND": "x"}, {"NOT": [{}]}, {"k": {"icontains": "x"}}])
def test_malformed_filters(m: Memory, condition: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"requires a list|Unsupported metadata filter operator"):
        m.search("x", filters={**ANN, **condition})


def test_results_are_best_first_and_bounded(m: Memory) -> None:
    for n in range(30):
        add(m, f"tea number {n} " + "cup " * (n % 7), user_id="ann", run_id=f"r{n % 3}")
    found = m.search("tea number 3", filters=ANN, threshold=0.0)["results"]
    scores = [one["score"] for one in found]
    assert len(found) == 20
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    least = scores[4]
    assert len(m.search("tea number 3", filters=ANN, threshold=least)["results"]) in (4, 5)
    assert m.search("tea", filters=ANN, top_k=0) == {"results": []}
    (first,) = m.search("tea number 3", filters=ANN, top_k=1, explain=True)["results"]
    assert first["score"] ** 2 == pytest.approx(first["score_details"]["relevance"])


# -- expiry


def test_the_last_day_is_a_whole_one(m: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime(2030, 5, 1, 23, 59, tzinfo=timezone.utc)
    monkeypatch.setattr(clock, "now", lambda: now)
    name = add(m, "tea today", user_id="ann", expiration_date=date(2030, 5, 1))
    assert add(m, "tea gone", user_id="ann", expiration_date="2030-04-30")
    assert texts(m.search("tea", filters=ANN, threshold=0.0)) == {"tea today"}
    now += timedelta(minutes=1)
    assert m.get_all(filters=ANN) == m.search("tea", filters=ANN, threshold=0.0) == {"results": []}
    both = {"tea today", "tea gone"}
    assert texts(m.search("tea", filters=ANN, threshold=0.0, show_expired=True)) == both
    assert texts(m.get_all(filters=ANN, show_expired=True)) == both
    assert (m.get(name) or {})["expiration_date"] == "2030-05-01"
    m.update(name, expiration_date=None)
    assert texts(m.get_all(filters=ANN)) == {"tea today"}
    assert "expiration_date" not in (m.get(name) or {})


# -- what is made of messages


def test_without_extract_messages_are_stored_as_they_are(m: Memory) -> None:
    parts = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "x"}}]
    given = [
        {"role": "user", "content": "日本 🐝"},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": None},
        {"content": "nobody said"},
    ]
    assert texts(m.add(given, user_id="ann")) == {"日本 🐝", "look"}
    assert m.add("", user_id="ann") == m.add([], user_id="ann") == {"results": []}
    assert add(m, "look", user_id="ann")
    assert len(m.get_all(filters=ANN)["results"]) == 3
    assert "nobody said" not in texts(m.get_all(filters=ANN))


def test_extract_makes_facts_and_known_ones_are_not_added(tmp_path: Path) -> None:
    def extract(messages: list[dict[str, Any]]) -> list[str]:
        return [f"Ann said: {one['content']}" for one in messages if one["role"] == "user"] + [" "]

    config = {"path": str(tmp_path / "m"), "encoder": ToyEncoder(64)}
    with Memory.from_config(config, extract=extract) as m:
        said = [{"role": "user", "content": "tea"}, {"role": "assistant", "content": "ok"}]
        (result,) = m.add(said, user_id="ann")["results"]
        assert set(result) == {"id", "memory", "event"}
        assert m.add(said, user_id="ann") == {"results": []}
        assert texts(m.add(said, user_id="bob")) == {"Ann said: tea"}
        assert texts(m.add(said, user_id="ann", infer=False)) == {"tea", "ok"}
        assert texts(m.add(said, user_id="ann", agent_id="x", memory_type="procedural_memory")) == {
            "Ann said: tea"
        }


def test_an_update_keeps_what_it_does_not_name(m: Memory) -> None:
    name = add(m, "lives in Oslo", user_id="ann", run_id="r", metadata={"a": 1}, expiration_date="2099-01-01")
    before: Any = m.get(name)
    m.update(name, data="lives in Rome")
    after: Any = m.get(name)
    assert after["memory"] == "lives in Rome"
    assert after["updated_at"] > before["updated_at"]
    kept = ("id", "created_at", "metadata", "user_id", "run_id", "expiration_date", "role")
    assert {key: after[key] for key in kept} == {key: before[key] for key in kept}
    assert [(row["event"], row["old_memory"], row["new_memory"]) for row in m.history(name)] == [
        ("ADD", None, "lives in Oslo"),
        ("UPDATE", "lives in Oslo", "lives in Rome"),
    ]
    assert texts(m.search("lives in", filters=ANN, threshold=0.0)) == {"lives in Rome"}
    assert texts(m.get_all(filters=ANN, show_expired=True)) == {"lives in Rome"}
    with pytest.raises(InvalidInputError, match="not empty"):
        m.update(name, " ")


# -- forgetting


def test_what_is_deleted_is_in_no_file(m: Memory, tmp_path: Path) -> None:
    one = add(m, "the zanzibar ferry", user_id="ann", metadata={"note": "kilimanjaro"})
    m.update(one, "the serengeti ferry")
    add(m, "the ngorongoro ferry", user_id="ann", run_id="r")
    add(m, "the тайна ferry", user_id="bob")
    secrets = ["zanzibar", "kilimanjaro", "serengeti"]
    assert all(any_file_holds(tmp_path, text) for text in [*secrets, "ngorongoro", "тайна"])
    m.delete(one)
    assert m.history(one) == []
    assert not any(any_file_holds(tmp_path, text) for text in secrets)
    m.delete_all(user_id="ann")
    assert not any_file_holds(tmp_path, "ngorongoro")
    m.reset()
    assert not any_file_holds(tmp_path, "тайна")
    assert m.get_all(filters={"user_id": "*"}) == {"results": []}


def test_a_reader_that_holds_the_old_pages_is_told_of(m: Memory, caplog: pytest.LogCaptureFixture) -> None:
    name = add(m, "tea", user_id="ann")
    with m.memory.index.snapshot():
        m.delete(name)
    assert "not erased from every file yet" in caplog.text


def test_what_is_hidden_is_not_there(m: Memory) -> None:
    name = add(m, "tea", user_id="ann")
    m.memory.forget(name, how="hide")
    assert m.get(name) is None
    assert m.get_all(filters=ANN, show_expired=True) == {"results": []}
    m.memory.restore()
    assert m.get(name)


# -- opening


def test_a_configuration_of_mem0_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = {
        "vector_store": {"provider": "qdrant", "config": {"path": str(tmp_path / "qdrant")}},
        "llm": {"provider": "openai", "config": {"model": "gpt-4o"}},
        "embedder": {"provider": "huggingface", "config": {"model": ToyEncoder(64)}},
        "history_db_path": str(tmp_path / "history.db"),
    }
    with caplog.at_level(logging.WARNING), Memory.from_config(config) as m:
        add(m, "tea", user_id="ann")
        assert m.memory.index.path == tmp_path / "qdrant" / "mllm"
    assert "without effect: llm, history_db_path" in caplog.text
    assert not (tmp_path / "history.db").exists()
    monkeypatch.setenv("MEM0_DIR", str(tmp_path / "home"))
    with Memory({"encoder": ToyEncoder(64)}) as m:
        assert m.memory.index.path == tmp_path / "home" / "mllm"
    with Memory.from_config(config) as m:
        assert texts(m.get_all(filters=ANN)) == {"tea"}
    with pytest.raises(InvalidInputError, match="'vectorstore'"):
        Memory({"vectorstore": {}})
    with pytest.raises(InvalidTypeError, match="dictionary"):
        Memory("folder")


def test_unknown_arguments_are_refused(m: Memory) -> None:
    with pytest.raises(InvalidTypeError, match="'topk'"):
        m.search("x", filters=ANN, topk=3)
    with pytest.raises(InvalidTypeError, match="'threshhold'"):
        m.get_all(filters=ANN, threshhold=3)


def test_it_lies_in_an_agent_memory_that_others_use(tmp_path: Path) -> None:
    with AgentMemory.open(tmp_path / "m", encoder=ToyEncoder(64)) as agents:
        with Memory(memory=agents) as m:
            add(m, "Ann likes tea", user_id="ann")
        assert agents.scope(user="ann").recall("tea")[0].text == "Ann likes tea"
        agents.scope(user="ann").remember("Ann likes coffee")
        assert texts(Memory(memory=agents).get_all(filters=ANN)) == {"Ann likes tea"}


# -- many at once


async def test_a_hundred_adds_at_once(tmp_path: Path) -> None:
    config = {"path": tmp_path / "m", "encoder": ToyEncoder(64)}
    async with AsyncMemory.from_config(config) as m:
        added = await asyncio.gather(
            *(m.add(f"fact {n}", user_id=f"u{n % 4}", infer=False) for n in range(100)),
        )
        names = {one["results"][0]["id"] for one in added}
        assert len(names) == 100
        found = [await m.get_all(filters={"user_id": f"u{n}"}, top_k=100) for n in range(4)]
        assert [texts(one) for one in found] == [{f"fact {n}" for n in range(u, 100, 4)} for u in range(4)]
        await m.delete(names.pop())
        await m.reset()
        assert await m.get_all(filters={"user_id": "*"}) == {"results": []}


def test_two_processes(m: Memory) -> None:
    script = """
import sys
from mem0_mllm import Memory
from tests.helpers.toy import ToyEncoder

with Memory({"path": sys.argv[1], "encoder": ToyEncoder(64)}) as m:
    for n in range(10):
        m.add(f"there {n}", user_id="ann", infer=False)
"""
    worker = subprocess.Popen([sys.executable, "-c", script, str(m.memory.index.path)])
    for n in range(10):
        add(m, f"here {n}", user_id="ann")
    assert worker.wait(120) == 0
    assert texts(m.get_all(filters=ANN, top_k=50)) == {
        f"{who} {n}" for who in ("here", "there") for n in range(10)
    }


SCRIPT = """
from mem0 import Memory

store = {"provider": "qdrant", "config": {"path": FOLDER}}
m = Memory.from_config({"vector_store": store, "version": "v1.1"})
messages = [
    {"role": "user", "content": "I'm planning to watch a movie tonight. Any recommendations?"},
    {"role": "assistant", "content": "How about thriller movies? They can be quite engaging."},
    {"role": "user", "content": "I'm not a big fan of thriller movies but I love sci-fi movies."},
]
result = m.add(messages, user_id="alice", metadata={"category": "movies"}, infer=False)
related = m.search(query="What do you know about sci-fi?", filters={"user_id": "alice"}, top_k=2)
print(len(result["results"]), related["results"][0]["memory"])
memory_id = related["results"][0]["id"]
print(m.get(memory_id)["metadata"])
print(m.update(memory_id=memory_id, data="I love India, it is my favorite country."))
print(len(m.history(memory_id=memory_id)))
for memory in m.get_all(filters={"user_id": "alice"})["results"]:
    print("-", memory["memory"])
print(m.delete(memory_id=memory_id))
print(m.delete_all(user_id="alice"))
m.reset()
"""


def test_a_script_for_mem0_runs_when_its_import_is_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = SCRIPT.replace("from mem0 import", "from mem0_mllm import")
    names: dict[str, Any] = {"FOLDER": str(tmp_path)}
    exec(compile(code, "script", "exec"), names)
    names["m"].close()
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "3 I'm not a big fan of thriller movies but I love sci-fi movies."
    assert printed[1:4] == ["{'category': 'movies'}", "{'message': 'Memory updated successfully!'}", "2"]
    assert "- I love India, it is my favorite country." in printed[4:7]
    assert printed[7:] == [
        "{'message': 'Memory deleted successfully!'}",
        "{'message': 'Memories deleted successfully!'}",
    ]


# -- what is refused


@pytest.mark.parametrize("given", [["ann"], {"in": ["ann"]}, True])
def test_an_id_is_one_id(m: Memory, given: Any) -> None:
    for call in (m.search, m.get_all):
        with pytest.raises(InvalidInputError, match="one id"):
            call(*(["tea"] if call == m.search else []), filters={"user_id": given})


def test_nobody_is_called_as_everybody_is(m: Memory) -> None:
    add(m, "tea", user_id="ann")
    for call in (m.delete_all, lambda **who: m.add("tea", **who)):
        with pytest.raises(InvalidInputError, match="stands for any"):
            call(user_id="*")
    assert texts(m.get_all(filters=ANN)) == {"tea"}


def test_metadata_is_a_dictionary(m: Memory) -> None:
    item = add(m, "tea", **ANN)
    for call in (lambda: m.add("milk", metadata="x", **ANN), lambda: m.update(item, metadata="x")):
        with pytest.raises(InvalidInputError, match="metadata"):
            call()


@pytest.mark.parametrize("made", [None, "a text", [5]])
def test_what_an_extraction_makes_is_texts(m: Memory, made: Any) -> None:
    other = Memory(memory=m.memory, extract=lambda messages: made)
    with pytest.raises(InvalidTypeError, match="extract"):
        other.add("tea", **ANN)
    assert m.get_all(filters=ANN) == {"results": []}
