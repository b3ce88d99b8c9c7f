"""Times of documents: expiry to the moment, versions, validity, order, and that all of it survives."""

from __future__ import annotations

import threading
from contextlib import suppress
from datetime import date, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllm_plugin import (
    Document,
    IndexBuilder,
    InvalidDocumentError,
    InvalidInputError,
    InvalidTypeError,
    MemoryIndex,
    NotFoundError,
    ReadOnlyStoreError,
    Recency,
    VersionConflictError,
    clock,
    reembed,
    repair,
)
from tests.helpers.file_tools import changing
from tests.helpers.toy import ToyEncoder

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
SECOND = timedelta(seconds=1)


class Hands:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.moment = START

    def __call__(self) -> datetime:
        return self.moment


@pytest.fixture
def hands(monkeypatch) -> Hands:
    found = Hands()
    monkeypatch.setattr(clock, "now", found)
    return found


@pytest.fixture
def memory(tmp_path, hands):
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder()) as opened:
        yield opened


def ids(found) -> set[str]:
    return {getattr(one, "document_id", None) or one.id for one in found}


def found_in(memory: MemoryIndex, **options) -> set[str]:
    return ids(memory.search("cat", k=50, **options))


def cats(count: int, **fields) -> list[Document]:
    return [Document(f"cat number {n}", id=f"c{n}", **fields) for n in range(count)]


def nodes(memory: MemoryIndex) -> list:
    """The embeddings of all levels, as a language model would read them."""
    recalled = memory.recall("cat", k=3, nodes=50, exact=True)
    return [
        (level, one.vectors.tobytes()) for level, many in recalled.levels.items() if level > 1 for one in many
    ]


# -- expiry


@pytest.mark.parametrize("mode", ["beam", "flat", "exact"])
def test_what_expires_is_hidden_from_that_moment_on(memory, hands, mode):
    memory.add([*cats(9), Document("cat that goes", id="goes", expires_at=START + SECOND)])
    hands.moment = START + SECOND - timedelta(microseconds=1)
    assert "goes" in found_in(memory, mode=mode)
    hands.moment = START + SECOND
    assert found_in(memory, mode=mode) == ids(cats(9))
    assert "goes" not in {one.document_id for one in memory.chunks()}
    assert memory.get("goes")[0].masks == ("expired",)
    assert memory.verify().problems == ()


def test_no_ancestor_nor_memory_token_knows_what_has_expired(tmp_path, hands):
    """The nodes are those of a memory in which it is masked, whether or not expiry can be written."""
    extra = [Document(f"cat zebra {n}", id=f"z{n}") for n in range(40)]
    temporary = [Document(one.text, id=one.id, expires_at=START + SECOND) for one in extra]
    for name, added in (("masked", extra), ("expiring", temporary)):
        with MemoryIndex.open(tmp_path / name, encoder=ToyEncoder()) as memory:
            memory.add([*cats(60), *added])
            if name == "masked":
                memory.mask(ids(extra))
                expected = nodes(memory)
                assert expected
    hands.moment = START + SECOND
    with MemoryIndex.open(tmp_path / "expiring", encoder=ToyEncoder(), read_only=True) as reader:
        assert nodes(reader) == expected
        assert found_in(reader) == ids(cats(60)) & found_in(reader)
        assert reader.get("z0")[0].masks == ("expired",)
    with MemoryIndex.open(tmp_path / "expiring", encoder=ToyEncoder()) as memory:
        with changing(memory):  # another call is writing: nobody waits for it
            assert threaded(lambda: found_in(memory)) == found_in(memory)
        assert nodes(memory) == expected
        assert memory.count(masked=True) == 40


def threaded(call):
    """What a call gives in a thread of its own."""
    given = []
    thread = threading.Thread(target=lambda: given.append(call()))
    thread.start()
    thread.join()
    return given[0]


def test_many_that_expire_at_once_are_all_hidden_at_once(memory, hands):
    memory.add(
        [*cats(3), *(Document(f"cat {n} goes", id=f"g{n}", expires_at=START + SECOND) for n in range(600))]
    )
    hands.moment = START + SECOND
    assert ids(memory.search("cat", k=700)) == ids(cats(3))
    assert memory.count(masked=False) == 3
    assert len(list(memory.chunks())) == 3


