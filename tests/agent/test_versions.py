"""Old versions of items: out of reach of names, of masks' gaps, and of what erases the item."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from mllm_plugin import Document, InvalidInputError, VersionConflictError
from mllm_plugin.agent import AgentMemory, AgentScope, forgetting
from mllm_plugin.memory.batch import Batch
from mllm_plugin.store.cache import hash_text
from tests.helpers.toy import ToyEncoder

DAY = datetime(2024, 5, 1, tzinfo=timezone.utc)
PAST = datetime(2020, 1, 1, tzinfo=timezone.utc)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[AgentMemory]:
    with AgentMemory.open(tmp_path / "m", encoder=ToyEncoder(64)) as opened:
        yield opened


@pytest.fixture
def ann(memory: AgentMemory) -> AgentScope:
    return memory.scope(user="ann")


def texts(items) -> list[str]:
    return [item.text for item in items]


def test_an_item_may_be_called_as_a_version_is_shown(ann: AgentScope) -> None:
    ann.remember("lives in Oslo", id="home")
    ann.remember("another thing", id="home@1")
    ann.update("home", text="lives in Rome")
    ann.remember("a third thing", id="home@2")
    ann.update("home", text="lives in Bonn")
    assert ann.get("home@1").text == "another thing"
    assert texts(ann.history("home")) == ["lives in Bonn", "lives in Rome", "lives in Oslo"]
    assert set(ann.forget("home").derived) == {"home@1", "home@2"}
    assert sorted(texts(ann.list(masked=None))) == ["a third thing", "another thing"]


def test_a_version_of_an_earlier_release_is_no_item_and_is_not_written_over(ann: AgentScope) -> None:
    ann.remember("lives in Rome", id="home")
    kept = Document("lives in Oslo", id="home@1", metadata={"item": {"of": "home", "version": 1}})
    ann._shared.memory.add([kept], namespace=ann.namespace)
    assert ann.get("home@1") is None
    with pytest.raises(InvalidInputError, match="old version of 'home'"):
        ann.remember("another thing", id="home@1")
    assert texts(ann.history("home"))[1:] == ["lives in Oslo"]


def test_what_is_hidden_stays_hidden_with_its_versions(ann: AgentScope) -> None:
    ann.remember("secret cat", id="c", at=DAY)
    ann.hide("c", label="private")
    ann.update("c", text="secret dog", at=DAY + timedelta(days=9))
    assert ann.recall("secret") == ann.recall("secret", as_of=DAY + timedelta(days=1)) == []
    assert ann.restore(label="private") == ("c",)
    assert texts(ann.recall("secret", as_of=DAY + timedelta(days=1))) == ["secret cat"]


def test_what_expires_takes_its_versions_and_summaries_along(ann: AgentScope) -> None:
    ann.remember("visa number one", id="visa")
    ann.update("visa", text="visa number two", expires=PAST)
    ann.remember("a summary of the visa", derived_from="visa")
    ann.remember("tea", id="tea")
    report = ann.sweep()
    assert (report.documents, report.erased, len(report.removed)) == (3, True, 3)
    assert texts(ann.list(masked=None)) == ["tea"]
    folder = ann._shared.memory.path
    assert b"visa" not in b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_a_sweep_that_fails_leaves_what_expired_and_what_was_made_of_it(
    ann: AgentScope, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann.remember("visa number one", id="visa", expires=PAST)
    ann.remember("a summary of the visa", id="sum", derived_from="visa")
    remove = Batch.remove

    def failing(batch: Batch, ids: list[str], **where: object) -> None:
        remove(batch, ids, **where)
        raise OSError("the disk is gone")

    with monkeypatch.context() as patched:
        patched.setattr(Batch, "remove", failing)
        with pytest.raises(OSError, match="gone"):
            ann.sweep()
    assert sorted(item.id for item in ann.list(masked=None)) == ["sum", "visa"]
    assert ann.sweep().documents == 2


def test_what_is_given_more_time_in_the_middle_of_a_sweep_stays(
    ann: AgentScope, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann.remember("visa number one", id="visa", expires=PAST)
    ann.remember("a summary of the visa", id="sum", derived_from="visa")
    ann.remember("milk", id="milk", expires=PAST)
    derived, given = forgetting.derived, []

    def slow(*asked: object) -> object:
        found = derived(*asked)
        if not given:
            given.append(ann.update("visa", expires=datetime(2100, 1, 1, tzinfo=timezone.utc)))
        return found

    monkeypatch.setattr(forgetting, "derived", slow)
    removed = [name for _, name in ann.sweep().removed]  # the version that had expired too
    assert (len(removed), "milk" in removed, len(given)) == (2, True, 1)
    assert sorted(item.id for item in ann.list()) == ["sum", "visa"]


def test_what_is_superseded_twice_keeps_its_end_and_goes_with_either(ann: AgentScope) -> None:
    ann.remember("lives in Oslo", id="a", at=DAY)
    ann.remember("lives in Rome", id="b", supersedes="a", at=DAY + timedelta(days=1))
    ann.remember("lives in Paris", id="c", supersedes="a", at=DAY + timedelta(days=2))
    assert [item.id for item in ann.history("b")] == ["b", "a"]
    assert [item.id for item in ann.history("c")] == ["c", "a"]
    assert ann.get("a").valid_to == DAY + timedelta(days=1)
    assert ann.forget("b").derived == ("a",)


def test_a_filter_forgets_items_as_they_are_now(ann: AgentScope) -> None:
    ann.remember("about health", id="h", metadata={"topic": "health"})
    ann.update("h", metadata={"topic": "food"})
    assert ann.forget(filter={"topic": "health"}).ids == ()
    assert ann.get("h") is not None
    report = ann.forget(filter={"topic": "food"})
    assert (report.ids, report.derived) == (("h",), ("h@1",))
    assert ann.list(masked=None) == []


def test_without_history_a_new_item_erases_all_versions_of_the_old(ann: AgentScope) -> None:
    ann.remember("one", id="a")
    ann.update("a", text="two")
    ann.remember("three", supersedes="a", history=False)
    assert texts(ann.list(masked=None)) == ["three"]


def test_an_item_that_is_told_again_is_told_whole(ann: AgentScope) -> None:
    for name in ("base", "old", "x"):
        ann.remember(f"this is {name}", id=name)
    report = ann.remember(
        "said of base",
        id="x",
        derived_from="base",
        supersedes="old",
        source="web",
        speaker="Bo",
        mask="draft",
    )
    assert (report.version, report.superseded) == (2, ("old",))
    now = ann.get("x")
    assert (now.text, now.speaker, now.source, now.derived_from, now.masks) == (
        "said of base",
        "Bo",
        "web",
        ("base",),
        ("draft",),
    )
    assert ann.get("old").masks == ("superseded",)
    assert "x" in ann.forget("base").derived
    assert ann.get("x") is None


def test_a_line_tells_when_the_version_was_said(ann: AgentScope) -> None:
    ann.remember("lives in Oslo", id="home", at=DAY)
    ann.update("home", text="lives in Rome", at=DAY + timedelta(days=31))
    assert ann.context("lives in") == "[2024-06-01] lives in Rome"
    ann.remember("see you", id="m", speaker="Ann\nBo", session="s", at=DAY)
    ann.update("m", text="see you there")
    assert ann.get("m").line() == "[2024-05-01] Ann Bo: see you there"


def test_what_has_ended_is_not_updated(ann: AgentScope) -> None:
    ann.remember("Acme", id="a")
    ann.remember("Initech", supersedes="a")
    with pytest.raises(InvalidInputError, match="has ended"):
        ann.update("a", text="Acme again")


def test_writers_of_one_item_at_once_each_make_a_version(ann: AgentScope) -> None:
    ann.remember("zero", id="k")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: ann.update("k", text=f"text {n}"), range(8)))
        list(pool.map(lambda n: ann.remember(f"first {n}", id="new"), range(4)))
    assert [one.version for one in ann.history("k")] == list(range(9, 0, -1))
    assert sorted(texts(ann.history("new"))) == [f"first {n}" for n in range(4)]
    with pytest.raises(VersionConflictError):
        ann.update("k", text="late", if_version=3)


def test_a_fact_is_embedded_once(memory: AgentMemory, ann: AgentScope) -> None:
    ann.remember("tea in the morning")
    encoder = memory.index.encoder
    encoder.encoded.clear()
    ann.remember("milk in the evening")
    ann.remember_many(["bread at noon", "a nap at two"])
    assert encoder.encoded == ["milk in the evening", "bread at noon", "a nap at two"]
    text, alone = "milk in the evening", memory.scope(user="bob")
    alone.remember(text)  # into an empty scope, where nothing is compared
    with memory.index.snapshot() as snapshot:
        hashes = [hash_text(scope.namespace, text) for scope in (ann, alone)]
        (pooled, windows), (expected, same) = (snapshot.embeddings(hashes)[one] for one in hashes)
    assert pooled.tobytes() == expected.tobytes()
    assert windows == same != b""
    assert memory.index.verify().problems == ()


def test_two_processes_never_give_two_messages_one_place(
    ann: AgentScope, tmp_path: Path, monkeypatch
) -> None:
    with AgentMemory.open(tmp_path / "m", encoder=ToyEncoder(64)) as other:
        turns, theirs = ann._shared.turns, other.scope(user="ann")
        numbered, said = turns.next, []

        def next_and_then_the_other_speaks(namespace, session) -> int:
            place = numbered(namespace, session)
            if not said:
                said.append(theirs.remember("theirs", speaker="Bo", session="s"))
            return place

        monkeypatch.setattr(turns, "next", next_and_then_the_other_speaks)
        ann.remember("ours", speaker="Ann", session="s")
    (found,) = ann.recall("ours", k=1, neighbours=1)
    assert (found.text, found.before) == ("ours", ("Bo: theirs",))
