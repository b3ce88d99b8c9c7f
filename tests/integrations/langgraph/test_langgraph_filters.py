"""LangGraph's filters: looked up in the memory, then compared as LangGraph's own store does."""

from __future__ import annotations

import pytest
from langgraph_mllm.filters import lookup, matches

from mllm_plugin.store.filters import compile_filter

VALUE = {"kind": "note", "at": {"year": 2024, "tags": ["a", "b"]}, "flag": True, "n": float("inf")}


@pytest.mark.parametrize(
    ("condition", "fits"),
    [
        (None, True),
        ({"kind": "note"}, True),
        ({"at": {"year": 2024}}, True),
        ({"at.year": 2024}, True),
        ({"at": {"tags": ["a"]}}, False),
        ({"at": {"tags": ["a", "b"]}}, True),
        ({"flag": 1}, False),
        ({"flag": {"$ne": 1}}, True),
        ({"n": {"$gt": float("1e300")}}, True),
        ({"n": {"$eq": float("inf")}}, True),
        ({"kind": {"a": 1}}, False),
    ],
)
def test_values_are_compared_exactly(condition, fits):
    assert matches(VALUE, condition) is fits
    compile_filter(lookup(condition), 1)


def test_logic_is_left_to_the_memory():
    looked_up = lookup({"$or": [{"kind": "note"}, {"$not": {"at.year": 3}}]})
    text = str(looked_up)
    assert "$or" in text
    assert text.count("kind") == 1
    assert matches(VALUE, {"$or": [{"kind": "other"}]})  # what came from the memory has passed it
    assert lookup({"n": float("nan")}) is None  # JSON has none: nothing can be looked up