def test_unmask_does_not_bring_back_what_has_expired_but_more_time_does(memory, hands):
    memory.add(cats(2, expires_at=START + SECOND))
    memory.mask("c1", label="draft")
    hands.moment = START + SECOND
    assert found_in(memory) == set()
    assert memory.unmask().documents == 0
    assert memory.unmask("c0", label="expired").documents == 0
    with pytest.raises(InvalidInputError, match="the memory's own"):
        memory.mask("c0", label="expired")
    memory.update("c0", expires_at=START + 2 * SECOND)
    assert found_in(memory) == {"c0"}
    memory.add([Document("cat number 1", id="c1")])
    assert found_in(memory) == {"c0", "c1"}
    assert memory.verify().problems == ()


def test_sweep_erases_and_names_what_has_expired(memory, hands, tmp_path):
    memory.add(cats(2, expires_at=START + SECOND), namespace=("users", "ann"))
    memory.add([Document("secretword cat", id="s", expires_at=START + SECOND), *cats(1)])
    hands.moment = START + SECOND
    assert memory.sweep(prefix=False).removed == (((), "s"),)
    report = memory.sweep()
    assert report.removed == ((("users", "ann"), "c0"), (("users", "ann"), "c1"))
    assert report.documents == 2
    assert report.erased
    assert memory.sweep().documents == 0
    assert memory.count(prefix=True) == 1
    assert not any(
        b"secretword" in one.read_bytes() for one in (tmp_path / "memory").rglob("*") if one.is_file()
    )
    assert memory.verify().problems == ()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "update", "mask", "unmask", "wait", "remove", "sweep"]),
        st.integers(0, 5),
        st.one_of(st.none(), st.integers(-2, 5)),
    ),
    min_size=5,
    max_size=14,
)


@settings(max_examples=15, deadline=None)
@given(STEPS)
def test_expiry_in_any_order_of_edits(tmp_path_factory, steps):
    """A model of sets: at every moment a search finds what is neither masked nor expired."""
    patch, hands = pytest.MonkeyPatch(), Hands()
    patch.setattr(clock, "now", hands)
    try:
        folder = tmp_path_factory.mktemp("times") / "memory"
        with MemoryIndex.open(folder, encoder=ToyEncoder()) as memory:
            model = Model(memory, hands)
            for step, number, until in steps:
                model.step(step, f"c{number}", until)
                assert found_in(memory) == model.live()
                assert memory.count(masked=False) == len(model.live())
            assert memory.verify().problems == ()
    finally:
        patch.undo()


class Model:
    """What a memory should hold: when each document expires, and which are masked."""

    def __init__(self, memory: MemoryIndex, hands: Hands) -> None:
        self.memory, self.hands = memory, hands
        self.expiry: dict[str, datetime | None] = {}
        self.masked: set[str] = set()

    def live(self) -> set[str]:
        return self.expiry.keys() - self.masked - self.expired()

    def expired(self) -> set[str]:
        now = self.hands.moment
        return {name for name, end in self.expiry.items() if end is not None and end <= now}

    def step(self, step: str, name: str, seconds: int | None) -> None:
        until = None if seconds is None else self.hands.moment + seconds * SECOND
        if step == "add":
            self.memory.add([Document(f"cat {name}", id=name, expires_at=until)])
            self.expiry[name] = until
        elif step == "wait":
            self.hands.moment += abs(seconds or 1) * SECOND
        elif step == "unmask":
            self.memory.unmask()
            self.masked.clear()
        elif step == "sweep":
            gone = self.expired()
            assert {one for _, one in self.memory.sweep().removed} == gone
            self._forget(gone)
        elif step == "remove":
            self.memory.remove(name)
            self._forget({name})
        elif name in self.expiry and step == "update":
            self.memory.update(name, expires_at=until)
            self.expiry[name] = until
        elif name in self.expiry:
            self.memory.mask(name, label="x")
            self.masked.add(name)

    def _forget(self, gone: set[str]) -> None:
        self.expiry = {name: end for name, end in self.expiry.items() if name not in gone}
        self.masked -= gone


# -- what is kept


