"""The vector store beyond LangChain's own tests."""

import asyncio
from datetime import date, datetime, timedelta, timezone
from datetime import time as dt_time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import VectorStoreRetriever
from langchain_mllm import HierarchicalMemoryVectorStore

from mllm_plugin import Document as StoredPiece
from mllm_plugin import MemoryIndex
from mllm_plugin.errors import (
    DimensionMismatchError,
    FilterError,
    InvalidDocumentError,
    InvalidInputError,
    InvalidTypeError,
)

TEXTS = ["red apple", "green apple", "yellow banana", "blue plum"]
METADATAS = [{"sweet": n} for n in range(4)]
IDS = ["a", "b", "c", "d"]


@pytest.fixture
def store(memory: MemoryIndex) -> HierarchicalMemoryVectorStore:
    return HierarchicalMemoryVectorStore(memory)


@pytest.fixture
def fruit(store: HierarchicalMemoryVectorStore) -> HierarchicalMemoryVectorStore:
    store.add_texts(TEXTS, METADATAS, ids=IDS)
    return store


def test_long_and_odd_documents_come_back_whole(store: HierarchicalMemoryVectorStore) -> None:
    text = "  é 🜁 汉字\r\n" + "A sentence about plums. " * 300
    metadata = {"nested": {"list": [1, None, "ß"]}}
    [id_] = store.add_documents([Document(page_content=text, metadata=metadata)])
    expected = [Document(page_content=text, metadata=metadata, id=id_)]
    assert store.similarity_search("plums") == store.get_by_ids([id_]) == expected


def test_ids_in_the_call_go_before_those_of_the_documents(store: HierarchicalMemoryVectorStore) -> None:
    documents = [Document(page_content=text, id=f"own-{text}") for text in ("x", "y", "z")]
    assert store.add_documents(documents, ids=["1", None, "3"]) == ["1", "own-y", "3"]


async def test_texts_may_come_from_a_generator(store: HierarchicalMemoryVectorStore) -> None:
    first = store.add_texts(text for text in TEXTS[:2])
    second = await store.aadd_texts((text for text in TEXTS[2:]), ids=["c", "d"])
    assert {doc.page_content for doc in store.get_by_ids(first + second)} == set(TEXTS)


async def test_sync_and_async_agree(fruit: HierarchicalMemoryVectorStore) -> None:
    vector = fruit.embeddings.embed_query("apple")
    assert fruit.similarity_search("apple") == await fruit.asimilarity_search("apple")
    assert fruit.similarity_search_with_score("apple") == await fruit.asimilarity_search_with_score("apple")
    assert fruit.similarity_search_with_relevance_scores(
        "apple"
    ) == await fruit.asimilarity_search_with_relevance_scores("apple")
    assert fruit.similarity_search_by_vector(vector) == await fruit.asimilarity_search_by_vector(vector)
    assert fruit.max_marginal_relevance_search("apple") == await fruit.amax_marginal_relevance_search("apple")
    assert fruit.get_by_ids(["d", "a"]) == await fruit.aget_by_ids(["d", "a"])


def test_scores_fall_and_relevance_lies_in_0_to_1(fruit: HierarchicalMemoryVectorStore) -> None:
    scores = [score for _, score in fruit.similarity_search_with_score("green apple")]
    assert scores == sorted(scores, reverse=True)
    found = fruit.similarity_search_with_relevance_scores("green apple")
    assert found[0][0].id == "b"
    assert all(0 <= relevance <= 1 for _, relevance in found)
    threshold = found[0][1]
    assert (
        fruit.similarity_search_with_relevance_scores("green apple", score_threshold=threshold) == found[:1]
    )


def test_search_options_reach_the_memory(fruit: HierarchicalMemoryVectorStore) -> None:
    found = fruit.similarity_search("apple", filter={"$and": [{"sweet": {"$gte": 1}}, {"sweet": {"$lt": 3}}]})
    assert {doc.id for doc in found} == {"b", "c"}
    assert fruit.similarity_search("apple", exact=True) == fruit.similarity_search("apple", beam_width=100)
    with pytest.raises(FilterError):
        fruit.similarity_search("apple", filter={"sweet": {"$near": 1}})


def test_search_by_vector(fruit: HierarchicalMemoryVectorStore) -> None:
    vector = fruit.embeddings.embed_documents(["blue plum"])[0]
    assert fruit.similarity_search_by_vector(vector, k=1)[0].id == "d"
    with pytest.raises(DimensionMismatchError):
        fruit.similarity_search_by_vector([1.0, 2.0])


