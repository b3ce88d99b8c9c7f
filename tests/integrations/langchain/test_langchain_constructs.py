"""What LangChain builds of retrievers and vector stores, over the memory."""

from __future__ import annotations

import json
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from langchain_classic.chains.query_constructor.schema import AttributeInfo
from langchain_classic.retrievers import (
    EnsembleRetriever,
    MultiQueryRetriever,
    ParentDocumentRetriever,
    TimeWeightedVectorStoreRetriever,
)
from langchain_classic.retrievers.self_query.base import SelfQueryRetriever
from langchain_core.documents import Document
from langchain_core.example_selectors import MaxMarginalRelevanceExampleSelector
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_core.language_models import FakeListChatModel
from langchain_core.runnables import RunnableParallel
from langchain_core.stores import InMemoryStore
from langchain_core.tools import create_retriever_tool
from langchain_mllm import (
    HierarchicalMemoryRetriever,
    HierarchicalMemoryTranslator,
    HierarchicalMemoryVectorStore,
    MemoryEmbeddings,
)
from langchain_text_splitters import CharacterTextSplitter

from mllm_plugin import MemoryIndex

ATTRIBUTES = [
    AttributeInfo(name="moons", description="Number of moons", type="integer"),
    AttributeInfo(name="seen", description="Day of discovery", type="date"),
]


@pytest.fixture
def retriever(planets: MemoryIndex) -> HierarchicalMemoryRetriever:
    return HierarchicalMemoryRetriever(memory=planets, k=3)


@pytest.fixture
def store(planets: MemoryIndex) -> HierarchicalMemoryVectorStore:
    return HierarchicalMemoryVectorStore(planets)


def ids(documents: list[Document]) -> list[str | None]:
    return [document.id for document in documents]


def scripted(*answers: str) -> FakeListChatModel:
    """Gives these answers, again and again."""
    return FakeListChatModel(responses=list(answers))


