"""Compiled filters against a plain Python reading of their definition."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mllm_plugin import Document, FilterError, MemoryIndex
from mllm_plugin.store.filters import compile_filter, plain_filter
from tests.helpers.toy import ToyEncoder

_LONG = "long " * 60
_KEYS = ["year", "lang", "tags", "deep.key", "flag", "none"]
_VALUES = st.sampled_from([0, 1, 1.5, 2024, True, False, "en", "de", "e", "a", "b", _LONG, None])
_ORDER = {"$gt": operator.gt, "$gte": operator.ge, "$lt": operator.lt, "$lte": operator.le}

_DOCUMENTS = [
    {},
    {"year": 2024, "lang": "en", "tags": ["a", "b"]},
    {"year": 1, "lang": "de", "flag": True, "none": None},
    {"year": 1.5, "tags": [], "deep": {"key": "en"}},
    {"year": True, "lang": "a", "tags": ["b", 1], "flag": False},
    {"year": "2024", "lang": _LONG, "deep": {"key": [0, {"more": 1}]}},
    {"lang": _LONG + "x", "flag": 1, "tags": [_LONG]},
]


def _values(metadata: dict, key: str) -> list:
    found = metadata
    for part in key.split("."):
        if isinstance(found, list):
            found = next((one for one in found if isinstance(one, dict)), {})
        found = found.get(part, []) if isinstance(found, dict) else []
    flat = found if isinstance(found, list) else [found]
    return [one for one in flat if not isinstance(one, dict)]


def _same(left, right) -> bool:
    return left == right and isinstance(left, bool) == isinstance(right, bool)


def matches(metadata: dict, condition: dict) -> bool:
    """The definition of a filter, as docs/how-to.md gives it."""
    for key, wanted in condition.items():
        if key == "$and":
            found = all(matches(metadata, part) for part in wanted)
        elif key == "$or":
            found = any(matches(metadata, part) for part in wanted)
        elif key == "$not":
            found = not matches(metadata, wanted)
        else:
            conditions = wanted if isinstance(wanted, dict) else {"$eq": wanted}
            found = all(_holds(_values(metadata, key), name, operand) for name, operand in conditions.items())
        if not found:
            return False
    return True


def _holds(values: list, name: str, operand) -> bool:
    if name == "$eq":
        return any(_same(value, operand) for value in values) or (operand is None and not values)
    if name == "$ne":
        return not _holds(values, "$eq", operand)
    if name == "$in":
        return any(_holds(values, "$eq", one) for one in operand)
    if name == "$nin":
        return not _holds(values, "$in", operand)
    if name == "$exists":
        return bool(values) == operand
    if name == "$contains":
        if isinstance(operand, str):
            return any(isinstance(value, str) and operand in value for value in values)
        return _holds(values, "$eq", operand)
    kinds = str if isinstance(operand, str) else (int, float)
    fit = [value for value in values if isinstance(value, kinds) and not isinstance(value, bool)]
    return any(_ORDER[name](value, operand) for value in fit)


_NUMBERS_AND_STRINGS = _VALUES.filter(lambda value: value is not None and not isinstance(value, bool))
_OPERATIONS = st.one_of(
    st.tuples(st.sampled_from(["$eq", "$ne", "$contains"]), _VALUES),
    st.tuples(st.sampled_from(list(_ORDER)), _NUMBERS_AND_STRINGS),
    st.tuples(st.sampled_from(["$in", "$nin"]), st.lists(_VALUES, max_size=3)),
    st.tuples(st.just("$exists"), st.booleans()),
).map(lambda pair: dict([pair]))
_LEAVES = st.dictionaries(st.sampled_from(_KEYS), _OPERATIONS | _VALUES, min_size=1, max_size=2)
_FILTERS = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"$and": parts}),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"$or": parts}),
        inner.map(lambda part: {"$not": part}),
    ),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    from tests.helpers.toy import ToyEncoder

    folder = tmp_path_factory.mktemp("filters")
    with MemoryIndex.open(folder, encoder=ToyEncoder()) as memory:
        memory.add([Document(f"text {n}", id=str(n), metadata=one) for n, one in enumerate(_DOCUMENTS)])
        yield memory


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(condition=_FILTERS)
def test_filters_mean_what_they_say(library, condition):
    expected = [str(n) for n, one in enumerate(_DOCUMENTS) if matches(one, condition)]
    assert [one.id for one in library.documents(filter=condition)] == expected
    found = {hit.document_id for hit in library.search("text", k=50, filter=condition)}
    assert found == set(expected)


_EDGES = [2**53, 2**63, 2**64, 2**70, 10**30, 2**1000]
_NEIGHBOURS = sorted({sign * (edge + step) for edge in _EDGES for step in range(-2, 3) for sign in (1, -1)})
_NUMBERS = [*_NEIGHBOURS, *(float(number) for number in _NEIGHBOURS), 0, 0.5, float("inf"), float("-inf")]
_FINITE = [number for number in _NUMBERS if abs(number) != float("inf")]


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    """A document per number, and lists of neighbours, whose postings are the same float."""
    from tests.helpers.toy import ToyEncoder

    values = [
        *_FINITE,
        *([left, right] for left, right in pairwise(_NEIGHBOURS)),
        "18446744073709551615",
        True,
    ]
    with MemoryIndex.open(tmp_path_factory.mktemp("numbers"), encoder=ToyEncoder()) as memory:
        memory.add([Document(f"text {n}", id=str(n), metadata={"n": one}) for n, one in enumerate(values)])
        yield memory, values


@settings(deadline=None, max_examples=150)
@given(
    name=st.sampled_from(["$eq", "$ne", "$contains", *_ORDER, "$in", "$nin"]),
    operands=st.lists(st.sampled_from(_NUMBERS), min_size=1, max_size=4),
)
def test_numbers_compare_exactly(numbers, name, operands):
    """Integers beyond 64 bits too, also beside floats: postings round them, and neighbours must not match."""
    memory, values = numbers
    condition = {"n": {name: operands if name in ("$in", "$nin") else operands[0]}}
    expected = [str(n) for n, one in enumerate(values) if matches({"n": one}, condition)]
    assert [one.id for one in memory.documents(filter=condition)] == expected
    assert {hit.document_id for hit in memory.search("text", k=500, filter=condition)} == set(expected)


@pytest.mark.parametrize("user", [2**64 - 2, -(2**63), -(2**63) - 1, 2**63])
def test_mask_and_remove_take_one_of_two_neighbours(memory, user):
    users = [user - 1, user, user + 1]
    memory.add(Document(f"notes of {one}", id=str(one), metadata={"user": one}) for one in users)
    assert memory.mask(filter={"user": user}).documents == 1
    assert [one.id for one in memory.documents() if one.masks] == [str(user)]
    assert memory.remove(filter={"user": user}).documents == 1
    assert memory.remove(filter={"user": {"$gt": user}}).documents == 1
    assert [one.id for one in memory.documents()] == [str(user - 1)]
    assert memory.verify().ok


def test_thousands_of_values_are_one_lookup(library):
    many = [f"value{number}" for number in range(20_000)]
    assert [one.id for one in library.documents(filter={"lang": {"$in": [*many, "en"]}})] == ["1"]


def test_thousands_of_long_numbers_are_one_lookup(numbers):
    memory, values = numbers
    many = [2**64 + 3 + number for number in range(20_000)]
    found = memory.documents(filter={"n": {"$in": [*many, 2**64 + 1]}})
    assert [values[int(one.id)] for one in found] == [2**64 + 1, [2**64, 2**64 + 1], [2**64 + 1, 2**64 + 2]]


@pytest.mark.parametrize(
    "condition",
    [
        {"year": {"$near": 1}},
        {"$xor": []},
        {"$and": []},
        {"$or": {"a": 1}},
        {"$not": 3},
        {"year": {"$gt": None}},
        {"year": {"$gt": True}},
        {"year": {"$in": "en"}},
        {"year": {"$in": [[1]]}},
        {"year": {"$exists": 1}},
        {"tags": {"$eq": [["a"]]}},
        {"tags": {"$gt": ["a"]}},
        {"year": {"$gt": datetime(2024, 1, 1)}},
        {"year": float("nan")},
        {"year": 10**400},
        {"year": {"$in": [1, {2}]}},
        "year",
    ],
    ids=str,
)
def test_malformed_filters_are_refused(library, condition):
    with pytest.raises(FilterError):
        library.search("text", filter=condition)


def test_an_unfit_value_is_named_with_its_key(library):
    for operand in (time(1), {"$gt": time(1)}, {"$in": [1, time(1)]}):
        with pytest.raises(FilterError, match=r"'year' cannot .* datetime\.time: use value\.isoformat\(\)"):
            library.search("text", filter={"lang": "en", "year": operand})


LISTS = [
    ["a", "b"],
    ["b", "a"],
    ["a"],
    [],
    "a",
    [1, True],
    [1.0, True],
    [True, 1],
    [None],
    [["a", "b"]],
    [_LONG],
]


def _same(one, other) -> bool:
    """As JSON tells values apart: neither true and 1, nor a list and another order of it."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and type(one) in _like(other) and one == other


