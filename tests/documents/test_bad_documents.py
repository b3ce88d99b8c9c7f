"""Documents and vectors that cannot be stored: a clear error, and nothing is lost or half added."""

from __future__ import annotations

import numpy as np
import pytest

from mllm_plugin import (
    DimensionMismatchError,
    Document,
    IndexBuilder,
    InvalidDocumentError,
    InvalidInputError,
    InvalidTypeError,
    MemoryIndex,
    MLLMError,
)
from tests.helpers.robustness_tools import KEPT, BadEncoder, unharmed

GOOD = Document("a good neighbour", id="good")
SURROGATE = "broken \ud800 half"


def nested(depth: int) -> dict:
    value: dict = {}
    for _ in range(depth):
        value = {"deeper": value}
    return value


def circular() -> dict:
    value: dict = {}
    value["self"] = value
    return value


BAD_DOCUMENTS = {
    "empty-text": (Document("", id="x"), InvalidDocumentError, "text is empty"),
    "blank-text": (Document(" \n\t\u2003", id="x"), InvalidDocumentError, "text is empty"),
    "empty-id": (Document("text", id=""), InvalidDocumentError, "id is empty"),
    "text-none": (Document(None, id="x"), InvalidTypeError, "must be strings"),
    "text-bytes": (Document(b"text", id="x"), InvalidTypeError, "must be strings"),
    "id-int": (Document("text", id=3), InvalidTypeError, "must be strings"),
    "id-none": (Document("text", id=None), InvalidTypeError, "must be strings"),
    "labels-str": (Document("text", id="x", labels="draft"), InvalidTypeError, "labels"),
    "labels-none": (Document("text", id="x", labels=None), InvalidTypeError, "labels"),
    "labels-int": (Document("text", id="x", labels=5), InvalidTypeError, "labels"),
    "label-int": (Document("text", id="x", labels=(1,)), InvalidTypeError, "labels"),
    "label-empty": (Document("text", id="x", labels=("",)), InvalidTypeError, "labels"),
    "metadata-none": (Document("text", id="x", metadata=None), MLLMError, "metadata"),
    "metadata-list": (Document("text", id="x", metadata=[1, 2]), MLLMError, "metadata"),
    "metadata-str": (Document("text", id="x", metadata="year=1"), MLLMError, "metadata"),
    "metadata-set": (Document("text", id="x", metadata={"a": {1}}), InvalidDocumentError, "metadata"),
    "metadata-bytes": (Document("text", id="x", metadata={"a": b"1"}), InvalidDocumentError, "metadata"),
    "metadata-numpy": (
        Document("text", id="x", metadata={"a": np.int64(1)}),
        InvalidDocumentError,
        "metadata",
    ),
    "metadata-nan": (
        Document("text", id="x", metadata={"a": float("nan")}),
        InvalidDocumentError,
        "metadata",
    ),
    "metadata-inf": (
        Document("text", id="x", metadata={"a": [float("-inf")]}),
        InvalidDocumentError,
        "metadata",
    ),
    "metadata-int-key": (Document("text", id="x", metadata={1: 2}), InvalidDocumentError, "no string"),
    "metadata-deep-int-key": (
        Document("text", id="x", metadata={"a": [{1: 2}]}),
        InvalidDocumentError,
        "no string",
    ),
    "metadata-huge-int": (Document("text", id="x", metadata={"a": 10**400}), MLLMError, None),
    "metadata-too-deep": (
        Document("text", id="x", metadata=nested(20_000)),
        InvalidDocumentError,
        "metadata",
    ),
    "metadata-circular": (Document("text", id="x", metadata=circular()), InvalidDocumentError, "metadata"),
    "surrogate-text": (Document(SURROGATE, id="x"), InvalidDocumentError, "lone surrogate"),
    "surrogate-id": (Document("text", id=SURROGATE), InvalidDocumentError, "lone surrogate"),
    "surrogate-label": (
        Document("text", id="x", labels=(SURROGATE,)),
        InvalidDocumentError,
        "lone surrogate",
    ),
    "surrogate-metadata-value": (
        Document("text", id="x", metadata={"a": [SURROGATE]}),
        InvalidDocumentError,
        None,
    ),
    "surrogate-metadata-key": (Document("text", id="x", metadata={SURROGATE: 1}), InvalidDocumentError, None),
}