def test_moments_are_kept_and_come_back_in_utc(memory, hands):
    zone = timezone(timedelta(hours=2))
    document = Document("cat", id="c", valid_from=date(2020, 5, 1), valid_to="2021-05-01T00:00:00Z")
    memory.add([document])
    first = memory.get("c")[0]
    assert (first.created_at, first.updated_at) == (START, START)
    assert first.valid_from == datetime(2020, 5, 1, tzinfo=timezone.utc)
    assert first.valid_to == datetime(2021, 5, 1, tzinfo=timezone.utc)
    hands.moment += SECOND
    assert memory.add([document]).unchanged == 1
    assert memory.get("c")[0].version == first.version
    memory.add([Document("cat anew", id="c", expires_at=datetime(2027, 1, 1, 2, tzinfo=zone))])
    again = memory.get("c")[0]
    assert (again.created_at, again.updated_at) == (START, START + SECOND)
    assert again.expires_at == datetime(2027, 1, 1, tzinfo=timezone.utc)
    assert (again.valid_from, again.valid_to) == (None, None)
    assert again.version > first.version
    (hit,) = memory.search("cat")
    assert (hit.created_at, hit.expires_at, hit.version) == (START, again.expires_at, again.version)


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"expires_at": datetime(2026, 1, 1)}, InvalidDocumentError, "has no time zone"),
        ({"expires_at": 5}, InvalidTypeError, "datetime, a date or ISO 8601"),
        ({"valid_from": "tomorrow"}, InvalidDocumentError, "not ISO 8601"),
        ({"valid_to": "2024-05-01T12:00:00"}, InvalidDocumentError, "not ISO 8601 with a time zone"),
        ({"valid_from": "2024-05-02", "valid_to": "2024-05-01"}, InvalidDocumentError, "before valid_from"),
        ({"metadata": {"at": datetime(2026, 1, 1)}}, InvalidDocumentError, "has no time zone"),
    ],
)
def test_what_is_no_moment_is_refused(memory, fields, error, words):
    with pytest.raises(error, match=words):
        memory.add([Document("cat", id="c", **fields)])
    assert memory.count() == 0


def test_everything_survives_export_backup_reembedding_and_repair(memory, hands, tmp_path):
    memory.add(cats(3, expires_at=START + 5 * SECOND, valid_from="2020-01-01"), namespace="a")
    hands.moment += SECOND
    memory.update("c1", metadata={"n": 1}, namespace="a")
    hands.moment = START + 5 * SECOND
    assert found_in(memory, namespace="a") == set()
    memory.update("c2", expires_at=None, namespace="a")
    expected = [one.to_dict() for one in memory.documents(prefix=True)]
    records = list(memory.export())
    memory.backup(tmp_path / "backup.db")
    reembed(memory, tmp_path / "reembedded", ToyEncoder(32), progress=False)
    with MemoryIndex.open(tmp_path / "imported", encoder=ToyEncoder()) as other:
        other.import_records(records)
    (tmp_path / "restored").mkdir()
    (tmp_path / "restored" / "memory.db").write_bytes((tmp_path / "backup.db").read_bytes())
    repair(tmp_path / "restored", tmp_path / "repaired", encoder=ToyEncoder(), progress=False)
    for name, dim in (("imported", 16), ("restored", 16), ("reembedded", 32), ("repaired", 16)):
        encoder = ToyEncoder(dim) if dim == 32 else ToyEncoder()
        with MemoryIndex.open(tmp_path / name, encoder=encoder) as other:
            assert found_in(other, namespace="a") == {"c2"}, name
            assert [one.to_dict() for one in other.documents(prefix=True)] == expected, name
            assert other.verify().problems == (), name


def test_a_bulk_build_keeps_the_same_times(tmp_path, hands):
    documents = [
        Document(f"cat {n}", id=f"c{n}", expires_at=START + n * SECOND, valid_from=START)
        for n in range(1, 40)
    ]
    with MemoryIndex.open(tmp_path / "one", encoder=ToyEncoder()) as one:
        for document in documents:
            one.add([document])
        with MemoryIndex.open(tmp_path / "bulk", encoder=ToyEncoder()) as bulk:
            IndexBuilder(bulk, progress=False, batch_size=10).build(documents)
            hands.moment = START + 20 * SECOND
            assert list(one.documents()) == list(bulk.documents())
            scores = [
                [(hit.document_id, hit.score) for hit in each.search("cat 30", k=30, exact=True)]
                for each in (one, bulk)
            ]
            assert scores[0] == scores[1]
            assert len(scores[0]) == 19


