"""Vectors, windows and records at the door: only real numbers of the right shape come in."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mllm_plugin import (
    Document,
    InvalidDocumentError,
    InvalidInputError,
    InvalidTypeError,
    MemoryIndex,
    MLLMError,
)
from mllm_plugin.documents.given import Seen
from mllm_plugin.transfer import open_source
from tests.helpers.robustness_tools import BadEncoder, unharmed
from tests.helpers.toy import ToyEncoder

NO_NUMBERS = {
    "complex": np.ones(16) + 1j,
    "booleans": np.ones(16, dtype=bool),
    "digits": ["1.0"] * 16,
    "bytes": [b"1"] * 16,
    "mixed": [1.0] * 15 + ["1"],
    "none": [None] * 16,
    "dates": np.zeros(16, dtype="datetime64[s]"),
}


@pytest.mark.parametrize("vector", NO_NUMBERS.values(), ids=NO_NUMBERS)
def test_what_is_no_number_is_refused(shared, vector):
    with unharmed(shared):
        with pytest.raises(InvalidTypeError, match="expected text or a vector of 16 numbers"):
            shared.search(vector)
        with pytest.raises(InvalidTypeError, match="expected text or a vector of 16 numbers"):
            shared.search("ships", embedding=vector)
        with pytest.raises(InvalidTypeError, match=r"document 'x' \(item 0\): expected"):
            shared.add([Document("text", id="x")], embeddings=[vector])


@pytest.mark.parametrize("kind", ["int64", "uint8", "float16", "float32", "float64"])
def test_all_kinds_of_real_numbers_are_taken(shared, kind):
    assert shared.search(np.ones(16, dtype=kind))[0].score == shared.search([1.0] * 16)[0].score


def test_zeros_have_no_direction(memory):
    """A document with zeros is found by its words alone; such a query finds what the filter lets through."""
    memory.add(
        [Document("walrus", id="zero"), Document("heron", id="a")], embeddings=[np.zeros(16), np.ones(16)]
    )
    assert [hit.document_id for hit in memory.search("walrus", embedding=np.ones(16), mode="exact")] == [
        "a",
        "zero",
    ]
    assert memory.search("walrus", embedding=np.zeros(16), k=1)[0].document_id == "zero"
    assert len(memory.search(np.zeros(16))) == 2
    assert memory.verify().problems == ()


BAD_WINDOWS = {
    "text": [["a"] * 16],
    "digits": [["1"] * 16],
    "complex": np.ones((2, 16)) + 1j,
    "booleans": np.ones((2, 16), dtype=bool),
    "ragged": [[1.0] * 16, [1.0]],
    "flat": np.ones(16),
    "narrow": np.ones((2, 3)),
    "nan": np.full((2, 16), np.nan),
}


@pytest.mark.parametrize("windows", BAD_WINDOWS.values(), ids=BAD_WINDOWS)
def test_windows_of_an_encoder_are_checked(tmp_path, windows):
    with MemoryIndex.open(tmp_path / "memory", encoder=BadEncoder(windows=[windows])) as memory:
        with pytest.raises(MLLMError, match="windows"):
            memory.add([Document("text", id="x")])
        assert list(memory.documents()) == []


# -- records


def test_an_id_that_comes_again_in_a_later_batch_is_refused(memory):
    records = [{"id": f"d{number % 300}", "text": f"text {number}"} for number in range(301)]
    with pytest.raises(InvalidDocumentError, match=r"id 'd0' comes twice in namespace \(\)"):
        memory.import_records(records)
    assert memory.get("d0")[0].text == "text 0"
    assert memory.verify().problems == ()


def test_the_same_id_in_two_namespaces_is_no_repetition(memory):
    records = [{"id": "a", "text": "one"}, {"id": "a", "text": "two", "namespace": ["b"]}]
    assert memory.import_records(records).added == 2
    assert memory.import_records(records).unchanged == 2


def test_seen_tells_repetitions_in_long_streams(monkeypatch):
    monkeypatch.setattr("mllm_plugin.documents.given._RECENT", 16)
    seen = Seen()
    assert not any(seen.again(str(number)) for number in range(100))
    assert all(seen.again(str(number)) for number in range(100))
    assert not seen.again("1", "2")
    assert not seen.again("12", "")


BAD_RECORDS = {
    "digits": ({"chunks": [{"start": 0, "end": 4, "embedding": ["1"] * 16}]}, "embedding"),
    "booleans": ({"chunks": [{"start": 0, "end": 4, "embedding": [True] * 16}]}, "embedding"),
    "blank": ({"text": " "}, "is empty"),
    "no-id": ({"id": ""}, "is empty"),
    "huge": ({"metadata": {"n": 10**5000}}, "integer of 16610 bits"),
    "huge-id": ({"id": 10**5000}, "'id'"),
}


@pytest.mark.parametrize(("fields", "message"), BAD_RECORDS.values(), ids=BAD_RECORDS)
def test_records_are_checked_once_and_named(shared, fields, message):
    record = {"id": "x", "text": "text", "encoder": ToyEncoder().fingerprint} | fields
    with unharmed(shared), pytest.raises(InvalidInputError, match=message):
        shared.import_records([record])


@pytest.mark.parametrize("digits", [400, 4_299, 5_000])
def test_integers_of_many_digits_in_json_lines_are_named(shared, tmp_path, digits):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"id": "a", "text": "t", "metadata": {"n": 1' + "0" * digits + "}}\n")
    with unharmed(shared), pytest.raises(InvalidInputError, match=r"line 1: not JSON|metadata\['n'\]"):
        shared.import_records(open_source(path).records)


def test_what_a_source_gives_is_validated_already(memory, tmp_path):
    path = tmp_path / "lines.jsonl"
    lines = [
        {"id": 7, "text": "seven", "labels": "a", "year": 1},
        {"_id": "b", "content": "b", "vector": [1] * 16},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    first, second = open_source(path).records
    assert (first.id, first.labels, first.metadata) == ("7", ("a",), {"year": 1})
    assert (second.id, second.split, len(second.chunks[0].embedding)) == ("b", False, 16)
    assert memory.import_records([first, second]).added == 2
