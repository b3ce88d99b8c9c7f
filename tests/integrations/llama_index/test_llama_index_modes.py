"""Query modes: words alone, embedding and words weighed by alpha, results unlike each other; no question."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.base.llms.types import CompletionResponse
from llama_index.core.chat_engine.types import ChatMode
from llama_index.core.indices.vector_store.retrievers import VectorIndexAutoRetriever
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import TextNode
from llama_index.core.tools import QueryEngineTool, RetrieverTool, ToolMetadata
from llama_index.core.vector_stores import (
    MetadataFilter,
    MetadataFilters,
    MetadataInfo,
    VectorStoreInfo,
    VectorStoreQuery,
)
from llama_index.core.vector_stores.simple import SimpleVectorStore
from llama_index.core.vector_stores.types import VectorStoreQueryMode as Mode
from llama_index_mllm import HierarchicalMemoryRetriever, HierarchicalMemoryVectorStore

from mllm_plugin import Document, MemoryConfig, MemoryIndex, TreeConfig
from mllm_plugin.config import SearchConfig
from mllm_plugin.encoders import VectorsOnly

DOGS = MetadataFilters(filters=[MetadataFilter(key="animal", value="dogs")])


def ask(text: str | None, vector: object = None, k: int = 10, **fields: object) -> VectorStoreQuery:
    return VectorStoreQuery(query_str=text, query_embedding=vector, similarity_top_k=k, **fields)


@pytest.fixture
def index(filled: HierarchicalMemoryVectorStore, embedding) -> VectorStoreIndex:
    return VectorStoreIndex.from_vector_store(filled, embed_model=embedding)


# -- words and embeddings


@pytest.mark.parametrize("mode", [Mode.SPARSE, Mode.TEXT_SEARCH])
def test_words_alone(filled: HierarchicalMemoryVectorStore, embedding, encoder, mode: Mode) -> None:
    vector = embedding.get_query_embedding("cats sleep")  # counts for nothing
    for asked in (ask("dogs run", mode=mode), ask("dogs run", vector, mode=mode)):
        result = filled.query(asked)
        assert result.ids[0] == "n3"
        assert set(result.ids) == {"n2", "n3", "n4"}
        assert result.similarities == sorted(result.similarities, reverse=True)
        assert asyncio.run(filled.aquery(asked)) == result
    assert filled.query(ask("unicorns", mode=mode)).ids == []
    assert filled.query(ask("dogs run", k=1, mode=mode)).ids == ["n3"]
    assert encoder.encoded == []


def test_words_alone_through_an_index(index: VectorStoreIndex, embedding) -> None:
    embedding.embedded.clear()
    for mode in ("sparse", "text_search"):
        found = index.as_retriever(vector_store_query_mode=mode, filters=DOGS).retrieve("run")
        assert [one.node.node_id for one in found] == ["n3"]
    assert embedding.embedded == []


def test_sparse_top_k(filled: HierarchicalMemoryVectorStore) -> None:
    assert len(filled.query(ask("dogs run", mode=Mode.SPARSE, sparse_top_k=2)).ids) == 2


def test_alpha_weighs_embedding_against_words(filled: HierarchicalMemoryVectorStore, embedding) -> None:
    vector = embedding.get_query_embedding("cats sleep")

    def found(alpha: float, **fields: object) -> list[str]:
        return filled.query(ask("dogs bark", vector, mode=Mode.HYBRID, alpha=alpha, **fields)).ids

    assert found(1.0) == filled.query(ask(None, vector)).ids
    assert found(0.0) == filled.query(ask("dogs bark", mode=Mode.SPARSE)).ids
    assert (found(0.9)[0], found(0.1)[0]) == ("n0", "n2")
    near, worded = found(1.0, k=2), found(0.0, sparse_top_k=1)
    assert set(found(0.5, k=2, sparse_top_k=1, hybrid_top_k=9)) == {*near, *worded}
    assert found(0.6, k=2, sparse_top_k=1, hybrid_top_k=1) == [near[0]]


def test_alpha_through_an_index(index: VectorStoreIndex) -> None:
    retriever = index.as_retriever(
        vector_store_query_mode="hybrid", similarity_top_k=2, sparse_top_k=2, alpha=0.5
    )
    found = retriever.retrieve("dogs bark")
    assert found[0].node.node_id == "n2"
    assert found[0].score == 1.0
    assert len(found) == 2


def test_a_memory_that_is_walked(tmp_path: Path, make_node: Callable[..., TextNode]) -> None:
    """A walk without direction finds what matches a filter, and words are compared everywhere."""
    config = MemoryConfig(tree=TreeConfig(fan_out=4), search=SearchConfig(flat_below=0, beam_width=1))
    with MemoryIndex.open(tmp_path, encoder=VectorsOnly(16), config=config) as memory:
        store = HierarchicalMemoryVectorStore(memory)
        store.add([make_node(f"text {row}", id_=str(row), metadata={"of": row % 50}) for row in range(400)])
        store.add([make_node(f"text {row} common", id_=str(row)) for row in range(0, 400, 10)])
        of = MetadataFilters(filters=[MetadataFilter(key="of", value=7)])
        assert {node.metadata["of"] for node in store.query(ask("", k=8, filters=of)).nodes} == {7}
        assert len(store.query(ask("", k=99, filters=of)).ids) == 8
        assert len(store.query(ask("", k=300)).ids) == 300
        assert len(store.query(ask("common", k=99, mode=Mode.SPARSE)).ids) == 40


# -- results unlike each other


@pytest.fixture
def copies(
    store: HierarchicalMemoryVectorStore, make_node: Callable[..., TextNode], embedding
) -> VectorStoreIndex:
    """Thirty times nearly the same, and two others."""
    texts = [f"dogs bark loudly at night {row}" for row in range(30)]
    store.add([make_node(text, id_=f"same{row}") for row, text in enumerate(texts)])
    store.add([make_node("dogs run", id_="run"), make_node("cats sleep all day", id_="cats")])
    return VectorStoreIndex.from_vector_store(store, embed_model=embedding)


def mmr(index: VectorStoreIndex, k: int, **options: object) -> list[str]:
    retriever = index.as_retriever(
        similarity_top_k=k, vector_store_query_mode="mmr", vector_store_kwargs=options
    )
    return [one.node.node_id for one in retriever.retrieve("dogs bark at night")]


def test_mmr(copies: VectorStoreIndex, embedding, encoder) -> None:
    plain = copies.as_retriever(similarity_top_k=3).retrieve("dogs bark at night")
    best = [one.node.node_id for one in plain]
    assert {name[:4] for name in best} == {"same"}
    embedding.embedded.clear()
    found = mmr(copies, 3, mmr_threshold=0.3, mmr_prefetch_k=99)
    assert {"run", "cats"} < set(found)
    assert {name[:4] for name in mmr(copies, 3, mmr_threshold=1.0)} == {"same"}
    assert set(mmr(copies, 3, mmr_threshold=0.3, mmr_prefetch_factor=1.0)) == set(best)
    assert embedding.embedded == ["dogs bark at night"] * 3  # the stored vectors are not made again
    assert encoder.encoded == []


def test_mmr_gives_as_many_as_asked_for(copies: VectorStoreIndex) -> None:
    for k in (1, 30, 99):
        assert len(set(mmr(copies, k))) == min(k, 32)


def test_mmr_of_a_query_without_embedding(filled: HierarchicalMemoryVectorStore, encoder) -> None:
    result = filled.query(ask("dogs bark", k=3, mode=Mode.MMR, mmr_threshold=0.5))
    assert result.ids[0] == "n2"
    assert set(encoder.encoded) == {"dogs bark"}
    assert all(0 <= score <= 1 for score in result.similarities)
    nothing = MetadataFilters(filters=[MetadataFilter(key="animal", value="unicorns")])
    assert filled.query(ask("dogs", mode=Mode.MMR, filters=nothing)).ids == []


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
def test_mmr_is_that_of_the_simple_store(filled, nodes, embedding, threshold: float) -> None:
    simple = SimpleVectorStore()
    simple.add(nodes)
    asked = ask(None, embedding.get_query_embedding("dogs or cats at night"), k=2, mode=Mode.MMR)
    expected = simple.query(asked, mmr_threshold=threshold).ids
    assert filled.query(asked, mmr_threshold=threshold, mmr_prefetch_k=99).ids == expected


def test_each_is_compared_with_all_before(store, make_node) -> None:
    """A copy of the first is no news in the third place either."""
    here, there, away = np.eye(16)[:3]
    for name, vector in [("a", here), ("a again", here), ("b", here + there), ("c", here + 2 * away)]:
        store.add([make_node(name, id_=name).model_copy(update={"embedding": vector.tolist()})])
    asked = ask(None, (here + 0.1 * there).tolist(), k=3, mode=Mode.MMR, mmr_threshold=0.4)
    assert set(store.query(asked).ids) & {"a", "a again"} != {"a", "a again"}


# -- no question


@pytest.mark.parametrize("mode", [Mode.DEFAULT, Mode.HYBRID, Mode.SPARSE, Mode.TEXT_SEARCH, Mode.MMR])
@pytest.mark.parametrize("blank", [None, "", " \n"], ids=repr)
def test_no_question_finds_what_matches(filled, encoder, blank: str | None, mode: Mode) -> None:
    for k, count in ((1, 1), (9, 2)):
        asked = ask(blank, k=k, mode=mode, filters=DOGS)
        result = filled.query(asked)
        assert len(result.ids) == count
        assert set(result.ids) <= {"n2", "n3"}
        assert result.similarities is None
        assert asyncio.run(filled.aquery(asked)) == result
    assert len(filled.query(ask(blank, k=5, mode=mode)).ids) == 5
    assert encoder.encoded == []


def test_no_question_respects_masks_and_labels(filled, memory: MemoryIndex) -> None:
    memory.mask(["n2"])
    assert filled.query(ask("", filters=DOGS)).ids == ["n3"]
    memory.add([Document("dogs of a draft", id="draft", metadata={"animal": "dogs"}, labels=("draft",))])
    assert len(filled.query(ask("", filters=DOGS)).ids) == 2
    assert filled.query(ask("", filters=DOGS), exclude_labels=["draft"]).ids == ["n3"]


def test_auto_retriever_with_metadata_only(index: VectorStoreIndex, llm, monkeypatch) -> None:
    spec = '{"query": "", "filters": [{"key": "animal", "value": "dogs", "operator": "=="}], "top_k": null}'
    monkeypatch.setattr(type(llm), "complete", lambda *_, **__: CompletionResponse(text=spec))
    info = VectorStoreInfo(
        content_info="animals", metadata_info=[MetadataInfo(name="animal", type="str", description="which")]
    )
    retriever = VectorIndexAutoRetriever(index, vector_store_info=info, llm=llm)
    assert {one.node.node_id for one in retriever.retrieve("all about dogs")} == {"n2", "n3"}
    assert {one.node.node_id for one in asyncio.run(retriever.aretrieve("all about dogs"))} == {"n2", "n3"}


def test_tools_called_without_a_question(index: VectorStoreIndex, memory: MemoryIndex, llm) -> None:
    about = ToolMetadata(name="notes", description="notes")
    for retriever in (
        index.as_retriever(similarity_top_k=2, filters=DOGS),
        HierarchicalMemoryRetriever(memory, k=2, filter=DOGS),
    ):
        tool = QueryEngineTool(RetrieverQueryEngine.from_args(retriever, llm=llm), about)
        for output in (tool(input=""), asyncio.run(tool.acall(input=""))):
            assert {one.node.node_id for one in output.raw_output.source_nodes} == {"n2", "n3"}
        found = RetrieverTool(retriever, about)(input="")
        assert {one.node.node_id for one in found.raw_output} == {"n2", "n3"}


@pytest.mark.parametrize(
    "mode", [ChatMode.CONTEXT, ChatMode.CONDENSE_PLUS_CONTEXT, ChatMode.CONDENSE_QUESTION]
)
def test_chat_engines_take_a_blank_message(index: VectorStoreIndex, llm, mode: ChatMode) -> None:
    history = ChatMemoryBuffer.from_defaults(token_limit=3000)
    engine = index.as_chat_engine(chat_mode=mode, llm=llm, memory=history, similarity_top_k=2, filters=DOGS)
    for response in (engine.chat(""), asyncio.run(engine.achat(""))):
        assert {one.node.node_id for one in response.source_nodes} == {"n2", "n3"}