def test_marginal_relevance_prefers_what_differs(store: HierarchicalMemoryVectorStore) -> None:
    store.add_texts(["red apple", "red red apple", "blue plum"], ids=["apple", "double", "plum"])

    def ids(lambda_mult: float) -> list[str | None]:
        found = store.max_marginal_relevance_search("red apple", k=2, fetch_k=3, lambda_mult=lambda_mult)
        return [doc.id for doc in found]

    assert ids(1.0) == ["apple", "double"]
    assert ids(0.0) == ["apple", "plum"]
    vector = store.embeddings.embed_query("red apple")
    found = store.max_marginal_relevance_search_by_vector(vector, k=2, fetch_k=3, lambda_mult=0.0)
    assert [doc.id for doc in found] == ["apple", "plum"]


def test_marginal_relevance_uses_what_is_stored(
    store: HierarchicalMemoryVectorStore, encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add_texts([f"text number {n}" for n in range(40)], ids=[f"{n:02}" for n in range(40)])
    embedded: list[str] = []
    for name in ("encode_documents", "encode_queries"):
        encode = getattr(encoder, name)
        monkeypatch.setattr(
            encoder, name, lambda texts, encode=encode: (embedded.extend(texts), encode(texts))[1]
        )
    found = store.max_marginal_relevance_search("number 7", k=30)
    assert len({doc.id for doc in found}) == 30
    assert embedded == ["number 7"]
    nearest = store.similarity_search_by_vector(store.embeddings.embed_query("number 7"), k=3)
    assert store.max_marginal_relevance_search("number 7", k=3, fetch_k=3, lambda_mult=1.0)[0] == nearest[0]


def test_marginal_relevance_takes_the_options_of_a_search(fruit: HierarchicalMemoryVectorStore) -> None:
    fruit.memory.add([StoredPiece("A plum tree. " * 200, id="tree", metadata={"sweet": 9})])
    found = fruit.max_marginal_relevance_search("plum", k=4, filter={"sweet": 9}, unique_documents=True)
    assert [doc.id for doc in found] == ["tree"]
    assert len(fruit.max_marginal_relevance_search("plum", k=2, filter={"sweet": 9}, exact=True)) == 2


def test_marginal_relevance_of_an_empty_store(store: HierarchicalMemoryVectorStore) -> None:
    assert store.max_marginal_relevance_search("apple") == []


async def test_a_blank_query_finds_what_the_filter_lets_through(
    fruit: HierarchicalMemoryVectorStore,
) -> None:
    asked: dict[str, Any] = {"k": 3, "filter": {"sweet": {"$gte": 2}}}
    found = fruit.similarity_search("", **asked)
    assert found == await fruit.asimilarity_search("", **asked)
    assert [doc.id for doc in found] == ["c", "d"]
    for pairs in (
        fruit.similarity_search_with_score(" ", **asked),
        await fruit.asimilarity_search_with_score(" ", **asked),
    ):
        assert [(doc.id, score) for doc, score in pairs] == [("c", 0.0), ("d", 0.0)]
    for pairs in (
        fruit.similarity_search_with_relevance_scores("", score_threshold=0.5, **asked),
        await fruit.asimilarity_search_with_relevance_scores("", score_threshold=0.5, **asked),
    ):
        assert [(doc.id, relevance) for doc, relevance in pairs] == [("c", 1.0), ("d", 1.0)]
    for found in (
        fruit.max_marginal_relevance_search("", **asked),
        await fruit.amax_marginal_relevance_search("", **asked),
    ):
        assert {doc.id for doc in found} == {"c", "d"}
    assert len(fruit.similarity_search("", k=3)) == 3


@pytest.mark.parametrize("search_type", ["similarity", "mmr", "similarity_score_threshold"])
async def test_as_retriever(fruit: HierarchicalMemoryVectorStore, search_type: str) -> None:
    options = {"score_threshold": 0.0} if search_type == "similarity_score_threshold" else {}
    retriever = fruit.as_retriever(search_type=search_type, search_kwargs={"k": 3, **options})
    assert isinstance(retriever, VectorStoreRetriever)
    assert len(retriever.invoke("apple")) == 3
    assert len(await retriever.ainvoke("apple", k=1, filter={"sweet": 3})) == 1


def test_delete_by_filter_and_by_id(fruit: HierarchicalMemoryVectorStore) -> None:
    assert fruit.delete(filter={"sweet": {"$gte": 2}})
    assert fruit.delete(["a", "unknown"])
    assert fruit.delete([])
    assert [doc.id for doc in fruit.similarity_search("apple", k=10)] == ["b"]


@pytest.mark.parametrize("twin", ["sync", "async"])
async def test_delete_of_nothing_in_particular_empties_this_namespace_only(
    memory: MemoryIndex, twin: str
) -> None:
    ann, bob = (HierarchicalMemoryVectorStore(memory, namespace=("users", name)) for name in ("ann", "bob"))
    for store in (ann, bob):
        store.add_texts(TEXTS, ids=IDS)
    assert ann.delete() if twin == "sync" else await ann.adelete()
    assert ann.similarity_search("apple") == ann.get_by_ids(IDS) == []
    assert len(bob.get_by_ids(IDS)) == 4


def test_masked_documents_are_not_handed_out(fruit: HierarchicalMemoryVectorStore) -> None:
    fruit.memory.mask(["a"], label="draft")
    assert [doc.id for doc in fruit.get_by_ids(["a", "b"])] == ["b"]
    assert "a" not in {doc.id for doc in fruit.similarity_search("red apple")}
    fruit.memory.unmask(label="draft")
    assert [doc.id for doc in fruit.get_by_ids(["a", "b"])] == ["a", "b"]


def test_a_removed_text_is_found_no_more(fruit: HierarchicalMemoryVectorStore) -> None:
    fruit.delete(["d"])
    assert all("plum" not in doc.page_content for doc in fruit.similarity_search("blue plum", k=10))
    assert fruit.memory.verify().ok


def test_stores_of_other_namespaces_share_ids_but_no_documents(memory: MemoryIndex) -> None:
    ann, bob = (HierarchicalMemoryVectorStore(memory, namespace=("users", name)) for name in ("ann", "bob"))
    ann.add_texts(["Ann likes tea."], ids=["drink"])
    bob.add_texts(["Bob likes coffee."], ids=["drink"])
    assert [doc.page_content for doc in ann.similarity_search("coffee")] == ["Ann likes tea."]
    assert [doc.page_content for doc in bob.get_by_ids(["drink"])] == ["Bob likes coffee."]
    everybody = HierarchicalMemoryVectorStore(memory, namespace="users")
    assert len(everybody.similarity_search("likes", prefix=True)) == 2


async def test_bad_input_is_refused_and_nothing_is_stored(store: HierarchicalMemoryVectorStore) -> None:
    with pytest.raises(InvalidDocumentError, match="empty"):
        store.add_texts(["good", ""])
    with pytest.raises(InvalidDocumentError, match="twice"):
        store.add_texts(["one", "two"], ids=["same", "same"])
    for ids in (["1"], [], iter(["1"])):
        with pytest.raises(InvalidInputError, match="expected 2 ids, one for each document"):
            store.add_texts(["one", "two"], ids=ids)
    for metadatas in ([{}], []):
        with pytest.raises(InvalidInputError, match="expected 2 metadatas"):
            store.add_texts(["one", "two"], metadatas)
    with pytest.raises(InvalidTypeError, match="ids takes a list, got the string 'ab'"):
        store.add_texts(["one", "two"], ids="ab")
    with pytest.raises(InvalidDocumentError, match="id is empty"):
        store.add_texts(["one"], ids=[""])
    with pytest.raises(InvalidTypeError, match="item 1: expected a LangChain Document, got str"):
        store.add_documents([Document(page_content="one"), "two"])
    with pytest.raises(InvalidDocumentError):
        store.add_texts(["one"], [{"when": object()}])
    documents = [Document(page_content="one"), Document(page_content=" ")]
    with pytest.raises(InvalidDocumentError, match=r"document 'b'.*: the text is empty"):
        await store.aadd_documents(documents, ids=["a", "b"])
    with pytest.raises(InvalidInputError):
        store.similarity_search("one", k=0)
    assert store.memory.stats().documents == 0


async def test_unknown_options_are_named(fruit: HierarchicalMemoryVectorStore) -> None:
    vector = fruit.embeddings.embed_query("apple")
    for search in (
        partial(fruit.similarity_search, "apple"),
        partial(fruit.similarity_search_with_score, "apple"),
        partial(fruit.similarity_search_with_relevance_scores, "apple"),
        partial(fruit.similarity_search_by_vector, vector),
        partial(fruit.max_marginal_relevance_search, "apple"),
        partial(fruit.max_marginal_relevance_search_by_vector, vector),
    ):
        with pytest.raises(InvalidTypeError, match=r"unknown option 'top_k'; did you mean k\?"):
            search(top_k=3)
        with pytest.raises(InvalidTypeError, match=r"unknown option 'filters'; did you mean filter\?"):
            search(filters={})
    with pytest.raises(InvalidTypeError, match="'top_k'"):
        await fruit.asimilarity_search("apple", top_k=3)
    with pytest.raises(InvalidTypeError, match="goes with search_type='similarity_score_threshold'"):
        fruit.as_retriever(search_kwargs={"score_threshold": 0.5}).invoke("apple")
    with pytest.raises(InvalidTypeError, match="unknown option 'upsert'; expected one of ids, namespace"):
        fruit.add_texts(["pear"], upsert=True)
    with pytest.raises(InvalidTypeError, match="unknown option 'where'; did you mean filter"):
        await fruit.adelete(where={})
    assert len(fruit.get_by_ids(IDS)) == 4


def test_dates_are_kept_as_text_that_sorts(store: HierarchicalMemoryVectorStore) -> None:
    zone = timezone(timedelta(hours=2))
    metadatas: list[dict[str, Any]] = [
        {"at": datetime(2024, 5, 1, 1, 30, tzinfo=zone), "days": [date(2024, 5, 1)]},
        {"at": datetime(2024, 5, 1, 0, 30, tzinfo=timezone.utc), "nested": {"time": dt_time(9, 5)}},
    ]
    store.add_texts(["one", "two"], metadatas, ids=["1", "2"])
    assert [doc.metadata for doc in store.get_by_ids(["1", "2"])] == [
        {"at": "2024-04-30T23:30:00+00:00", "days": ["2024-05-01"]},
        {"at": "2024-05-01T00:30:00+00:00", "nested": {"time": "09:05:00"}},
    ]
    later = {"at": {"$gt": datetime(2024, 5, 1, 2, 0, tzinfo=zone)}}
    assert [doc.id for doc in store.similarity_search("one", filter=later)] == ["2"]
    store.delete(filter=later)
    assert [doc.id for doc in store.get_by_ids(["1", "2"])] == ["1"]


def test_from_documents_says_that_it_needs_a_folder(tmp_path: Path) -> None:
    embedding, documents = DeterministicFakeEmbedding(size=6), [Document(page_content="pear")]
    with pytest.raises(InvalidTypeError, match="expected path=, the folder"):
        HierarchicalMemoryVectorStore.from_documents(documents, embedding)
    with pytest.raises(InvalidTypeError, match=r"'persist_directory'; did you mean path\?"):
        HierarchicalMemoryVectorStore.from_documents(
            documents, embedding, path=tmp_path / "memory", persist_directory="x"
        )
    assert not (tmp_path / "memory").exists()


async def test_from_texts_and_documents_write_to_a_folder(tmp_path: Path) -> None:
    embedding = DeterministicFakeEmbedding(size=6)
    path = tmp_path / "memory"
    store = HierarchicalMemoryVectorStore.from_texts(TEXTS, embedding, METADATAS, ids=IDS, path=path)
    store.memory.close()
    more = [Document(page_content="white pear", id="e")]
    store = await HierarchicalMemoryVectorStore.afrom_documents(more, embedding, path=path, namespace="more")
    with store.memory as memory:
        assert [doc.id for doc in store.similarity_search("pear")] == ["e"]
        assert len(HierarchicalMemoryVectorStore(memory).get_by_ids(IDS)) == 4
        assert store.embeddings.embed_query("pear") == pytest.approx(embedding.embed_query("pear"), rel=1e-5)


def test_from_texts_closes_the_memory_when_a_text_is_refused(tmp_path: Path) -> None:
    embedding = DeterministicFakeEmbedding(size=6)
    with pytest.raises(InvalidDocumentError):
        HierarchicalMemoryVectorStore.from_texts([""], embedding, path=tmp_path / "memory")


async def test_writers_and_readers_run_at_the_same_time(store: HierarchicalMemoryVectorStore) -> None:
    texts = [f"text number {n}" for n in range(8)]
    await asyncio.gather(*(store.aadd_texts([text], ids=[text]) for text in texts))
    found = await asyncio.gather(*(store.asimilarity_search(text, k=1) for text in texts))
    assert [documents[0].id for documents in found] == texts