def self_query(
    store: HierarchicalMemoryVectorStore,
    condition: str,
    query: str = "",
    limit: int | None = None,
    **options: Any,
) -> SelfQueryRetriever:
    """A self-query retriever whose model wrote this query."""
    written = json.dumps({"query": query, "filter": condition, "limit": limit})
    return SelfQueryRetriever.from_llm(
        scripted(f"```json\n{written}\n```"),
        store,
        "Planets",
        ATTRIBUTES,
        structured_query_translator=HierarchicalMemoryTranslator(),
        enable_limit=True,
        **options,
    )


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ('gt("moons", 0)', {"earth", "mars", "jupiter"}),
        ('and(gte("moons", 1), lt("moons", 95))', {"earth", "mars"}),
        ('or(eq("moons", 1), lte("moons", 0))', {"earth", "mercury", "venus"}),
        ('not(eq("moons", 0))', {"earth", "mars", "jupiter"}),
        ('ne("moons", 0)', {"earth", "mars", "jupiter"}),
        ('in("moons", [2, 95])', {"mars", "jupiter"}),
        ('in("moons", 2)', {"mars"}),
        ('nin("moons", [0, 95])', {"earth", "mars"}),
        ('contain("moons", 2)', {"mars"}),
        ("NO_FILTER", {"mercury", "venus", "earth", "mars", "jupiter"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("search_type", ["similarity", "mmr", "similarity_score_threshold"])
async def test_a_self_query_by_metadata_alone(
    store: HierarchicalMemoryVectorStore, condition: str, expected: set[str], search_type: str
) -> None:
    options = {"score_threshold": 0.5} if search_type == "similarity_score_threshold" else {}
    asking = self_query(store, condition, search_type=search_type, search_kwargs={"k": 9, **options})
    assert set(ids(asking.invoke("Which?"))) == set(ids(await asking.ainvoke("Which?"))) == expected


def test_a_self_query_with_words_a_limit_and_dates(store: HierarchicalMemoryVectorStore) -> None:
    assert ids(self_query(store, 'gt("moons", 1)', "a red planet").invoke("Which?")) == ["mars", "jupiter"]
    assert len(self_query(store, "NO_FILTER", limit=2).invoke("Two planets")) == 2
    found = [("uranus", date(1781, 3, 13)), ("neptune", date(1846, 9, 23))]
    store.add_texts([name for name, _ in found], [{"seen": day} for _, day in found])
    [neptune] = self_query(store, 'gt("seen", "1800-01-01")').invoke("Which were found later?")
    assert (neptune.page_content, neptune.metadata) == ("neptune", {"seen": "1846-09-23"})


@pytest.mark.parametrize("text", ["", "  "])
def test_a_tool_called_with_nothing(retriever: HierarchicalMemoryRetriever, text: str) -> None:
    tool = create_retriever_tool(
        retriever, "planets", "Finds planets.", response_format="content_and_artifact"
    )
    call = {"name": "planets", "args": {"query": text}, "id": "1", "type": "tool_call"}
    assert len(tool.invoke(call).artifact) == 3


@pytest.mark.parametrize("kind", ["retriever", "store", "mmr"])
async def test_several_queries_count_a_chunk_once(
    retriever: HierarchicalMemoryRetriever, store: HierarchicalMemoryVectorStore, kind: str
) -> None:
    asked = {
        "retriever": retriever,
        "store": store.as_retriever(),
        "mmr": store.as_retriever(search_type="mmr", search_kwargs={"k": 5, "fetch_k": 2}),
    }[kind]
    several = MultiQueryRetriever.from_llm(asked, scripted("a red planet\noceans and one moon\nred planet"))
    for documents in (several.invoke("planets"), await several.ainvoke("planets")):
        assert len(set(ids(documents))) == len(documents) >= 3
        assert {"mars", "earth"} <= set(ids(documents))


async def test_an_ensemble_joins_what_both_find(
    retriever: HierarchicalMemoryRetriever, store: HierarchicalMemoryVectorStore
) -> None:
    ensemble = EnsembleRetriever(retrievers=[retriever, store.as_retriever()], weights=[0.5, 0.5])
    for documents in (ensemble.invoke("a red planet"), await ensemble.ainvoke("a red planet")):
        assert documents[0].id == "mars"
        assert len(set(ids(documents))) == len(documents)


@pytest.mark.parametrize("search_type", ["similarity", "mmr"])
async def test_small_pieces_lead_to_their_parents(memory: MemoryIndex, search_type: str) -> None:
    store = HierarchicalMemoryVectorStore(memory, namespace="children")
    parents = ParentDocumentRetriever(
        vectorstore=store,
        docstore=InMemoryStore(),
        child_splitter=CharacterTextSplitter(separator=".", chunk_size=30, chunk_overlap=0),
        search_type=search_type,
        search_kwargs={"k": 2},
    )
    texts = ["Tides are high at nine. The sea is cold.", "Bees dance at noon. They point to flowers."]
    parents.add_documents([Document(page_content=text) for text in texts])
    assert memory.stats().documents == 4
    assert [document.page_content for document in parents.invoke("Bees dance at noon")][:1] == texts[1:]
    assert {document.page_content for document in await parents.ainvoke("")} <= set(texts)


@pytest.mark.parametrize("given", [{}, {"current_time": datetime(2024, 1, 1, 12)}], ids=["now", "given"])
async def test_time_weighted_retrieval(memory: MemoryIndex, given: dict[str, Any]) -> None:
    store = HierarchicalMemoryVectorStore(memory)
    timed = TimeWeightedVectorStoreRetriever(vectorstore=store, decay_rate=0.99, k=1)
    old = datetime.now() - timedelta(days=2)
    timed.add_documents([Document(page_content="a red apple", metadata={"last_accessed_at": old})], **given)
    await timed.aadd_documents([Document(page_content="a blue plum")], **given)
    [found] = timed.invoke("a plum")
    assert found.page_content == "a blue plum"
    assert (await timed.ainvoke("a plum"))[0].metadata["buffer_idx"] == 1
    [apple] = store.similarity_search("apple", filter={"last_accessed_at": {"$in": [old]}})
    assert apple.metadata["last_accessed_at"] == old.isoformat()


async def test_side_by_side_and_in_batches(
    retriever: HierarchicalMemoryRetriever, store: HierarchicalMemoryVectorStore
) -> None:
    both = RunnableParallel(memory=retriever, store=store.as_retriever(search_kwargs={"k": 3}))
    queries = ["red planet", "", "oceans", "thick cloud"] * 2
    one_by_one = [both.invoke(query) for query in queries]
    assert [ids(found["memory"]) for found in one_by_one] == [ids(found["store"]) for found in one_by_one]
    assert both.batch(queries) == await both.abatch(queries) == one_by_one


def test_what_was_found_is_indexed_once(retriever: HierarchicalMemoryRetriever, planets: MemoryIndex) -> None:
    records = InMemoryRecordManager("found")
    records.create_schema()
    store = HierarchicalMemoryVectorStore(planets, namespace="found")
    counts = [
        index(retriever.invoke(query, k=5), records, store, key_encoder="sha256")["num_added"]
        for query in ("a red planet", "oceans")
    ]
    assert counts == [5, 0]


def test_examples_that_differ(tmp_path: Any, encoder: Any) -> None:
    selector = MaxMarginalRelevanceExampleSelector.from_examples(
        [{"word": "tall"}, {"word": "happy"}],
        MemoryEmbeddings(encoder),
        HierarchicalMemoryVectorStore,
        k=1,
        path=tmp_path / "examples",
    )
    with selector.vectorstore.memory:  # pyright: ignore[reportAttributeAccessIssue]
        selector.add_example({"word": "big"})
        assert selector.select_examples({"word": "big"}) == [{"word": "big"}]
