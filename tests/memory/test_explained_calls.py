"""What does not fit a call is named: the document and the key, the option and the one that was meant."""

from __future__ import annotations

import asyncio
import inspect
from datetime import datetime, time
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from uuid import UUID

import numpy as np
import pytest

from mllm_plugin import (
    Document,
    IndexBuilder,
    InvalidDocumentError,
    InvalidInputError,
    InvalidTypeError,
    MemoryIndex,
)
from tests.helpers.robustness_tools import unharmed

UNFIT = {
    "nan": (float("nan"), "use None"),
    "inf": (float("-inf"), "use None"),
    "time": (time(1), "use value.isoformat()"),
    "datetime": (datetime(2024, 1, 1), "use value.astimezone()"),
    "numpy-int": (np.int64(1), "use value.item()"),
    "numpy-float": (np.float32(1), "use value.item()"),
    "numpy-bool": (np.bool_(True), "use value.item()"),
    "numpy-date": (np.datetime64("2024-01-01"), "use str(value)"),
    "numpy-array": (np.zeros(2), "use value.tolist()"),
    "uuid": (UUID(int=7), "use str(value)"),
    "path": (Path("notes.md"), "use str(value)"),
    "decimal": (Decimal("1.10"), "use float(value)"),
    "set": ({"a"}, "use sorted(value)"),
    "frozenset": (frozenset(), "use sorted(value)"),
    "bytes": (b"a", "use bytes(value).decode()"),
    "object": (object(), "use str, int"),
    "key": ({7: "a"}, "use str(key)"),
}


def vars_of(document: Document) -> dict:
    return {"id": document.id, "text": document.text, "metadata": document.metadata}


def run(call, *arguments, **options):
    """Calls, and awaits what an async twin returns."""

    async def awaited():
        return await found

    found = call(*arguments, **options)
    return asyncio.run(awaited()) if inspect.isawaitable(found) else found


@pytest.mark.parametrize(("value", "advice"), UNFIT.values(), ids=UNFIT)
@pytest.mark.parametrize("call", ["add", "build", "import_records", "aadd"])
def test_unfit_metadata_is_named_with_document_place_key_and_remedy(shared, value, advice, call):
    documents = [
        Document("fine", id="fine"),
        Document("text", id="culprit", metadata={"a": [1, {"b": value}]}),
    ]
    calls = {
        "add": lambda: shared.add(documents),
        "build": lambda: IndexBuilder(shared, progress=False).build(documents),
        "import_records": lambda: shared.import_records(vars_of(one) for one in documents),
        "aadd": lambda: asyncio.run(shared.aadd(documents)),
    }
    with unharmed(shared), pytest.raises(InvalidDocumentError) as caught:
        calls[call]()
    assert str(caught.value).startswith("document 'culprit' (item 1): metadata['a'][1]['b'] ")
    assert advice in str(caught.value)


def test_read_only_mappings_are_metadata(memory):
    memory.add([Document("text", id="a", metadata=MappingProxyType({"deep": MappingProxyType({"b": 1})}))])
    assert memory.get("a")[0].metadata == {"deep": {"b": 1}}


def test_a_bad_vector_is_named_with_its_document(shared):
    documents = [Document("fine", id="fine"), Document("text", id="culprit")]
    with unharmed(shared), pytest.raises(InvalidInputError, match=r"^document 'culprit' \(item 1\): .* NaN"):
        shared.add(documents, embeddings=[np.ones(16), np.full(16, np.nan)])


def test_documents_of_langchain_are_taken(memory):
    documents = pytest.importorskip("langchain_core.documents")
    given = [
        documents.Document(page_content="herons eat fish", metadata={"page": 3}, id="herons"),
        documents.Document(page_content="quokkas smile"),
    ]
    report = memory.add(given)
    assert (report.added, report.ids[0]) == (2, "herons")
    assert memory.get("herons")[0].metadata == {"page": 3}
    assert IndexBuilder(memory, progress=False).build(given[:1]).unchanged == 1
    with pytest.raises(InvalidTypeError, match="put it in a list"):
        memory.add(given[0])


def test_documents_of_llama_index_are_taken(memory):
    schema = pytest.importorskip("llama_index.core.schema")
    given = [
        schema.Document(text="herons eat fish", metadata={"page": 3}, doc_id="herons"),
        schema.TextNode(text="quokkas smile", id_="quokkas"),
        schema.Node(text_resource=schema.MediaResource(text="otters swim"), id_="otters"),
        schema.NodeWithScore(node=schema.Node(text_resource=schema.MediaResource(text="owls"), id_="owls")),
    ]
    assert memory.add(given).ids == ("herons", "quokkas", "otters", "owls")
    assert memory.get("herons")[0].metadata == {"page": 3}
    assert [one.text for one in memory.get(["otters", "owls"])] == ["otters swim", "owls"]


