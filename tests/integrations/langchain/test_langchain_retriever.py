"""The retriever beyond LangChain's own tests."""

import asyncio
import copy
import json
import time
from collections.abc import Awaitable, Callable
from datetime import date, datetime
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.runnables import ConfigurableField
from langchain_mllm import HierarchicalMemoryRetriever, HierarchicalMemoryVectorStore
from pydantic import ValidationError

from mllm_plugin import Document as StoredPiece
from mllm_plugin import MemoryIndex
from mllm_plugin.errors import FilterError, InvalidInputError

Search = Callable[..., Awaitable[list[Document]]]


async def _invoke(retriever: HierarchicalMemoryRetriever, query: str, **options: Any) -> list[Document]:
    return retriever.invoke(query, **options)


async def _ainvoke(retriever: HierarchicalMemoryRetriever, query: str, **options: Any) -> list[Document]:
    return await retriever.ainvoke(query, **options)


@pytest.fixture(params=[_invoke, _ainvoke], ids=["sync", "async"])
def search(request: pytest.FixtureRequest) -> Search:
    return request.param


@pytest.fixture
def retriever(planets: MemoryIndex) -> HierarchicalMemoryRetriever:
    return HierarchicalMemoryRetriever(memory=planets)


async def test_options_of_one_call_override_the_constructor(planets: MemoryIndex, search: Search) -> None:
    retriever = HierarchicalMemoryRetriever(memory=planets, k=4, filter={"moons": {"$gt": 0}})
    assert {doc.id for doc in await search(retriever, "planet")} == {"earth", "mars", "jupiter"}
    assert len(await search(retriever, "planet", k=2)) == 2
    assert [doc.id for doc in await search(retriever, "planet", filter={"moons": 2})] == ["mars"]
    assert len(await search(retriever, "planet", filter=None)) == 4
    assert retriever.k == 4


async def test_sync_async_and_batch_agree(retriever: HierarchicalMemoryRetriever) -> None:
    queries = ["a red planet", "oceans", "thick cloud"]
    alone = [retriever.invoke(query, k=2) for query in queries]
    assert [documents[0].id for documents in alone] == ["mars", "earth", "venus"]
    assert retriever.batch(queries, k=2) == alone
    assert await retriever.abatch(queries, k=2) == alone


async def test_the_stored_piece_comes_back_unchanged(memory: MemoryIndex, search: Search) -> None:
    text = "  Ünïcödé 🜁 e\u0301 \u202b\u05d0\u05d1\u202c\r\n\ttabs, 汉字 and a \u0000 byte.  \n"
    metadata = {"titre": "été", "nested": {"list": [1, None, True, 2.5]}}
    memory.add([StoredPiece(text, id="π", metadata=metadata)], split=False)
    [document] = await search(HierarchicalMemoryRetriever(memory=memory), "汉字")
    assert (document.page_content, document.id) == (text, "π")
    assert {name: document.metadata[name] for name in metadata} == metadata


async def test_metadata_gets_offsets_and_scores_on_request(planets: MemoryIndex, search: Search) -> None:
    retriever = HierarchicalMemoryRetriever(memory=planets)
    [hit] = planets.search("oceans", k=1)
    stored = {"moons": 1, "start": 0, "end": len(hit.text)}
    [document] = await search(retriever, "oceans", k=1)
    assert document.metadata == stored
    [document] = await search(retriever, "oceans", k=1, include_path=True)
    of_query = {"score": hit.score, "relevance": hit.relevance, "path": [one._asdict() for one in hit.path]}
    assert document.metadata == {**stored, **of_query}
    levels = [step["level"] for step in document.metadata["path"]]
    assert levels == sorted(levels, reverse=True)
    assert levels[-1] == 1
    assert 0 <= document.metadata["relevance"] <= 1
    json.dumps(document.metadata)


async def test_a_stored_key_is_kept_when_it_has_the_name_of_a_score(
    memory: MemoryIndex, search: Search
) -> None:
    memory.add([StoredPiece("a review", metadata={"score": 5, "start": "00:10"})])
    [document] = await search(HierarchicalMemoryRetriever(memory=memory, include_path=True), "review")
    assert (document.metadata["score"], document.metadata["start"]) == (5, "00:10")
    assert document.metadata["relevance"] > 0


