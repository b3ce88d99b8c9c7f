"""mem0's filters as filters of the memory."""

from __future__ import annotations

import pytest
from mem0_mllm.filters import condition_of

from mllm_plugin import FilterError
from mllm_plugin.store.filters import compile_filter


@pytest.mark.parametrize(
    "filters",
    [
        {"topic": "food"},
        {"topic": "*"},
        {"year": {"gte": 2020, "lt": 2024}},
        {"AND": [{"topic": "food"}, {"OR": [{"year": 1}, {"NOT": {"user_id": "ann"}}]}]},
    ],
)
def test_every_filter_becomes_one_that_the_memory_takes(filters):
    assert compile_filter(condition_of(filters), 1).parameters


def test_fields_are_looked_up_where_items_have_them():
    (path,) = condition_of({"topic": "food"})
    assert path.endswith(".topic")
    assert condition_of({"topic": "*"})[path] == {"$exists": True}
    with pytest.raises(FilterError, match="Unsupported metadata filter operator"):
        condition_of({"topic": {"almost": 3}})