# -- update


def test_an_update_asks_the_encoder_only_for_new_text(memory, hands):
    memory.add([Document("cat one", id="c", metadata={"a": 1, "b": 2}, labels=("x",))])
    memory.mask("c", label="m")
    memory.encoder.encoded = []
    hands.moment += SECOND
    report = memory.update("c", metadata={"b": 3}, merge=True, labels=["y"], valid_to="2030-01-01")
    assert report.document == memory.get("c")[0]
    assert (report.changed, report.encoded) == (True, 0)
    assert report.document.metadata == {"a": 1, "b": 3}
    assert (report.document.labels, report.document.masks) == (("y",), ("m",))
    assert report.document.updated_at == START + SECOND
    assert memory.count({"b": 3}) == 1
    again = memory.update("c", labels=("y",))
    assert not again.changed
    assert again.document.version == report.document.version
    assert memory.update("c", text="dog now").encoded == 1
    memory.unmask()
    assert memory.search("dog now", k=1)[0].text == "dog now"
    assert memory.get("c")[0].metadata == {"a": 1, "b": 3}
    with pytest.raises(NotFoundError, match="no document 'nobody'"):
        memory.update("nobody", text="x")
    with pytest.raises(InvalidDocumentError, match="empty"):
        memory.update("c", text=" ")
    assert memory.verify().problems == ()


def test_only_the_version_that_was_seen_is_changed(memory):
    memory.add([Document("cat", id="c")])
    seen = memory.get("c")[0].version
    memory.update("c", metadata={"n": 1}, if_version=seen)
    for change in ({"metadata": {"n": 2}}, {"text": "dog"}, {"expires_at": None}):
        with pytest.raises(VersionConflictError, match=f"expected {seen}"):
            memory.update("c", if_version=seen, **change)
    assert memory.get("c")[0].metadata == {"n": 1}
    memory.remove("c")
    memory.add([Document("cat", id="c")])
    with pytest.raises(VersionConflictError):
        memory.update("c", text="dog", if_version=seen)