def _like(value) -> tuple[type, ...]:
    return (int, float) if type(value) in (int, float) else (type(value),)


@pytest.mark.parametrize(
    "wanted", [one for one in LISTS if isinstance(one, list) and one != [["a", "b"]]], ids=str
)
def test_a_list_equals_the_list_of_just_these_values(tmp_path, wanted):
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder()) as memory:
        memory.add(
            Document("text", id=f"{n}", metadata={"a": {"deep": value}}) for n, value in enumerate(LISTS)
        )
        expected = [
            str(n) for n, value in enumerate(LISTS) if isinstance(value, list) and _same(value, wanted)
        ]
        if wanted == ["a", "b"]:
            expected.append(str(LISTS.index([["a", "b"]])))  # any element of a list may be what matches
        for condition in (wanted, {"$eq": wanted}):
            assert [one.id for one in memory.documents(filter={"a.deep": condition})] == expected
        others = [one.id for one in memory.documents(filter={"a.deep": {"$ne": wanted}})]
        assert others == [str(n) for n in range(len(LISTS)) if str(n) not in expected]
        hits = memory.search("text", k=20, filter={"a.deep": {"$eq": wanted}})
        assert sorted(hit.document_id for hit in hits) == sorted(expected)


_OSLO = timezone(timedelta(hours=1))
MOMENTS = {
    "utc": datetime(2024, 5, 1, tzinfo=timezone.utc),
    "oslo": datetime(2024, 5, 1, 1, tzinfo=_OSLO),
    "text": "2024-05-01T00:00:00Z",
    "day": date(2024, 5, 1),
    "late": datetime(2024, 5, 1, 0, 0, 1, tzinfo=_OSLO) + timedelta(hours=3),
    "none": "2024-05-01T00:00:00",
    "word": "2024-05-xx",
    "number": 1714521600,
}
_FIRST = {"utc", "oslo", "text", "day"}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (MOMENTS["utc"], _FIRST),
        ({"$eq": MOMENTS["oslo"]}, _FIRST),
        ({"$gt": MOMENTS["utc"]}, {"late"}),
        ({"$gte": date(2024, 5, 1)}, _FIRST | {"late"}),
        ({"$lt": MOMENTS["late"]}, _FIRST),
        ({"$lte": MOMENTS["oslo"]}, _FIRST),
        ({"$in": [date(2024, 5, 1), 1714521600]}, _FIRST | {"number"}),
        ({"$nin": [MOMENTS["utc"]]}, MOMENTS.keys() - _FIRST),
        ({"$ne": date(2024, 5, 1)}, MOMENTS.keys() - _FIRST),
        ({"$in": [None, date(2024, 5, 1)]}, _FIRST),
        ({"$not": {"$gt": date(2024, 5, 1)}}, MOMENTS.keys() - {"late"}),
        ("2024-05-01T00:00:00Z", {"text"}),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),
)
def test_moments_compare_as_such_however_they_are_written(tmp_path, condition, expected):
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder()) as memory:
        memory.add(Document("text", id=name, metadata={"at": value}) for name, value in MOMENTS.items())
        assert {one.id for one in memory.documents(filter={"at": condition})} == set(expected)
        assert {hit.document_id for hit in memory.search("text", k=20, filter={"at": condition})} == set(
            expected
        )
        assert memory.get("late")[0].metadata == {"at": MOMENTS["late"].isoformat()}
        assert memory.verify().problems == ()