def test_a_framework_document_that_cannot_be_stored_is_named(shared):
    documents = pytest.importorskip("langchain_core.documents")
    bad = documents.Document(page_content="text", metadata={"at": time(1)}, id="culprit")
    with (
        unharmed(shared),
        pytest.raises(InvalidDocumentError, match=r"'culprit' \(item 0\): metadata\['at'\]"),
    ):
        shared.add([bad])


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("text", r"got str; write Document\(text\)"),
        ({"text": "a"}, r"got dict; write Document\(text="),
        (None, "got NoneType"),
        (Document, "got type"),
    ],
    ids=["str", "dict", "none", "class"],
)
def test_other_things_are_no_documents(shared, item, message):
    with (
        unharmed(shared),
        pytest.raises(InvalidTypeError, match=rf"^item 1: expected a Document, .* {message}"),
    ):
        shared.add([Document("fine", id="fine"), item])


def test_stored_documents_of_another_memory_keep_their_masks_by_another_way(shared, stocked):
    with unharmed(shared), pytest.raises(InvalidTypeError, match="import_records"):
        shared.add(stocked.documents())


CALLS = [name for name, found in inspect.getmembers(MemoryIndex, callable) if not name.startswith("_")]


@pytest.mark.parametrize("name", CALLS)
def test_every_call_names_an_unknown_option(shared, name):
    call = getattr(shared, name)
    required = [
        one
        for one in inspect.signature(call).parameters.values()
        if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD
    ]
    arguments = [["a"] if one.name in ("documents", "ids", "queries", "records") else "a" for one in required]
    with (
        unharmed(shared),
        pytest.raises(InvalidTypeError, match=r"\(\): unknown option 'xyzzy'; known are "),
    ):
        run(call, *arguments, xyzzy=1)


@pytest.mark.parametrize(
    ("call", "options", "meant"),
    [
        ("search", {"top_k": 3}, "k"),
        ("asearch", {"top_k": 3}, "k"),
        ("search", {"n_results": 3}, "k"),
        ("search", {"where": {}}, "filter"),
        ("search", {"beamwidth": 3}, "beam_width"),
        ("search_batch", {"limit": 3}, "k"),
        ("asearch_batch", {"limit": 3}, "k"),
        ("recall", {"top_k": 3}, "k"),
        ("arecall", {"node": 3}, "nodes"),
        ("remove", {"where": {}}, "filter"),
        ("aremove", {"where": {}}, "filter"),
        ("mask", {"labels": "a"}, "label"),
        ("add", {"collection": "a"}, "namespace"),
        ("aadd", {"embedding": []}, "embeddings"),
        ("get", {"user_id": "a"}, "namespace"),
    ],
)
def test_the_option_that_was_meant_is_named(shared, call, options, meant):
    (unknown,) = options
    expected = rf"\(\): unknown option '{unknown}'; did you mean {meant}\?$"
    with unharmed(shared), pytest.raises(InvalidTypeError, match=expected):
        run(getattr(shared, call), ["a"], **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda memory: Document(page_content="a"),
            r"Document\(\): unknown .*'page_content'; did you mean text\?",
        ),
        (lambda memory: Document("a", meta={}), r"did you mean metadata\?"),
        (lambda memory: IndexBuilder(memory, batch=3), r"IndexBuilder\(\): .*did you mean batch_size\?"),
        (lambda memory: IndexBuilder(memory).build([], invalid="skip"), r"did you mean on_invalid\?"),
        (
            lambda memory: MemoryIndex.open("nowhere", embedding_function=3),
            r"open\(\): .*did you mean encoder\?",
        ),
        (lambda memory: memory.search(), r"search\(\): missing a required argument: 'query'"),
        (lambda memory: memory.search("a", 5), r"search\(\): too many positional arguments"),
    ],
)
def test_constructors_and_places_too(shared, call, message):
    with pytest.raises(InvalidTypeError, match=message):
        call(shared)


def test_calls_still_show_what_they_take():
    assert "k: 'int' = 5" in str(inspect.signature(MemoryIndex.search))
    assert inspect.iscoroutinefunction(MemoryIndex.asearch)
    assert inspect.signature(Document).parameters["text"].default is inspect.Parameter.empty


def test_errors_within_a_call_are_not_taken_for_wrong_arguments(tmp_path):
    class Broken:
        dim, fingerprint = 4, "broken"

        def encode_documents(self, texts):
            raise TypeError("of the encoder's own")

        encode_queries = encode_documents

    with (
        MemoryIndex.open(tmp_path / "memory", encoder=Broken()) as memory,
        pytest.raises(TypeError, match=r"^of the encoder's own$"),
    ):
        memory.add([Document("text")])
