"""The verbs of an agent memory: scopes, versions, duplicates, neighbours, forgetting."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from mllm_plugin import InvalidInputError, NotFoundError, VersionConflictError
from mllm_plugin.agent import AgentMemory
from tests.helpers.toy import ToyEncoder

DAY = datetime(2024, 5, 1, tzinfo=timezone.utc)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[AgentMemory]:
    with AgentMemory.open(tmp_path / "m", encoder=ToyEncoder(64)) as opened:
        yield opened


def texts(items) -> list[str]:
    return [item.text for item in items]


def test_a_scope_sees_inwards_and_outwards_but_not_sideways(memory: AgentMemory) -> None:
    ann, bob = memory.scope(user="ann"), memory.scope(user="bob")
    ann.remember("ann likes tea")
    ann.scope(session="s1").remember("tea in session one")
    ann.scope(session="s2").remember("tea in session two")
    bob.remember("bob likes tea")
    assert set(texts(ann.scope(session="s1").recall("tea"))) == {"ann likes tea", "tea in session one"}
    assert len(ann.recall("tea")) == 3
    assert texts(bob.recall("tea")) == ["bob likes tea"]
    with pytest.raises(InvalidInputError, match="bound"):
        ann.scope(user="bob")


def test_an_update_keeps_the_old_version_for_as_of(memory: AgentMemory) -> None:
    ann = memory.scope(user="ann")
    ann.remember("lives in Oslo", id="home", at=DAY)
    report = ann.update("home", text="lives in Rome", at=DAY + timedelta(days=10), if_version=1)
    assert report.version == 2
    assert texts(ann.recall("lives in")) == ["lives in Rome"]
    assert texts(ann.recall("lives in", as_of=DAY + timedelta(days=5))) == ["lives in Oslo"]
    assert [(one.text, one.version) for one in ann.history("home")] == [
        ("lives in Rome", 2),
        ("lives in Oslo", 1),
    ]
    with pytest.raises(VersionConflictError):
        ann.update("home", text="lives in Bonn", if_version=1)


def test_a_new_item_supersedes_an_old_one(memory: AgentMemory) -> None:
    ann = memory.scope(user="ann")
    old = ann.remember("works at Acme", at=DAY).id
    new = ann.remember("works at Initech", supersedes=old, at=DAY + timedelta(days=1))
    assert new.superseded == (old,)
    assert texts(ann.recall("works at")) == ["works at Initech"]
    assert texts(ann.recall("works at", as_of=DAY)) == ["works at Acme"]
    with pytest.raises(NotFoundError):
        ann.remember("works at home", supersedes="nothing")


@pytest.mark.parametrize(("duplicates", "kept"), [("report", 2), ("merge", 1), ("keep", 2)])
def test_near_duplicates(tmp_path: Path, duplicates, kept: int) -> None:
    with AgentMemory.open(tmp_path / "d", encoder=ToyEncoder(64), duplicates=duplicates) as memory:
        ann = memory.scope(user="ann")
        first = ann.remember("Ann likes green tea")
        second = ann.remember("ann likes  green tea")
        assert [one.id for one in second.duplicates] == ([] if duplicates == "keep" else [first.id])
        assert second.merged is (duplicates == "merge")
        assert ann.stats()["items"] == kept


def test_a_message_is_found_by_its_neighbour_and_its_text_is_pure(memory: AgentMemory) -> None:
    chat = memory.scope(user="ann", participants=("Ann", "Bo"))
    lines = [f"filler number {n}" for n in range(5)] + ["where is the telescope", "under the bed"]
    for place, line in enumerate(lines):
        chat.remember(line, speaker=("Ann", "Bo")[place % 2], session="s1", at=DAY + timedelta(minutes=place))
    found = chat.recall("telescope", k=2, neighbours=1)
    assert texts(found) == ["where is the telescope", "under the bed"]
    assert found[0].speaker == "Bo"
    assert found[0].after == ("Ann: under the bed",)


@pytest.mark.parametrize("how", ["erase", "hide"])
def test_forgetting_follows_versions_and_summaries(memory: AgentMemory, how) -> None:
    ann = memory.scope(user="ann")
    ann.remember("secret zebra plan", id="a")
    ann.update("a", text="secret zebra plan revised")
    ann.remember("summary of zebra", id="sum", derived_from=["a"])
    ann.remember("summary of summary", id="sum2", derived_from=["sum"])
    ann.remember("tea", id="other")
    report = ann.forget("a", how=how)
    assert report.ids == ("a",)
    assert set(report.derived) == {"a@1", "sum", "sum2"}
    assert texts(ann.recall("secret zebra summary")) == ["tea"]
    assert report.erased is (how == "erase")
    if how == "hide":
        assert ann.restore("a") == ("a",)
        assert "secret zebra plan revised" in texts(ann.recall("zebra"))
        return
    assert ann.get("a") is None
    held = b"".join(path.read_bytes() for path in memory.index.path.rglob("*") if path.is_file())
    assert b"zebra" not in held
    assert all("a" not in entry.ids for entry in memory.audit())


def test_overview_context_consolidate_and_audit(memory: AgentMemory) -> None:
    ann = memory.scope(user="ann")
    for n in range(6):
        ann.remember(f"the garden has roses {n}", at=DAY + timedelta(days=n))
    (topic,) = ann.overview("garden")
    assert topic.size == 6
    assert topic.first == DAY
    assert topic.last == DAY + timedelta(days=5)
    assert "garden" in topic.label
    assert topic.faces
    lines = ann.context([{"role": "user", "content": "roses in the garden?"}], budget_tokens=30).splitlines()
    assert lines
    assert lines == sorted(lines)
    (group,) = ann.consolidate(similar=0.5)
    assert len(group.ids) == 6
    assert group.into is None
    (merged,) = ann.consolidate(lambda items: "the garden has six roses", similar=0.5)
    assert texts(ann.list()) == ["the garden has six roses"]
    assert merged.into == ann.list()[0].id
    assert {entry.action for entry in ann.audit()} >= {"remember", "recall"}


def test_forgetting_stays_in_its_scope_though_ids_are_the_same(memory: AgentMemory) -> None:
    app = memory.scope(app="x")
    ann, bob = app.scope(user="ann"), app.scope(user="bob")
    for who, name in ((ann, "ann"), (bob, "bob")):
        who.remember(f"{name} likes tea", id="a")
        who.remember(f"summary about {name}", id="sum", derived_from=["a"])
    assert ann.forget("a").derived == ("sum",)
    assert sorted(texts(bob.list())) == ["bob likes tea", "summary about bob"]


def test_a_scope_reads_what_lies_around_it_but_does_not_change_it(memory: AgentMemory) -> None:
    ann = memory.scope(user="ann")
    ann.remember("ann likes tea", id="a")
    session = ann.scope(session="s1")
    assert session.get("a").text == "ann likes tea"
    assert session.forget("a").missing == ("a",)
    with pytest.raises(NotFoundError):
        session.update("a", text="ann likes coffee")
    assert texts(ann.list()) == ["ann likes tea"]


def test_neighbours_beyond_the_pool_count_for_every_message_alike(memory: AgentMemory, monkeypatch) -> None:
    """Else a message whose neighbours are hits too would win by their number alone."""
    monkeypatch.setattr("mllm_plugin.agent.recalling._POOL", 4)
    chat = memory.scope(user="ann")
    others = [f"other words {n}" for n in range(20)]
    lines = ["zebra one", "zebra", "nothing here", *others, "zebra zebra two"]
    for place, line in enumerate(lines):
        chat.remember(line, speaker="Ann", session="s1", at=DAY + timedelta(minutes=place))
    found = texts(chat.recall("zebra", k=1))
    wide = texts(chat.recall("zebra", k=40))
    assert found == wide[:1]
    assert len(wide) == len(lines)


def test_a_log_that_cannot_be_written_undoes_nothing(memory: AgentMemory) -> None:
    ann = memory.scope(user="ann")
    (memory.index.path / "audit.db").unlink(missing_ok=True)
    (memory.index.path / "audit.db").mkdir()
    with pytest.warns(RuntimeWarning, match="audit log"):
        name = ann.remember("ann likes tea").id
    with pytest.warns(RuntimeWarning, match="audit log"):
        report = ann.forget(name)
    assert (report.ids, report.erased) == ((name,), False)
    assert "audit log" in report.reason
    assert ann.get(name) is None


async def test_async_twins(memory: AgentMemory) -> None:
    ann = memory.scope(user="ann")
    await ann.aremember("tea")
    assert texts(await ann.arecall("tea")) == ["tea"]
