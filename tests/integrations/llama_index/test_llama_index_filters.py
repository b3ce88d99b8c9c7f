"""Every filter operator and condition against LlamaIndex's own reference, on the memory itself."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from llama_index.core.vector_stores.utils import build_metadata_filter_fn
from llama_index_mllm.filters import memory_filter

from mllm_plugin import Document, FilterError, MemoryIndex

ROWS: list[dict[str, Any]] = [
    {"year": 2019, "price": 1.5, "name": "Ada Lovelace", "tags": ["a", "b"]},
    {"year": 2020, "price": 2, "name": "ada", "tags": ["b"]},
    {"year": 2021, "price": -3.0, "name": "Grace", "tags": []},
    {"year": 2020, "price": 1e9, "name": "", "tags": ["a", "b", "c"]},
    {"year": None, "name": None, "tags": None},
    {},
    {"name": "Übersicht 100%_x", "tags": ["A"], "year": -1},
    {"read": True, "tags": [True, "a"]},
    {"read": False, "tags": [False]},
    {"read": 1, "tags": [1, 0]},
    {"read": 0.0},
    {"read": 2},
]
NUMBERS = [2019, 2020, 2020.0, 2020.5, -1, 0]
STRINGS = ["ada", "Ada Lovelace", "", "Grace", "a", "100%_", "ü", "Ü"]
LISTS = [["a"], ["b", "c"], ["z"], ["a", "b", "c"]]

Op = FilterOperator
CASES = [
    *itertools.product(["year"], [Op.EQ, Op.NE, Op.GT, Op.GTE, Op.LT, Op.LTE], NUMBERS),
    *itertools.product(["price"], [Op.EQ, Op.NE, Op.GT, Op.GTE, Op.LT, Op.LTE], [2, 1.5, -3, 1e9]),
    *itertools.product(["name"], [Op.EQ, Op.NE, Op.GT, Op.GTE, Op.LT, Op.LTE, Op.TEXT_MATCH], STRINGS),
    *itertools.product(["year"], [Op.IN, Op.NIN], [[2019, 2020], [7], [2020.0]]),
    *itertools.product(["name"], [Op.IN, Op.NIN], [["ada", "Grace"], [""], ["none"]]),
    *itertools.product(["tags"], [Op.ANY, Op.ALL], LISTS),
    *itertools.product(["tags"], [Op.CONTAINS], ["a", "b", "A", "z"]),
    *itertools.product(["year", "name", "tags", "price", "missing"], [Op.IS_EMPTY], [None]),
    *itertools.product(["read"], [Op.EQ, Op.NE, Op.GT, Op.GTE, Op.LT, Op.LTE], [1, 0, 1.0, 0.5, -1, 2]),
    *itertools.product(["read"], [Op.IN, Op.NIN], [[1], [0, 7], [2], [0.0, 1.0]]),
    *itertools.product(["tags"], [Op.ANY, Op.ALL], [[1], [1, 0], [0.0], [5]]),
    *itertools.product(["tags"], [Op.CONTAINS], [1, 0, 5]),
]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> MemoryIndex:
    from mllm_plugin.encoders import VectorsOnly

    path = tmp_path_factory.mktemp("filters") / "memory"
    with MemoryIndex.open(path, encoder=VectorsOnly(2)) as memory:
        documents = [Document("text", id=str(row), metadata=metadata) for row, metadata in enumerate(ROWS)]
        memory.add(documents, embeddings=[[1.0, 0.0]] * len(ROWS))
        yield memory


def found(memory: MemoryIndex, filters: MetadataFilters) -> set[int]:
    condition = memory_filter(filters)
    listed = {int(document.id) for document in memory.documents(filter=condition)}
    searched = {int(hit.document_id) for hit in memory.search([1.0, 0.0], k=len(ROWS), filter=condition)}
    assert searched == listed
    return listed


def expected(filters: MetadataFilters) -> set[int]:
    return {row for row, metadata in enumerate(ROWS) if holds(filters, metadata)}


def holds(filters: MetadataFilters, metadata: dict[str, Any]) -> bool:
    """LlamaIndex's reference knows no nesting: groups are joined here, single conditions there."""
    parts = [
        holds(part, metadata)
        if isinstance(part, MetadataFilters)
        else build_metadata_filter_fn(lambda _: metadata, MetadataFilters(filters=[part]))("")
        for part in filters.filters
    ]
    if not parts:
        return True
    if filters.condition == FilterCondition.NOT:
        return not any(parts)
    return any(parts) if filters.condition == FilterCondition.OR else all(parts)


@pytest.mark.parametrize(
    ("key", "operator", "value"), CASES, ids=lambda part: part.name if isinstance(part, Op) else str(part)
)
def test_operator(rows: MemoryIndex, key: str, operator: Op, value: Any) -> None:
    filters = MetadataFilters(filters=[MetadataFilter(key=key, operator=operator, value=value)])
    assert found(rows, filters) == expected(filters)


def test_every_operator_is_mapped_or_refused() -> None:
    assert {case[1] for case in CASES} == set(Op) - {Op.TEXT_MATCH_INSENSITIVE}


conditions = st.sampled_from([*FilterCondition, None])
leaves = st.sampled_from(CASES).map(lambda case: MetadataFilter(key=case[0], operator=case[1], value=case[2]))
groups = st.recursive(
    st.builds(MetadataFilters, filters=st.lists(leaves, max_size=3), condition=conditions),
    lambda inner: st.builds(
        MetadataFilters, filters=st.lists(st.one_of(leaves, inner), max_size=3), condition=conditions
    ),
    max_leaves=6,
)


@given(filters=groups)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nested_groups(rows: MemoryIndex, filters: MetadataFilters) -> None:
    assert found(rows, filters) == expected(filters)


@pytest.mark.parametrize(
    ("operator", "value", "match"),
    [
        (Op.TEXT_MATCH_INSENSITIVE, "x", "no exact counterpart"),
        (Op.EQ, None, "takes a value, got None; use 'is_empty'"),
        (Op.NE, None, "takes a value, got None"),
        (Op.GT, ["a"], "cannot be compared with .* of type list"),
        (Op.IN, "abc", r"\$in on 'key' takes a list"),
        (Op.NIN, 3, r"\$nin on 'key' takes a list"),
        (Op.ANY, "abc", r"\$in on 'key' takes a list"),
        (Op.ALL, "abc", "takes a non-empty list"),
        (Op.ALL, [], "takes a non-empty list"),
        (Op.CONTAINS, ["a"], "takes one value"),
        (Op.TEXT_MATCH, 3, "takes a string, got 3"),
    ],
)
def test_what_cannot_be_mapped_is_refused(rows: MemoryIndex, operator: Op, value: Any, match: str) -> None:
    filters = MetadataFilters(filters=[MetadataFilter(key="key", operator=operator, value=value)])
    with pytest.raises(FilterError, match=match):
        found(rows, filters)


def test_key_that_looks_like_an_operator_is_refused(rows: MemoryIndex) -> None:
    filters = MetadataFilters(filters=[MetadataFilter(key="$where", value="1")])
    with pytest.raises(FilterError, match="unknown filter operator"):
        found(rows, filters)


def test_long_lists(rows: MemoryIndex) -> None:
    """Access lists of thousands of ids are common."""
    many = [*range(5000), 2020]
    filters = MetadataFilters(filters=[MetadataFilter(key="year", operator=Op.IN, value=many)])
    assert found(rows, filters) == expected(filters)


def test_a_memory_filter_passes_unchanged() -> None:
    assert memory_filter({"year": 2020}) == {"year": 2020}
    assert memory_filter(None) is None
