"""Metadata nested too deeply stays out; what an earlier release let in can be read, changed and removed."""

from __future__ import annotations

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mllm_plugin import Document, FilterError, InvalidDocumentError, MemoryIndex
from mllm_plugin.store import values
from mllm_plugin.store.values import MOST_NESTED, flatten, metadata_json, parsed_metadata, postings
from tests.helpers.toy import ToyEncoder

DEEP = 970  # what Python's JSON writer still takes


def objects(depth: int) -> dict:
    """`depth` objects in one another, with a word at the bottom."""
    value: object = "bottom"
    for _ in range(depth):
        value = {"a": value}
    return value  # type: ignore[return-value]


def lists(depth: int) -> dict:
    value: object = "bottom"
    for _ in range(depth - 1):
        value = [value]
    return {"a": value}


def depth_of(value: object) -> int:
    depth = 0
    while isinstance(value, dict):
        depth, value = depth + 1, value.get("a")
    return depth


@pytest.mark.parametrize("shape", [objects, lists])
def test_the_limit_is_64(shape):
    assert json.loads(metadata_json(shape(MOST_NESTED))) == shape(MOST_NESTED)
    for depth in (MOST_NESTED + 1, DEEP, 20_000):
        with pytest.raises(InvalidDocumentError, match="nested more than 64 deep"):
            metadata_json(shape(depth))


def test_what_lies_at_the_limit_is_found(memory):
    memory.add([Document("deep down", id="deep", metadata=objects(MOST_NESTED)), Document("flat", id="flat")])
    key = ".".join(["a"] * MOST_NESTED)
    assert [hit.document_id for hit in memory.search("down", filter={key: "bottom"})] == ["deep"]


@pytest.mark.parametrize("word", ["$and", "$not"])
def test_filters_have_the_same_limit(memory, word):
    memory.add([Document("text", id="a", metadata={"n": 1})])

    def condition(depth: int) -> dict:
        found: dict = {"n": 1}
        for _ in range(depth):
            found = {word: [found]} if word == "$and" else {word: found}
        return found

    assert len(memory.search("text", filter=condition(30))) == 1
    for depth in (MOST_NESTED, 400, 20_000):
        with pytest.raises(FilterError, match="more than 64 deep"):
            memory.search("text", filter=condition(depth))


@pytest.fixture
def poisoned(tmp_path, monkeypatch):
    """A memory with a document that a release without the limit wrote."""
    sys_limit = sys.getrecursionlimit()
    with monkeypatch.context() as unlimited:
        unlimited.setattr(values, "MOST_NESTED", 10_000)
        sys.setrecursionlimit(10_000)
        with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder()) as memory:
            memory.add(
                [Document("poison text", id="poison", metadata=objects(5 * DEEP)), Document("fine", id="b")]
            )
        sys.setrecursionlimit(sys_limit)
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder()) as memory:
        yield memory


def test_a_deep_document_can_be_read_searched_filtered_and_verified(poisoned):
    assert depth_of(poisoned.get("poison")[0].metadata) == 5 * DEEP
    assert [depth_of(one.metadata) for one in poisoned.documents()] == [5 * DEEP, 1]
    assert [hit.document_id for hit in poisoned.search("poison", k=1)] == ["poison"]
    assert poisoned.search("poison", filter={"a": {"$contains": "x" * 300}}) == []
    assert depth_of(next(poisoned.export())["metadata"]) == 5 * DEEP
    assert poisoned.verify().problems == ()


def test_a_deep_document_can_be_replaced(poisoned):
    assert poisoned.add([Document("poison text", id="poison", metadata={"a": 1})]).updated == 1
    assert poisoned.get("poison")[0].metadata == {"a": 1}
    assert poisoned.verify().problems == ()


def test_a_deep_document_can_be_removed(poisoned):
    assert poisoned.remove("poison").erased
    assert poisoned.verify().problems == ()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_the_parser_without_recursion_reads_what_the_other_one_reads(metadata):
    try:
        written = metadata_json(metadata)
    except InvalidDocumentError:
        return
    assert values._parsed_iteratively(written) == json.loads(written) == parsed_metadata(written)
    assert {key for key, _ in flatten("", metadata)} == {posting.key for posting in postings(metadata)}
