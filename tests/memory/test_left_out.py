"""Documents that cannot be stored are left out when asked, and named; else the error says how far it came."""

from __future__ import annotations

import sys
from datetime import timedelta

import numpy as np
import pytest

from mllm_plugin import (
    DimensionMismatchError,
    Document,
    IndexBuilder,
    InvalidDocumentError,
    InvalidInputError,
    InvalidTypeError,
    SkippedDocument,
)
from tests.helpers.robustness_tools import some_documents, unharmed

GOOD = some_documents(40)
BAD = {
    7: Document(" ", id="blank"),
    12: Document("text", id="dated", metadata={"at": timedelta(1)}),
    13: None,
    25: Document("text", id=""),
    26: Document("text \ud800", id="surrogate"),
}


def mixed():
    """Good and bad ones in turn, as a stream."""
    rest = iter(GOOD)
    for place in range(len(GOOD) + len(BAD)):
        yield BAD[place] if place in BAD else next(rest)


@pytest.mark.parametrize("batch_size", [1, 8, 100])
def test_a_bulk_build_goes_on_and_names_what_it_left_out(memory, batch_size):
    report = IndexBuilder(memory, batch_size=batch_size, progress=False).build(mixed(), on_invalid="skip")
    assert (report.added, len(report.skipped)) == (len(GOOD), len(BAD))
    assert [one[:2] for one in report.skipped] == [
        (7, "blank"),
        (12, "dated"),
        (13, ""),
        (25, ""),
        (26, "surrogate"),
    ]
    assert report.skipped[0].reason == "the text is empty"
    assert "metadata['at']" in report.skipped[1].reason
    assert [one.id for one in memory.documents()] == [one.id for one in GOOD]
    assert memory.verify().ok


def test_add_leaves_out_the_same(memory):
    report = memory.add(mixed(), on_invalid="skip")
    assert report.ids == tuple(one.id for one in GOOD)
    assert [one.place for one in report.skipped] == [*BAD]
    assert report.to_dict()["skipped"][0] == {"place": 7, "id": "blank", "reason": "the text is empty"}
    again = memory.add(mixed(), on_invalid="skip")
    assert (again.unchanged, again.encoded, len(again.skipped)) == (len(GOOD), 0, len(BAD))


def test_the_second_of_two_with_one_id_is_left_out(memory):
    report = memory.add([Document("first", id="a"), Document("second", id="a")], on_invalid="skip")
    assert report.skipped == (SkippedDocument(1, "a", "id 'a' comes twice in one call"),)
    assert memory.get("a")[0].text == "first"


@pytest.mark.parametrize("apart", [1, 2, 9])
def test_ids_of_one_build_differ_however_far_apart_they_come(memory, apart):
    """The second would replace the first without a word."""
    stream = [Document(f"text {n}", id=f"{n}") for n in range(apart)] + [Document("another", id="0")]
    builder = IndexBuilder(memory, batch_size=2, progress=False)
    with pytest.raises(InvalidDocumentError, match=rf"document '0' \(item {apart}\): id '0' comes twice"):
        builder.build(iter(stream))
    report = builder.build(iter(stream), on_invalid="skip")
    assert [one.place for one in report.skipped] == [apart]
    assert memory.get("0")[0].text == "text 0"


def test_nothing_but_bad_documents_writes_nothing(shared):
    with unharmed(shared):
        report = shared.add(BAD.values(), on_invalid="skip")
        assert (report.ids, report.added, len(report.skipped)) == ((), 0, len(BAD))
        assert len(shared.add([BAD[7]], embeddings=[np.ones(16)], on_invalid="skip").skipped) == 1


def test_embeddings_stay_with_their_documents(memory):
    documents = [
        Document("a", id="a"),
        Document(" ", id="blank"),
        Document("b", id="b"),
        Document("c", id="c"),
    ]
    vectors = np.eye(16)[:4] * [[1], [1], [np.nan], [1]]
    report = memory.add(documents, embeddings=vectors, on_invalid="skip")
    assert report.ids == ("a", "c")
    assert [(one.place, one.id) for one in report.skipped] == [(1, "blank"), (2, "b")]
    assert memory.search(np.eye(16)[3], k=1)[0].document_id == "c"


def test_vectors_of_another_width_are_the_call_s_mistake(shared):
    with unharmed(shared), pytest.raises(DimensionMismatchError, match="document 'x'"):
        shared.add([Document("text", id="x")], embeddings=[np.ones(3)], on_invalid="skip")


def test_an_error_says_how_many_were_written(memory):
    with pytest.raises(InvalidDocumentError) as caught:
        IndexBuilder(memory, batch_size=5, progress=False).build(mixed())
    assert str(caught.value) == (
        "document 'blank' (item 7): the text is empty. 5 documents before it are kept; build again with the "
        "same ids to go on, or leave such documents out with on_invalid='skip'"
    )
    assert memory.stats().documents == 5


@pytest.mark.skipif(sys.version_info < (3, 11), reason="errors take notes from Python 3.11 on")
def test_an_error_of_the_stream_says_it_too(memory):
    def broken():
        yield from GOOD[:12]
        raise KeyError("line 13")

    with pytest.raises(KeyError) as caught:
        IndexBuilder(memory, batch_size=5, progress=False).build(broken())
    assert caught.value.__notes__ == [
        "10 documents before it are kept; build again with the same ids to go on"
    ]


@pytest.mark.parametrize("value", ["ignore", None, True])
def test_other_words_are_refused_before_anything_is_read(shared, value):
    def unread():
        pytest.fail("the documents were read")
        yield

    for call in (shared.add, IndexBuilder(shared, progress=False).build):
        with unharmed(shared), pytest.raises(InvalidInputError, match="on_invalid must be 'raise' or 'skip'"):
            call(unread(), on_invalid=value)


def test_what_is_no_list_is_no_document_to_leave_out(shared):
    with unharmed(shared), pytest.raises(InvalidTypeError, match="expected a list"):
        shared.add("text", on_invalid="skip")