@pytest.mark.parametrize(("bad", "error", "message"), BAD_DOCUMENTS.values(), ids=BAD_DOCUMENTS)
def test_add_refuses_the_whole_call(shared, bad, error, message):
    with unharmed(shared), pytest.raises(error, match=message):
        shared.add([GOOD, bad])


@pytest.mark.parametrize(("bad", "error", "message"), BAD_DOCUMENTS.values(), ids=BAD_DOCUMENTS)
def test_bulk_build_refuses_too(shared, bad, error, message):
    with unharmed(shared), pytest.raises(error, match=message):
        IndexBuilder(shared, progress=False).build([GOOD, bad])


def test_update_with_a_bad_document_keeps_the_old_one(shared):
    with unharmed(shared), pytest.raises(InvalidDocumentError, match="empty"):
        shared.add([Document("new text", id="kettle"), Document(" ", id="fox")])


def test_same_id_twice_in_one_call(shared):
    with unharmed(shared), pytest.raises(InvalidDocumentError, match="'twin' comes twice"):
        shared.add([Document("one", id="twin"), Document("two", id="twin")])


@pytest.mark.parametrize(
    "documents",
    ["text", b"text", {"id": "a"}, None, 7, Document("text"), ["text"], [{"text": "a"}], [None], np.zeros(3)],
    ids=[
        "str",
        "bytes",
        "dict",
        "none",
        "int",
        "document",
        "list-of-str",
        "list-of-dict",
        "list-of-none",
        "array",
    ],
)
def test_documents_of_a_wrong_type(shared, documents):
    with unharmed(shared), pytest.raises(InvalidTypeError, match="expected a"):
        shared.add(documents)


@pytest.mark.parametrize("documents", [None, 7, Document("text")], ids=["none", "int", "document"])
def test_builder_takes_an_iterable_only(shared, documents):
    with unharmed(shared), pytest.raises(InvalidTypeError, match="expected"):
        IndexBuilder(shared, progress=False).build(documents)


@pytest.mark.parametrize("size", [0, -1, "64", 2.5, None], ids=repr)
def test_builder_refuses_a_batch_size_that_would_add_nothing(shared, size):
    with unharmed(shared), pytest.raises(MLLMError, match="batch_size"):
        IndexBuilder(shared, batch_size=size, progress=False).build([GOOD])


@pytest.mark.parametrize(
    "make", [list, tuple, iter, dict], ids=["list", "tuple", "iterator", "empty-dict-keys"]
)
def test_nothing_to_add_is_no_error(shared, make):
    with unharmed(shared):
        report = shared.add(make([]) if make is not dict else {}.keys())
        assert (report.ids, report.added, report.chunks) == ((), 0, 0)


def test_generators_are_read_once(memory):
    report = memory.add(document for document in KEPT)
    assert report.ids == tuple(document.id for document in KEPT)
    assert memory.get(name for name in ("fox", "kettle"))[0].id == "fox"
    assert memory.mask(iter(["fox"])).documents == 1
    assert memory.unmask(iter(["fox"])).documents == 1
    assert memory.remove(iter(["fox", "nobody"])).missing == ("nobody",)
    assert [len(hits) for hits in memory.search_batch(query for query in ("ships", "kitchen"))] == [2, 2]


def test_embeddings_from_a_generator(memory):
    documents = [Document("one", id="1"), Document("two", id="2")]
    memory.add(documents, embeddings=(vector for vector in np.eye(16)[:2]))
    assert memory.search(np.eye(16)[1], k=1)[0].document_id == "2"


BAD_VECTORS = {
    "narrow": (np.ones(15), DimensionMismatchError, "16 dimensions"),
    "wide": (np.ones(17), DimensionMismatchError, "16 dimensions"),
    "empty": ([], DimensionMismatchError, "16 dimensions"),
    "scalar": (1.0, MLLMError, "16"),
    "three-axes": (np.ones((1, 1, 16)), DimensionMismatchError, "16 dimensions"),
    "no-rows": (np.ones((0, 16)), InvalidInputError, None),
    "nan": ([float("nan")] * 16, InvalidInputError, "NaN"),
    "one-inf": ([float("inf"), *[0.0] * 15], InvalidInputError, "infinity"),
    "text": (["a"] * 16, InvalidTypeError, "vector of 16 numbers"),
    "ragged": ([1.0, [2.0]], InvalidTypeError, "vector of 16 numbers"),
    "objects": (object(), InvalidTypeError, "vector of 16 numbers"),
    "complex": ([1j] * 16, InvalidTypeError, "vector of 16 numbers"),
}