@pytest.mark.parametrize("copied", [lambda found: found, copy.deepcopy], ids=["found", "copied"])
async def test_what_was_said_of_a_query_is_not_written_back(
    planets: MemoryIndex, search: Search, copied: Callable[..., list[Document]]
) -> None:
    planets.add([StoredPiece("A red review.", id="review", metadata={"score": 5, "moons": 7})])
    found = copied(await search(HierarchicalMemoryRetriever(memory=planets, include_path=True), "red"))
    store = HierarchicalMemoryVectorStore(planets, namespace="notes")
    await store.aadd_documents(found)
    kept = {document.id: document.metadata for document in store.similarity_search("red", k=10)}
    assert kept["mars"] == {"moons": 2, "start": 0, "end": 42}
    assert kept["review"] == {"score": 5, "moons": 7, "start": 0, "end": 13}


@pytest.mark.parametrize("blank", ["", " \n\t"], ids=["empty", "white space"])
async def test_a_blank_query_finds_what_the_filter_lets_through(
    planets: MemoryIndex, search: Search, blank: str
) -> None:
    planets.mask(["jupiter"])
    planets.add([StoredPiece("Sea " * 400, id="moons", labels=("draft",), metadata={"moons": 3})])
    planets.add([StoredPiece("Io", id="io", metadata={"moons": 4})], namespace=("far", "away"))
    retriever = HierarchicalMemoryRetriever(memory=planets, k=50, filter={"moons": {"$gt": 0}})
    found = await search(retriever, blank, exclude_labels=["draft"], min_relevance=0.9)
    assert [document.id for document in found] == ["earth", "mars"]
    assert {document.id for document in await search(retriever, blank)} == {"earth", "mars", "moons"}
    once = await search(retriever, blank, unique_documents=True)
    assert [document.id for document in once] == ["earth", "mars", "moons"]
    assert len(await search(retriever, blank, k=1)) == 1
    assert len(await search(retriever, blank, filter=None, exact=True, unique_documents=True)) == 5
    everywhere = await search(retriever, blank, prefix=True, unique_documents=True)
    assert {document.id for document in everywhere} == {"earth", "mars", "moons", "io"}
    assert await search(retriever, blank, namespace="nowhere") == []


async def test_a_blank_query_finds_as_many_as_asked_for_on_the_beam(
    memory: MemoryIndex, search: Search
) -> None:
    memory.add([StoredPiece(f"Note {n} of many.", id=f"{n:03}", metadata={"odd": n % 2}) for n in range(300)])
    assert len(memory.search("note", k=1, mode="beam")[0].path) > 1
    retriever = HierarchicalMemoryRetriever(memory=memory, k=120, beam_width=1, filter={"odd": 1})
    found = await search(retriever, "")
    assert len({document.id for document in found}) == 120
    assert {document.metadata["odd"] for document in found} == {1}


async def test_dates_in_a_filter_are_compared_as_the_store_keeps_them(
    memory: MemoryIndex, search: Search
) -> None:
    HierarchicalMemoryVectorStore(memory).add_texts(
        ["old", "new"], [{"at": datetime(2020, 5, 1, 9)}, {"at": datetime(2024, 5, 1, 9)}], ids=["o", "n"]
    )
    retriever = HierarchicalMemoryRetriever(memory=memory, filter={"at": {"$gte": date(2024, 1, 1)}})
    assert [document.id for document in await search(retriever, "old")] == ["n"]


async def test_chunks_of_one_document_share_its_id_and_differ_in_their_offsets(
    memory: MemoryIndex, search: Search
) -> None:
    text = " ".join(f"Sentence number {n} is about a planet." for n in range(60))
    memory.add([StoredPiece(text, id="long")])
    retriever = HierarchicalMemoryRetriever(memory=memory, k=3)
    documents = await search(retriever, "planet")
    assert [document.id for document in documents] == ["long"] * 3
    assert len({document.metadata["start"] for document in documents}) == 3
    for document in documents:
        assert document.page_content == text[document.metadata["start"] : document.metadata["end"]]
    assert len(await search(retriever, "planet", unique_documents=True)) == 1