def test_writers_who_compare_and_set_lose_nothing(memory):
    memory.add([Document("cat", id="c", metadata={"n": 0})])

    def count_up() -> None:
        done = 0
        while done < 10:
            stored = memory.get("c")[0]
            try:
                memory.update("c", metadata={"n": stored.metadata["n"] + 1}, if_version=stored.version)
                done += 1
            except VersionConflictError:
                continue

    threads = [threading.Thread(target=count_up) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert memory.get("c")[0].metadata == {"n": 40}


# -- lists, counts, edits below a prefix


def test_documents_in_an_order_page_by_page(memory, hands):
    for n, name in enumerate(["b", "d", "a", "c"]):
        hands.moment = START + n * SECOND
        where = ("left",) if n % 2 else ("right",)
        memory.add([Document("cat", id=name, valid_from=START - n * SECOND if n else None)], namespace=where)

    def listed(**options) -> str:
        return "".join(one.id for one in memory.documents(prefix=True, **options))

    assert listed() == "dcba"
    assert listed(order="id") == "abcd"
    assert listed(order="-created_at") == "cadb"
    assert listed(order="valid_from") == "cadb"
    assert listed(order="-valid_from") == "dacb"
    assert listed(order="id", limit=2, offset=1) == "bc"
    assert listed(limit=2, offset=1) == "cb"
    assert listed(limit=0) == ""
    memory.mask("a", namespace="right")
    assert listed(masked=True) == "a"
    assert memory.count(prefix=True) == 4
    assert memory.count(prefix=True, masked=False) == 3
    assert memory.count(namespace="right") == 2
    memory.add(cats(3), namespace="left")
    assert [one.id for one in memory.documents(namespace="left", order="-created_at")][:3] == [
        "c2",
        "c1",
        "c0",
    ]
    with pytest.raises(InvalidInputError, match="unknown order"):
        memory.documents(order="age")
    with pytest.raises(InvalidInputError, match="limit"):
        memory.documents(limit=-1)


def test_edits_reach_every_namespace_below_a_prefix(memory):
    for user in ("ann", "bob"):
        memory.add(cats(2, metadata={"user": user}), namespace=("users", user))
    memory.add(cats(1), namespace="users2")
    assert memory.mask("c0", namespace="users", prefix=True).documents == 2
    assert memory.unmask(filter={"user": "ann"}, namespace="users", prefix=True).documents == 1
    assert memory.unmask(namespace="users", prefix=True).documents == 1
    with pytest.raises(NotFoundError, match="below"):
        memory.mask("nobody", namespace="users", prefix=True)
    report = memory.remove(["c0", "nobody"], namespace="users", prefix=True)
    assert (report.documents, report.missing) == (2, ("nobody",))
    assert memory.remove(filter={}, namespace="users", prefix=True).documents == 2
    assert memory.namespaces() == [("users2",)]
    assert memory.verify().problems == ()


def test_a_batch_is_kept_whole_or_not_at_all(memory):
    memory.add(cats(2), namespace="a")
    with memory.batch() as batch:
        batch.remove("c0", namespace="a")
        batch.add([Document("cat number 0", id="c0", metadata={"again": True})], namespace="a")
        batch.add(cats(1), namespace=("b", "c"))
        batch.update("c1", valid_to="2030-01-01", namespace="a")
        batch.mask("c1", label="superseded", namespace="a")
    assert [type(one).__name__ for one in batch.reports] == [
        "RemoveReport", "AddReport", "AddReport", "UpdateReport", "MaskReport",
    ]  # fmt: skip
    assert batch.reports[0].erased
    assert memory.get("c0", namespace="a")[0].metadata == {"again": True}
    assert memory.count(prefix=True) == 3
    before = [one.to_dict() for one in memory.documents(prefix=True)]
    batch = memory.batch()
    batch.remove(filter={}, prefix=True)
    batch.add([Document("new", id="new")])
    batch.mask("nobody")
    with pytest.raises(NotFoundError):
        batch.__exit__(None)
    with suppress(ZeroDivisionError), memory.batch() as batch:
        batch.remove(filter={}, prefix=True)
        raise ZeroDivisionError
    assert [one.to_dict() for one in memory.documents(prefix=True)] == before
    with pytest.raises(InvalidInputError, match="has been written"):
        batch.add(cats(1))
    assert memory.verify().problems == ()


async def test_a_batch_in_an_event_loop(memory):
    async with memory.batch() as batch:
        batch.add(cats(3))
    assert batch.reports[0].added == 3
    assert await memory.acount() == 3
    assert (await memory.aupdate("c0", text="dog")).changed


def test_a_batch_adds_only_what_is_still_new(memory):
    memory.add([Document("cat one", id="one", metadata={"place": 1})], namespace="a")
    for options in ({"new": True}, {"unless": {"place": 1}}):
        batch = memory.batch()
        batch.add([Document("cat two", id="two")], namespace="a")
        batch.add([Document("cat anew", id="one")], namespace="a", **options)
        with pytest.raises(VersionConflictError, match="meanwhile"):
            batch.__exit__(None)
        assert [one.text for one in memory.documents(namespace="a")] == ["cat one"]
    with memory.batch() as batch:
        batch.add([Document("cat two", id="one")], namespace="b", new=True, unless={"place": 1})
    assert memory.count(prefix=True) == 2


def test_a_batch_embeds_a_text_once(memory):
    encoder = memory.encoder
    encoder.encoded.clear()
    with memory.batch() as batch:
        vectors = batch.embed(["cat one", "cat two"], namespace="a")
        assert batch.embed([], namespace="a").shape == (0, encoder.dim)
        batch.add([Document("cat one", id="one"), Document("cat three", id="three")], namespace="a")
        batch.add([Document("cat one", id="one")], namespace="b")
    assert encoder.encoded == ["cat one", "cat two", "cat three", "cat one"]
    np.testing.assert_allclose(vectors, encoder.encode_documents(["cat one", "cat two"])[0], atol=1e-3)
    with memory.batch() as batch:
        batch.embed(["cat one"], namespace="a")  # is read from the file
    assert encoder.encoded[4:] == ["cat one", "cat two"]


def test_a_reader_has_no_batch_and_no_sweep(memory, tmp_path):
    with MemoryIndex.open(memory.path, encoder=ToyEncoder(), read_only=True) as reader:
        for call in (reader.batch, reader.sweep, lambda: reader.update("c", text="x")):
            with pytest.raises(ReadOnlyStoreError):
                call()


# -- searching by time


@pytest.fixture
def moved(memory, hands):
    """Ann moved from Oslo to Rome in 2023."""
    memory.add(
        [
            Document("cat lives in Oslo", id="old", valid_from="2020-01-01", valid_to="2023-01-01"),
            Document("cat lives in Rome", id="new", valid_from="2023-01-01"),
            Document("cat is a friend", id="friend"),
        ]
    )
    memory.mask("old", label="superseded")
    return memory


@pytest.mark.parametrize("options", [{}, {"exact": True}, {"mode": "flat"}], ids=str)
def test_what_held_then(moved, options):
    assert found_in(moved, **options) == {"new", "friend"}
    assert found_in(moved, as_of="2021-06-01", **options) == {"old"}
    assert found_in(moved, as_of=datetime(2023, 1, 1, tzinfo=timezone.utc), **options) == {"new"}
    assert found_in(moved, as_of=START, **options) == {"new", "friend"}
    assert found_in(moved, since="2023-01-01", **options) == {"new", "friend"}
    assert found_in(moved, since=START, **options) == {"friend"}
    assert found_in(moved, include_masked=["superseded"], **options) == {"old", "new", "friend"}
    moved.mask("old", label="draft")
    assert found_in(moved, include_masked=["superseded"], **options) == {"new", "friend"}


def test_masks_are_looked_through_after_edits_too(moved):
    """Blocks that changed leave stale rows in the image; none of them comes back."""
    moved.search("cat", include_masked=["superseded"])
    for _ in range(3):
        moved.update("new", text="cat lives in Rome, still")
        moved.add([Document("cat comes", id="extra")])
        hits = moved.search("cat", k=9, include_masked=["superseded"])
        assert sorted(hit.document_id for hit in hits) == ["extra", "friend", "new", "old"]
        moved.remove("extra")
    moved.mask(filter={}, label="superseded")
    assert found_in(moved) == set()
    assert found_in(moved, include_masked=["superseded"]) == {"old", "new", "friend"}
    with pytest.raises(InvalidInputError, match="walk"):
        moved.search("cat", mode="beam", include_masked=["superseded"])


@pytest.mark.parametrize("mode", ["beam", "flat", "exact"])
def test_recency_is_evidence(memory, hands, mode):
    day = timedelta(days=1)
    memory.add([Document("cat sleeps", id=f"d{n}", valid_from=START - n * day) for n in range(4)])
    plain = {hit.document_id: hit for hit in memory.search("cat", mode=mode)}
    recent = memory.search("cat", mode=mode, recency=Recency(day, weight=0.5))
    assert [hit.document_id for hit in recent] == ["d0", "d1", "d2", "d3"]
    for n, hit in enumerate(recent):
        assert hit.score == pytest.approx(plain[hit.document_id].score + 0.5 * 0.5**n)
        assert hit.relevance == plain[hit.document_id].relevance
    assert [hit.document_id for hit in memory.search("cat", mode=mode, recency=day)] == [
        "d0",
        "d1",
        "d2",
        "d3",
    ]


@pytest.mark.parametrize("bad", ["a day", True, -1, 0, float("nan")])
def test_what_is_no_half_life_is_refused(memory, bad):
    with pytest.raises((InvalidTypeError, InvalidInputError), match="recency"):
        memory.search("cat", recency=bad)


def test_the_text_around_a_hit(memory):
    text = " ".join(f"word{n}" for n in range(600))
    memory.add([Document(text, id="long"), *cats(2)])
    (hit,) = memory.search("word300", k=1, neighbours=1)
    assert hit.before
    assert hit.after
    whole = hit.before + hit.text + hit.after
    assert text[hit.start - len(hit.before) : hit.end + len(hit.after)] == whole
    (plain,) = memory.search("word300", k=1)
    assert (plain.before, plain.after, plain.text) == ("", "", hit.text)
    (everything, *others) = memory.search("word300", k=50, neighbours=1, merge=True)
    assert (everything.text, everything.start, everything.end) == (text, 0, len(text))
    assert ids(others) == {"c0", "c1"}
