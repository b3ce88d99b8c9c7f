"""Odd but valid input goes in and comes back unchanged."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest

from mllm_plugin import Document, MemoryIndex
from tests.helpers.robustness_tools import MODES, CheapEncoder, rows

NUL = "before\x00after"
LAST = "\U0010ffff"


@pytest.mark.parametrize("spaced", [True, False], ids=["words", "one-word"])
def test_a_line_of_ten_megabytes(tmp_path, spaced):
    line = " ".join(f"rather_lengthy_word{number % 997}" for number in range(440_000))
    words = line if spaced else "ab" * 5_000_000
    text = words + " needle in the last place"
    started = time.perf_counter()
    with MemoryIndex.open(tmp_path / "memory", encoder=CheapEncoder()) as memory:
        memory.add([Document(text, id="long"), Document("a short neighbour", id="short")])
        assert memory.get(["long"])[0].text == text
        hit = memory.search("needle in the last place", k=1)[0]
        assert hit.document_id == "long"
        assert text[hit.start : hit.end] == hit.text
        assert hit.end == len(text)
        spans = rows(memory, 'SELECT start, "end" FROM chunks ORDER BY chunk_id')[:-1]
        assert all(a_end <= b_start for (_, a_end), (b_start, _) in pairwise(spans))
        assert "".join(text[a:b] for a, b in spans).replace(" ", "") == text.replace(" ", "")
        assert memory.remove(["long"]).erased
        assert memory.search("needle", k=1)[0].document_id == "short"
        assert memory.verify().problems == ()
    assert time.perf_counter() - started < 60


@pytest.mark.parametrize("split", [True, False], ids=["split", "whole"])
@pytest.mark.parametrize(
    "text",
    [NUL, "\x00", "\x00\x00 \x00", "\ufeffmark", "a\r\n\x0b\x1c\u2028z", LAST, "e\u0301 🏳️‍🌈 ﷽", "ß" * 300],
    ids=ascii,
)
def test_any_unicode_comes_back(memory, text, split):
    memory.add([Document(text, id="odd")], split=split)
    assert memory.get(["odd"])[0].text == text
    for mode in MODES:
        (hit,) = memory.search("anything", mode=mode)
        assert text[hit.start : hit.end] == hit.text
    assert memory.verify().problems == ()
    assert memory.add([Document(text, id="odd")], split=split).unchanged == 1


@pytest.mark.parametrize(
    "odd", [NUL, "\x00", " ", "🦊", LAST, "'; DROP TABLE documents; --", "%_[]"], ids=ascii
)
def test_odd_ids_labels_and_metadata(memory, odd):
    document = Document("some text", id=odd, metadata={odd: [odd, {odd: None}]}, labels=(odd,))
    memory.add([document, Document("other text", id="plain", metadata={"before": "before"})])
    (stored,) = memory.get([odd])
    assert (stored.id, stored.metadata, stored.labels) == (odd, document.metadata, (odd,))
    assert [hit.document_id for hit in memory.search("text", filter={odd: odd})] == [odd]
    assert [hit.document_id for hit in memory.search("text", filter={odd: {"$contains": odd}})] == [odd]
    assert [hit.document_id for hit in memory.search("text", exclude_labels=[odd])] == ["plain"]
    assert memory.mask(label=odd).documents == 1
    assert [hit.document_id for hit in memory.search("text")] == ["plain"]
    assert memory.unmask(label=odd).documents == 1
    assert memory.verify().problems == ()
    assert memory.remove(label=odd).documents == 1
    assert memory.get([odd]) == []


@pytest.mark.parametrize(
    "odd", [NUL, " ", "/", "..", "🦊", LAST, "a" * 5_000], ids=lambda odd: ascii(odd)[:20]
)
def test_odd_namespaces_are_seen_by_every_call(memory, odd):
    namespace = ("users", odd)
    memory.add([Document("some text", id="a")], namespace=namespace)
    assert memory.namespaces() == [namespace]
    assert memory.namespaces(("users",)) == [namespace]
    assert memory.stats().documents == 1
    assert memory.verify().checked["documents"] == 1
    assert [record["id"] for record in memory.export()] == ["a"]
    assert memory.search("some", namespace=("users",), prefix=True)[0].namespace == namespace
    assert memory.remove(["a"], namespace=namespace).documents == 1


def test_metadata_numbers_keep_their_kind(memory):
    metadata = {
        "int": 1,
        "float": 1.0,
        "bool": True,
        "null": None,
        "big": 2**53 + 1,
        "huge": 10**30,
        "empty": {},
        "": [],
    }
    memory.add([Document("some text", id="a", metadata=metadata)])
    (stored,) = memory.get(["a"])
    assert {key: (type(value), value) for key, value in stored.metadata.items()} == {
        key: (type(value), value) for key, value in metadata.items()
    }
    assert memory.search("some", filter={"big": 2**53 + 1})
    assert not memory.search("some", filter={"big": 2**53})
    assert not memory.search("some", filter={"int": True})
    assert memory.verify().problems == ()


def test_thousands_of_labels_and_keys(memory):
    labels = tuple(f"label{number}" for number in range(3_000))
    memory.add([Document("some text", id="a", metadata={f"key{n}": n for n in range(3_000)}, labels=labels)])
    assert memory.get(["a"])[0].labels == tuple(sorted(labels))
    assert memory.search("some", filter={"key2999": 2999})
    assert memory.remove(filter={"key2999": {"$gte": 2999}}).documents == 1
    assert rows(memory, "SELECT count(*) FROM metadata") == [(0,)]