async def test_namespaces_do_not_see_each_other(memory: MemoryIndex, search: Search) -> None:
    memory.add([StoredPiece("Ann likes tea.", id="drink")], namespace=("users", "ann"))
    memory.add([StoredPiece("Bob likes coffee.", id="drink")], namespace=("users", "bob"))
    retriever = HierarchicalMemoryRetriever(memory=memory, namespace=("users", "ann"))
    [ann] = await search(retriever, "Who likes coffee?")
    assert ann.page_content == "Ann likes tea."
    assert "namespace" not in ann.metadata
    [bob] = await search(retriever, "Who likes coffee?", namespace=("users", "bob"))
    assert bob.page_content == "Bob likes coffee."
    assert await search(retriever, "Who likes coffee?", namespace="users") == []
    both = await search(retriever, "Who likes coffee?", namespace="users", prefix=True)
    assert [document.metadata["namespace"] for document in both] == [["users", "bob"], ["users", "ann"]]


async def test_masked_and_labelled_documents_stay_out(memory: MemoryIndex, search: Search) -> None:
    memory.add([StoredPiece("old tea", id="old", labels=("draft",)), StoredPiece("new tea", id="new")])
    retriever = HierarchicalMemoryRetriever(memory=memory)
    assert [doc.id for doc in await search(retriever, "tea", exclude_labels=["draft"])] == ["new"]
    memory.mask(["new"])
    assert [doc.id for doc in await search(retriever, "tea")] == ["old"]


async def test_min_relevance_leaves_out_the_rest(
    retriever: HierarchicalMemoryRetriever, search: Search
) -> None:
    documents = await search(retriever, "oceans", include_path=True)
    bound = documents[0].metadata["relevance"]
    assert [doc.id for doc in await search(retriever, "oceans", min_relevance=bound)] == ["earth"]


async def test_exact_equals_a_beam_over_everything(
    retriever: HierarchicalMemoryRetriever, search: Search
) -> None:
    exact = await search(retriever, "red planet", exact=True)
    assert await search(retriever, "red planet", beam_width=1000) == exact


def test_k_can_be_a_configurable_field(retriever: HierarchicalMemoryRetriever) -> None:
    configurable = retriever.configurable_fields(k=ConfigurableField(id="k"))
    assert len(configurable.with_config(configurable={"k": 2}).invoke("planet")) == 2


async def test_unknown_and_bad_options_of_a_call_are_refused(
    retriever: HierarchicalMemoryRetriever, search: Search
) -> None:
    with pytest.raises(InvalidInputError, match="unknown option 'top_k'; did you mean k\\?"):
        await search(retriever, "planet", top_k=3)
    with pytest.raises(InvalidInputError, match="unknown option 'memory'; expected one of k, "):
        await search(retriever, "planet", memory=None)
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        await search(retriever, "planet", k=0)
    with pytest.raises(FilterError, match=r"\$near"):
        await search(retriever, "planet", filter={"moons": {"$near": 1}})


@pytest.mark.parametrize(
    "options",
    [
        {"k": 0},
        {"k": "many"},
        {"beam_width": 0},
        {"min_relevance": 1.5},
        {"exclude_labels": "draft"},
        {"filter": "moons"},
        {"top_k": 3},
        {"memory": "memory/"},
    ],
    ids=lambda options: next(iter(options)) + "=" + str(next(iter(options.values()))),
)
def test_the_constructor_validates_its_options(planets: MemoryIndex, options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        HierarchicalMemoryRetriever(**{"memory": planets, **options})


async def test_the_event_loop_is_not_blocked(
    retriever: HierarchicalMemoryRetriever, encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = encoder.encode_queries

    def slowly(texts: list[str]) -> Any:
        time.sleep(0.3)
        return encode(texts)

    monkeypatch.setattr(encoder, "encode_queries", slowly)
    search = asyncio.create_task(retriever.ainvoke("oceans", k=1))
    ticks = 0
    while not search.done():
        await asyncio.sleep(0.01)
        ticks += 1
    assert (await search)[0].id == "earth"
    assert ticks >= 5