@pytest.mark.parametrize(("vector", "error", "message"), BAD_VECTORS.values(), ids=BAD_VECTORS)
def test_add_refuses_a_bad_vector(shared, vector, error, message):
    with unharmed(shared), pytest.raises(error, match=message):
        shared.add([GOOD, Document("another", id="other")], embeddings=[np.ones(16), vector])


@pytest.mark.parametrize(("vector", "error", "message"), BAD_VECTORS.values(), ids=BAD_VECTORS)
@pytest.mark.parametrize("mode", ["auto", "beam"])
def test_search_refuses_a_bad_vector(shared, vector, error, message, mode):
    with pytest.raises(error, match=message):
        shared.search(vector, mode=mode)
    with pytest.raises(error, match=message):
        shared.search("ships", embedding=vector, mode=mode)


@pytest.mark.parametrize("embeddings", [[], [np.ones(16)] * 2, 7, "ab"], ids=["none", "two", "int", "str"])
def test_add_refuses_embeddings_that_do_not_match_the_documents(shared, embeddings):
    with unharmed(shared), pytest.raises(MLLMError, match="embedding"):
        shared.add([GOOD], embeddings=embeddings)


@pytest.mark.parametrize("mode", ["beam", "flat", "exact"])
def test_a_zero_vector_is_stored_and_found_last(memory, mode):
    memory.add([*KEPT])
    memory.add([Document("nothing at all", id="zero")], embeddings=[np.zeros(16)])
    assert memory.verify().problems == ()
    query = memory.encoder.encode_queries([KEPT[0].text])[0]
    found = [hit.document_id for hit in memory.search(query, k=10, mode=mode)]
    assert len(found) == 4
    assert "zero" in found
    assert np.isfinite([hit.score for hit in memory.search(np.zeros(16), k=10, mode=mode)]).all()


@pytest.mark.parametrize("size", [1e-300, 1e-30, 1e30, 1e300], ids=repr)
def test_only_the_direction_of_a_vector_counts(stocked, size):
    """Squares of such numbers leave the range of floats; no zero vector and no warning may come of it."""
    vector = stocked.encoder.encode_queries([KEPT[2].text])[0].astype(np.float64)
    stocked.add([Document("sized", id="sized")], embeddings=[vector * size])
    hits = stocked.search(vector * size, k=2)
    assert {hit.document_id for hit in hits} == {"fox", "sized"}
    assert hits == stocked.search(vector, k=2)


BAD_ENCODERS = {
    "pooled-nan": BadEncoder(pooled=np.full((1, 16), np.nan)),
    "pooled-narrow": BadEncoder(pooled=np.ones((1, 12))),
    "too-few-pooled": BadEncoder(pooled=np.ones((0, 16))),
    "too-many-pooled": BadEncoder(pooled=np.ones((2, 16))),
    "windows-nan": BadEncoder(windows=[np.full((2, 16), np.nan, dtype=np.float32)]),
    "windows-inf": BadEncoder(windows=[np.full((2, 16), np.inf, dtype=np.float32)]),
    "windows-narrow": BadEncoder(windows=[np.ones((2, 12), dtype=np.float32)]),
    "windows-one-axis": BadEncoder(windows=[np.ones(16, dtype=np.float32)]),
    "too-few-windows": BadEncoder(windows=[]),
}


@pytest.mark.parametrize("bad", BAD_ENCODERS.values(), ids=BAD_ENCODERS)
def test_an_encoder_that_misbehaves_poisons_nothing(tmp_path, encoder, bad):
    with MemoryIndex.open(tmp_path / "memory", encoder=encoder) as memory:
        memory.add(KEPT)
    with MemoryIndex.open(tmp_path / "memory", encoder=bad) as memory:
        with unharmed(memory), pytest.raises(MLLMError):
            memory.add([GOOD])
        assert len(memory.search("ships", mode="exact")) == 3
