"""Arguments of searches, selections and filters that make no sense: a clear error, and nothing is lost."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest

from mllm_plugin import (
    Document,
    EncoderMismatchError,
    FilterError,
    InvalidInputError,
    InvalidTypeError,
    MemoryConfig,
    MemoryIndex,
    MLLMError,
    NotFoundError,
)
from tests.helpers.robustness_tools import KEPT, unharmed
from tests.helpers.toy import ToyEncoder

SURROGATE = "broken \ud800 half"


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    with MemoryIndex.open(tmp_path_factory.mktemp("empty") / "memory", encoder=ToyEncoder()) as memory:
        yield memory


BAD_SEARCHES = {
    "k-zero": ({"k": 0}, InvalidInputError, "k must be at least 1"),
    "k-negative": ({"k": -3}, InvalidInputError, "k must be at least 1"),
    "k-str": ({"k": "5"}, InvalidTypeError, "k must be an int"),
    "k-float": ({"k": 2.0}, InvalidTypeError, "k must be an int"),
    "k-bool": ({"k": True}, InvalidTypeError, "k must be an int"),
    "k-none": ({"k": None}, InvalidTypeError, "k must be an int"),
    "beam-zero": ({"beam_width": 0}, InvalidInputError, "beam_width must be at least 1"),
    "beam-str": ({"beam_width": "3"}, InvalidTypeError, "beam_width must be an int"),
    "mode-unknown": ({"mode": "fast"}, InvalidInputError, "unknown mode 'fast'; expected one of auto, beam"),
    "mode-none": ({"mode": None}, InvalidInputError, "unknown mode"),
    "namespace-int": ({"namespace": 3}, InvalidTypeError, "namespace"),
    "namespace-none": ({"namespace": None}, InvalidTypeError, "namespace"),
    "namespace-empty-part": ({"namespace": ("a", "")}, InvalidInputError, "namespace"),
    "namespace-separator": ({"namespace": "a\x1fb"}, InvalidInputError, "namespace"),
    "namespace-surrogate": ({"namespace": SURROGATE}, InvalidInputError, "surrogate"),
    "labels-str": ({"exclude_labels": "draft"}, InvalidTypeError, "exclude_labels"),
    "labels-none": ({"exclude_labels": None}, InvalidTypeError, "exclude_labels"),
    "labels-int": ({"exclude_labels": 5}, InvalidTypeError, "exclude_labels"),
    "label-int": ({"exclude_labels": [5]}, InvalidTypeError, "exclude_labels"),
    "label-surrogate": ({"exclude_labels": [SURROGATE]}, InvalidInputError, "surrogate"),
}


@pytest.mark.parametrize(("options", "error", "message"), BAD_SEARCHES.values(), ids=BAD_SEARCHES)
@pytest.mark.parametrize("where", ["shared", "empty"])
def test_search_refuses(request, where, options, error, message):
    memory = request.getfixturevalue(where)
    with pytest.raises(error, match=message):
        memory.search("ships", **options)
    with pytest.raises(error, match=message):
        memory.search_batch(["ships", "kettles"], **options)
    with pytest.raises(error, match=message):
        memory.recall("ships", **options)


BAD_QUERIES = {
    "empty": ("", InvalidInputError, "query is empty"),
    "blank": (" \n", InvalidInputError, "query is empty"),
    "surrogate": (SURROGATE, InvalidInputError, "surrogate"),
    "none": (None, InvalidTypeError, "text or a vector"),
    "int": (7, InvalidTypeError, "text or a vector"),
    "bytes": (b"ships", InvalidTypeError, "text or a vector"),
    "dict": ({"text": "ships"}, InvalidTypeError, "text or a vector"),
    "list-of-str": (["ships"], InvalidTypeError, "text or a vector"),
}


@pytest.mark.parametrize(("query", "error", "message"), BAD_QUERIES.values(), ids=BAD_QUERIES)
@pytest.mark.parametrize("where", ["shared", "empty"])
def test_query_is_refused(request, where, query, error, message):
    memory = request.getfixturevalue(where)
    with pytest.raises(error, match=message):
        memory.search(query)
    with pytest.raises(error, match=message):
        memory.search_batch(["fine", query])
    with pytest.raises(error, match=message):
        memory.recall(query)


@pytest.mark.parametrize("queries", ["ships", None, 5, b"ships"], ids=repr)
def test_search_batch_takes_a_list(shared, queries):
    with pytest.raises(MLLMError):
        shared.search_batch(queries)
    with pytest.raises(MLLMError):
        shared.recall_batch(queries)


@pytest.mark.parametrize("embeddings", [[], [np.ones(16)] * 2, 5], ids=["none", "two", "int"])
def test_search_batch_wants_one_embedding_per_query(shared, embeddings):
    with pytest.raises(MLLMError, match="embedding"):
        shared.search_batch(["ships"], embeddings=embeddings)


def test_empty_batch(shared):
    assert shared.search_batch([]) == []
    assert shared.search_batch([], embeddings=[]) == []


@pytest.mark.parametrize("mode", ["auto", "beam", "flat", "exact"])
@pytest.mark.parametrize("k", [4, 10**6, 10**30])
def test_more_results_than_there_are(shared, mode, k):
    assert len(shared.search("ships", k=k, mode=mode)) == len(KEPT)


@pytest.mark.parametrize("query", ["!!!", "\x00", "\x01 \x1f .", "\ufeff", "🦊", "ﷺ" * 50], ids=ascii)
def test_a_query_without_known_words_is_answered(shared, query):
    assert len(shared.search(query, mode="exact")) == len(KEPT)


# -- filters
# ---------------------------------------------------------------------------------------------------------

BAD_FILTERS = {
    "str": "year",
    "int": 5,
    "list": [{"year": 1}],
    "empty-list": [],
    "empty-str": "",
    "zero": 0,
    "false": False,
    "unknown-top": {"$near": 1},
    "unknown": {"year": {"$near": 1}},
    "operator-without-dollar": {"year": {"gte": 1}},
    "half-operator": {"year": {"$gte": 1, "lte": 2}},
    "empty-operator": {"year": {}},
    "field-operator-on-top": {"$in": [1]},
    "int-operator": {"year": {5: 1}},
    "int-key": {5: 1},
    "none-key": {None: 1},
    "mixed-keys": {"year": 1, 5: 1},
    "and-empty": {"$and": []},
    "and-dict": {"$and": {"year": 1}},
    "and-none": {"$and": None},
    "and-of-none": {"$and": [None]},
    "or-empty": {"$or": []},
    "or-str": {"$or": "ab"},
    "or-of-none": {"$or": [{"year": 1}, None]},
    "or-of-int": {"$or": [5]},
    "not-none": {"$not": None},
    "not-list": {"$not": [{"year": 1}]},
    "not-unknown": {"$not": {"year": {"$near": 1}}},
    "and-in-field": {"year": {"$and": [{"$gt": 1}]}},
    "in-int": {"year": {"$in": 5}},
    "in-str": {"year": {"$in": "abc"}},
    "in-bytes": {"year": {"$in": b"abc"}},
    "in-dict": {"year": {"$in": {"a": 1}}},
    "in-of-lists": {"year": {"$in": [[1]]}},
    "nin-int": {"year": {"$nin": 5}},
    "gt-none": {"year": {"$gt": None}},
    "gt-bool": {"year": {"$gt": True}},
    "gt-list": {"year": {"$gt": [1]}},
    "gt-nan": {"year": {"$gt": float("nan")}},
    "eq-nan": {"year": float("nan")},
    "bare-bytes": {"year": b"1902"},
    "bare-object": {"year": object()},
    "huge-int": {"year": 10**400},
    "exists-int": {"year": {"$exists": 1}},
    "exists-str": {"year": {"$exists": "yes"}},
    "contains-list": {"tags": {"$contains": ["a"]}},
    "surrogate-value": {"tags": SURROGATE},
    "surrogate-key": {SURROGATE: 1},
    "surrogate-in": {"tags": {"$in": ["a", SURROGATE]}},
    "surrogate-contains": {"tags": {"$contains": SURROGATE}},
}
FILTERED_CALLS = {
    "search": lambda memory, condition: memory.search("ships", filter=condition),
    "documents": lambda memory, condition: list(memory.documents(filter=condition)),
    "mask": lambda memory, condition: memory.mask(filter=condition),
    "unmask": lambda memory, condition: memory.unmask(filter=condition),
    "remove": lambda memory, condition: memory.remove(filter=condition),
}


@pytest.mark.parametrize("condition", BAD_FILTERS.values(), ids=BAD_FILTERS)
def test_malformed_filter(shared, condition):
    with unharmed(shared):
        for call in FILTERED_CALLS.values():
            with pytest.raises(FilterError):
                call(shared, condition)


@pytest.mark.parametrize("call", FILTERED_CALLS.values(), ids=FILTERED_CALLS)
def test_malformed_filter_is_refused_by_an_empty_memory_too(empty, call):
    with pytest.raises(FilterError, match="unknown filter operator"):
        call(empty, {"year": {"$near": 1}})


def test_unknown_operator_names_the_known_ones(shared):
    with pytest.raises(FilterError, match=r"unknown filter operator '\$near'; known: \$eq \$ne \$gt"):
        shared.search("ships", filter={"year": {"$near": 1}})


def test_a_cached_filter_does_not_vouch_for_a_malformed_one(shared):
    assert shared.search("ships", filter={"5": 1}) == []
    with pytest.raises(FilterError):
        shared.search("ships", filter={5: 1})
    assert shared.search("ships", filter={"year": {"$in": {1902}}})
    with pytest.raises(FilterError):
        shared.search("ships", filter={"year": {"$in": "{1902}"}})


@pytest.mark.parametrize("size", [10, 1_500, 40_000])
@pytest.mark.parametrize(
    "wide",
    [
        lambda years: {"year": {"$in": years}},
        lambda years: {"$not": {"year": {"$nin": years}}},
        lambda years: {"$or": [{"year": year} for year in years]},
    ],
    ids=["in", "nin", "or"],
)
def test_wide_filters(shared, wide, size):
    """Lists of ids with thousands of entries are everyday filters of access control."""
    condition = wide(list(range(1950, 1950 + size)))
    try:
        found = {hit.document_id for hit in shared.search("ships", filter=condition)}
    except FilterError:
        assert size > 10_000, "a filter of a few thousand values is no misuse"
    else:
        assert found == ({"kettle"} if size == 10 else {"kettle", "fox"})


@pytest.mark.parametrize("size", [1, 1_000, 40_000])
def test_many_excluded_labels(shared, size):
    labels = ["sea", *(f"label{number}" for number in range(size))]
    assert {hit.document_id for hit in shared.search("ships", exclude_labels=labels)} == {"kettle", "fox"}


@pytest.mark.parametrize("depth", [31, 5_000])
def test_deep_filters(shared, depth):
    condition: dict = {"year": 1902}
    for _ in range(2 * depth):
        condition = {"$not": condition}
    try:
        found = [hit.document_id for hit in shared.search("ships", filter=condition)]
    except FilterError:
        assert depth > 31, "63 deep is within the limit"
    else:
        assert found == ["lighthouse"]


# -- selections
# ------------------------------------------------------------------------------------------------------

SELECTING = ("mask", "unmask", "remove")
BAD_SELECTIONS = {
    "ids-int": ({"ids": 5}, InvalidTypeError, "ids"),
    "ids-of-int": ({"ids": [5]}, InvalidTypeError, "ids are strings"),
    "ids-of-none": ({"ids": ["fox", None]}, InvalidTypeError, "ids are strings"),
    "ids-bytes": ({"ids": b"fox"}, InvalidTypeError, "ids are strings"),
    "label-int": ({"label": 5}, InvalidTypeError, "label"),
    "label-list": ({"label": ["sea"]}, InvalidTypeError, "label"),
    "label-surrogate": ({"label": SURROGATE}, InvalidInputError, "surrogate"),
    "ids-and-label-int": ({"ids": ["fox"], "label": 5}, InvalidTypeError, "label"),
    "namespace-int": ({"ids": ["fox"], "namespace": 5}, InvalidTypeError, "namespace"),
    "namespace-surrogate": ({"ids": ["fox"], "namespace": (SURROGATE,)}, InvalidInputError, "surrogate"),
}


@pytest.mark.parametrize(("options", "error", "message"), BAD_SELECTIONS.values(), ids=BAD_SELECTIONS)
@pytest.mark.parametrize("call", SELECTING)
def test_malformed_selection(stocked, call, options, error, message):
    with unharmed(stocked), pytest.raises(error, match=message):
        getattr(stocked, call)(**options)


def test_an_id_that_cannot_exist_is_missing(stocked):
    with unharmed(stocked):
        assert stocked.remove([SURROGATE]).missing == (SURROGATE,)
        for call in (stocked.mask, stocked.unmask):
            with pytest.raises(NotFoundError, match="no document"):
                call([SURROGATE])
    assert [document.id for document in stocked.get([SURROGATE, "", "fox"])] == ["fox"]


@pytest.mark.parametrize("where", ["shared", "empty"])
@pytest.mark.parametrize("call", ["mask", "remove"])
def test_a_selection_of_nothing_in_particular(request, where, call):
    memory = request.getfixturevalue(where)
    with pytest.raises(InvalidInputError, match="say which documents"):
        getattr(memory, call)()


@pytest.mark.parametrize("ids", [5, [5], None, [b"fox"]], ids=repr)
@pytest.mark.parametrize("where", ["shared", "empty"])
def test_get_refuses_what_is_no_id(request, where, ids):
    with pytest.raises((InvalidTypeError, InvalidInputError)):
        request.getfixturevalue(where).get(ids)


@pytest.mark.parametrize("call", ["mask", "unmask"])
@pytest.mark.parametrize("namespace", [(), "elsewhere"], ids=["here", "elsewhere"])
def test_unknown_ids_are_named_and_nothing_is_turned(shared, call, namespace):
    with unharmed(shared), pytest.raises(NotFoundError, match="'nobody'"):
        getattr(shared, call)(["nobody", "fox"] if not namespace else ["nobody"], namespace=namespace)


def test_remove_reports_unknown_ids(stocked):
    report = stocked.remove(["nobody", "fox", "noone", "nobody"])
    assert (report.documents, report.missing) == (1, ("nobody", "noone"))
    assert stocked.remove(["nobody"], namespace="elsewhere").missing == ("nobody",)


@pytest.mark.parametrize("call", SELECTING)
def test_an_empty_list_of_ids_means_nothing(shared, call):
    with unharmed(shared):
        assert getattr(shared, call)([]).documents == 0


def test_mask_without_a_name_keeps_the_books(stocked):
    """`label=None` is what a caller passes who has no label; it must not mask without a mask."""
    with suppress(MLLMError):
        stocked.mask(["fox"], label=None)
    assert stocked.verify().problems == ()
    stocked.unmask(["fox"])
    assert stocked.search("fox crosses the frozen river", k=1)[0].document_id == "fox"


@pytest.mark.parametrize("wait", ["5", None, float("nan"), float("inf"), 1e20], ids=repr)
def test_remove_with_an_odd_wait_is_all_or_nothing(stocked, wait):
    """An error must come before the removal, not after it."""
    try:
        report = stocked.remove(["fox"], wait=wait)
    except MLLMError:
        assert stocked.get(["fox"])
    else:
        assert report.erased
    assert stocked.verify().problems == ()


# -- opening
# ---------------------------------------------------------------------------------------------------------


def test_another_encoder_is_refused_with_advice(tmp_path, stocked):
    with (
        unharmed(stocked),
        pytest.raises(EncoderMismatchError, match=r"'toy:16:1', got 'toy:32:1'.*reembed"),
    ):
        MemoryIndex.open(stocked.path, encoder=ToyEncoder(32))


def test_config_that_contradicts_the_stored_one(stocked):
    with unharmed(stocked), pytest.raises(InvalidInputError, match="level0=True, got False"):
        MemoryIndex.open(stocked.path, encoder=stocked.encoder, config=MemoryConfig(level0=False))


@pytest.mark.parametrize(
    "options",
    [
        {"config": 5},
        {"config": {"level0": True}},
        {"timeout": "soon"},
        {"timeout": None},
        {"timeout": float("inf")},
        {"hierarchy": "magic"},
        {"hierarchy": 5},
        {"encoder": 5},
        {"path": 5},
        {"path": None},
        {"path": "nul\x00byte"},
        {"path": SURROGATE},
    ],
    ids=ascii,
)
def test_open_refuses(tmp_path, options):
    with pytest.raises(MLLMError):
        MemoryIndex.open(**{"path": tmp_path / "new", "encoder": ToyEncoder(), **options}).close()


def test_open_without_encoder_needs_a_memory(tmp_path):
    with pytest.raises(InvalidInputError, match="needs an encoder"):
        MemoryIndex.open(tmp_path / "new", encoder=None)
    assert not (tmp_path / "new").exists()


def test_without_encoder_text_is_refused_and_vectors_work(stocked):
    with MemoryIndex.open(stocked.path, encoder=None) as memory:
        with unharmed(stocked), pytest.raises(InvalidInputError, match="no encoder"):
            memory.add([Document("new text", id="new")])
        with pytest.raises(InvalidInputError, match="no encoder"):
            memory.search("ships")
        vector = stocked.encoder.encode_queries([KEPT[2].text])[0]
        assert memory.search(vector, k=1)[0].document_id == "fox"
