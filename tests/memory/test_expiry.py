"""What expires is hidden from that moment on, and swept; in any order of edits."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllm_plugin import (
    Document,
    InvalidInputError,
    MemoryIndex,
    clock,
)
from tests.helpers.clock_tools import SECOND, START, Hands, cats, found_in, ids, nodes
from tests.helpers.file_tools import changing
from tests.helpers.toy import ToyEncoder


@pytest.fixture
def memory(timed_memory) -> MemoryIndex:
    return timed_memory


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