class Sly(str):
    """A string that claims to be like every other."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'sly'"

    def __str__(self) -> str:
        return "sly"

    def __eq__(self, other) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


class Opaque(Mapping):
    """A dictionary without a repr of its own, which may change after it was looked at."""

    def __init__(self, *states: dict) -> None:
        self._states = list(states)

    def __getitem__(self, key):
        return self._states[0][key]

    def __iter__(self):
        return iter(self._states[0])

    def __len__(self) -> int:
        return len(self._states[0])

    def items(self):
        return (self._states.pop(0) if len(self._states) > 1 else self._states[0]).items()

    def __repr__(self) -> str:
        return "Opaque()"


@pytest.fixture
def tenants(memory):
    memory.add(
        Document(f"the code of {name}", id=name, metadata={"tenant": name, "size": n}, labels=(name,))
        for n, name in enumerate(["ann", "bob", "eve"])
    )
    return memory


@pytest.mark.parametrize("mode", ["flat", "beam", "exact"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda name: {"tenant": Sly(name)},
        lambda name: {"tenant": {"$in": [Sly(name)]}},
        lambda name: {Sly("tenant"): {Sly("$eq"): Sly(name)}},
        lambda name: Opaque({"tenant": name}),
        lambda name: {"$and": [Opaque({"tenant": Opaque({"$eq": name})})]},
        lambda name: {"$not": Opaque({"tenant": {"$ne": name}})},
    ],
    ids=["value", "list", "keys", "mapping", "inner", "negated"],
)
def test_a_filter_is_what_it_asks_and_not_what_it_says_of_itself(tenants, wrap, mode):
    for name in ("ann", "bob", "eve", "ann"):
        found = tenants.search("the code", k=3, filter=wrap(name), mode=mode)
        assert [hit.document_id for hit in found] == [name]


def test_labels_are_told_by_their_letters(tenants):
    for name in ("ann", "bob"):
        found = tenants.search("the code", k=3, exclude_labels=[Sly(name)])
        assert name not in {hit.document_id for hit in found}
        assert len(found) == 2


def test_what_was_checked_is_what_is_searched(tenants):
    shifting = Opaque({"tenant": "ann"}, {})
    assert [hit.document_id for hit in tenants.search("the code", k=3, filter=shifting)] == ["ann"]


def test_equal_numbers_of_other_kinds_are_other_filters(memory):
    memory.add(Document(f"text {n}", id=str(n), metadata={"n": one}) for n, one in enumerate([1, True, "1"]))
    for _ in range(2):
        for number, expected in ((1, "0"), (True, "1"), ("1", "2"), (1.0, "0")):
            assert [hit.document_id for hit in memory.search("text", filter={"n": number})] == [expected]


def test_namespaces_are_told_by_their_letters(memory):
    for name in ("ann", "bob"):
        memory.add([Document(f"the code of {name}", id=name)], namespace=name)
    for name in ("ann", "bob"):
        assert [hit.document_id for hit in memory.search("the code", namespace=(Sly(name),))] == [name]


def nested(turns: int, wrap) -> dict:
    condition = {"year": 2024}
    for _ in range(turns):
        condition = wrap(condition)
    return condition


@pytest.mark.parametrize(
    ("most", "wrap"),
    [
        (63, lambda inner: {"$not": inner}),
        (31, lambda inner: {"$and": [inner]}),
        (31, lambda inner: {"$or": [{"lang": "xx"}, inner]}),
        (31, lambda inner: {"$and": [{"tags": "a"}, {"lang": "en"}, inner]}),
    ],
    ids=["not", "and", "or", "several"],
)
def test_filters_may_be_nested_64_deep_and_no_deeper(library, most, wrap):
    """Lists count, as they do in metadata."""
    inside = nested(most, wrap)
    expected = [str(n) for n, one in enumerate(_DOCUMENTS) if matches(one, inside)]
    assert [one.id for one in library.documents(filter=inside)] == expected
    assert {hit.document_id for hit in library.search("text", k=9, filter=inside)} == set(expected)
    for turns in (most + 1, 990, 100_000):
        with pytest.raises(FilterError, match="more than 64 deep"):
            library.search("text", filter=nested(turns, wrap))


def test_a_filter_that_holds_itself_or_explodes_is_refused(library):
    endless: dict = {"lang": "en"}
    endless["$and"] = [endless, endless]
    with pytest.raises(FilterError, match="more than 64 deep"):
        library.search("text", filter=endless)
    shared: dict = {"lang": "en"}
    for _ in range(30):
        shared = {"$or": [shared, shared]}
    with pytest.raises(FilterError, match="more than 10000 conditions"):
        library.search("text", filter=shared)


def test_a_key_that_comes_twice_is_refused(library):
    class Other(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other) -> bool:
            return False

    with pytest.raises(FilterError, match="'lang' twice"):
        library.search("text", filter={Other("lang"): "en", "lang": "de"})


class Odd(str):
    """A string that says that it equals everything."""

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return True


def test_a_filter_is_compiled_from_a_plain_copy():
    copied = plain_filter({Odd("lang"): {"$in": (Odd("en"), "de")}})
    assert copied == {"lang": {"$in": ["en", "de"]}}
    assert {type(key) for key in copied} == {str}
    assert {type(value) for value in copied["lang"]["$in"]} == {str}


def test_a_clause_has_a_parameter_for_every_mark():
    condition = {"$or": [{"year": {"$gt": 3, "$lte": 9}}, {"$not": {"lang": {"$in": ["en", "de"]}}}]}
    clause = compile_filter(condition, 7)
    assert clause.sql.count("?") == len(clause.parameters)
    assert clause == compile_filter(condition, 7) != compile_filter(condition, 8)
    assert compile_filter(None, 7) == compile_filter({}, 7) == ("1", ())
