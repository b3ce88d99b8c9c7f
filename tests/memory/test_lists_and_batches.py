"""Documents in an order, edits below a prefix, and batches that are kept whole or not at all."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest

from mllm_plugin import (
    Document,
    InvalidInputError,
    MemoryIndex,
    NotFoundError,
    ReadOnlyStoreError,
    VersionConflictError,
)
from tests.helpers.clock_tools import SECOND, START, cats
from tests.helpers.toy import ToyEncoder


@pytest.fixture
def memory(timed_memory) -> MemoryIndex:
    return timed_memory


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
