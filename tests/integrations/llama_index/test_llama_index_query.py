"""Queries to the vector store: order, restrictions, words and vectors, what is refused."""

from __future__ import annotations

import asyncio

import pytest
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters, VectorStoreQuery
from llama_index.core.vector_stores.types import VectorStoreQueryMode
from llama_index_mllm import HierarchicalMemoryVectorStore

from mllm_plugin import Document, InvalidTypeError, MemoryIndex


def where(key: str, value: object) -> MetadataFilters:
    return MetadataFilters(filters=[MetadataFilter(key=key, value=value)])


def query(vector: list[float] | None, k: int = 10, **fields: object) -> VectorStoreQuery:
    return VectorStoreQuery(query_embedding=vector, similarity_top_k=k, **fields)


def test_order_and_similarities(
    filled: HierarchicalMemoryVectorStore, embedding, memory: MemoryIndex
) -> None:
    vector = embedding.get_query_embedding("dogs bark")
    result = filled.query(query(vector, k=7, query_str="dogs bark"))
    hits = memory.search("dogs bark", embedding=vector, k=7)
    assert result.ids == [hit.document_id for hit in hits] == [node.node_id for node in result.nodes]
    assert result.similarities == [hit.relevance for hit in hits]
    assert result.similarities == sorted(result.similarities, reverse=True)
    assert all(0 <= similarity <= 1 for similarity in result.similarities)
    assert result.ids[0] == "n2"


def test_words_count_beside_the_embedding(store: HierarchicalMemoryVectorStore, make_node) -> None:
    same = [1.0] * 16
    store.add([make_node(text, id_=text) for text in ("alpha one", "beta two", "gamma three")])
    for word in ("alpha", "beta", "gamma"):
        assert store.query(query(same, k=1, query_str=f"{word}?")).ids[0].startswith(word)


@pytest.mark.parametrize("k", [1, 3, 7, 100])
def test_top_k(filled: HierarchicalMemoryVectorStore, embedding, k: int) -> None:
    assert len(filled.query(query(embedding.get_query_embedding("dogs"), k=k)).ids) == min(k, 7)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"filters": where("animal", "dogs")}, {"n2", "n3"}),
        ({"node_ids": ["n1", "n4", "unknown"]}, {"n1", "n4"}),
        ({"node_ids": []}, {"n0", "n1", "n2", "n3", "n4", "n5", "alone"}),
        ({"doc_ids": ["doc0", "doc2"]}, {"n0", "n1", "n4", "n5"}),
        ({"doc_ids": ["alone"]}, {"alone"}),
        ({"doc_ids": []}, set()),
        ({"doc_ids": ["doc0"], "node_ids": ["n1", "n2"]}, {"n1"}),
        ({"doc_ids": ["doc0", "doc1"], "filters": where("row", 3)}, {"n3"}),
        ({"filters": MetadataFilters(filters=[])}, {"n0", "n1", "n2", "n3", "n4", "n5", "alone"}),
        ({"filters": where("ref_doc_id", "doc1")}, {"n2", "n3"}),
    ],
    ids=lambda value: str(list(value)) if isinstance(value, dict) else "",
)
def test_restrictions(
    filled: HierarchicalMemoryVectorStore, embedding, fields: dict, expected: set[str]
) -> None:
    vector = embedding.get_query_embedding("sleep")
    assert set(filled.query(query(vector, **fields)).ids) == expected
    assert set(asyncio.run(filled.aquery(query(vector, **fields))).ids) == expected


@pytest.mark.parametrize("blank", [None, "", "  "])
def test_question_without_words(filled: HierarchicalMemoryVectorStore, embedding, blank: str | None) -> None:
    assert filled.query(query(embedding.get_query_embedding("dogs bark"), k=1, query_str=blank)).ids == ["n2"]


def test_question_without_embedding_is_embedded_by_the_memory(
    filled: HierarchicalMemoryVectorStore, encoder
) -> None:
    assert filled.query(query(None, k=1, query_str="dogs bark")).ids == ["n2"]
    assert encoder.encoded == ["dogs bark"]


def test_hybrid_is_the_same_and_honours_its_own_top_k(
    filled: HierarchicalMemoryVectorStore, embedding
) -> None:
    asked = query(
        embedding.get_query_embedding("dogs"), k=7, query_str="dogs", mode=VectorStoreQueryMode.HYBRID
    )
    default = query(asked.query_embedding, k=7, query_str="dogs")
    assert filled.query(asked) == filled.query(default)
    asked.hybrid_top_k = 2
    assert filled.query(asked).ids == filled.query(default).ids[:2]
    asked.mode = "hybrid"
    assert filled.query(asked).ids == filled.query(default).ids[:2]


def test_options_of_one_call(filled: HierarchicalMemoryVectorStore, embedding, memory: MemoryIndex) -> None:
    vector = embedding.get_query_embedding("dogs")
    assert filled.query(query(vector), exact=True) == filled.query(query(vector))
    memory.add([Document("dogs elsewhere", id="x")], namespace="below")
    assert "x" in {node.ref_doc_id for node in filled.query(query(vector), prefix=True).nodes}
    with pytest.raises(InvalidTypeError, match="unknown option 'beem_width' of a query; expected"):
        filled.query(query(vector), beem_width=3)
    with pytest.raises(InvalidTypeError, match=r"'namespace' .*What the query and the store have fields for"):
        asyncio.run(filled.aquery(query(vector), namespace="below"))


@pytest.mark.parametrize("extra", [{"row": {"$gte": 3}}, where("row", 3)], ids=["memory", "llama-index"])
def test_a_filter_of_one_call_is_one_more_condition(
    filled: HierarchicalMemoryVectorStore, embedding, extra: object
) -> None:
    asked = query(embedding.get_query_embedding("dogs"), filters=where("animal", "dogs"))
    assert filled.query(asked, filter=extra).ids == ["n3"]
    assert len(filled.query(query(asked.query_embedding), filter=extra).ids) > 0
    assert set(filled.query(asked).ids) == {"n2", "n3"}


def test_documents_of_the_memory_itself_are_found(
    filled: HierarchicalMemoryVectorStore, memory: MemoryIndex, embedding
) -> None:
    memory.add([Document("Whales sing. " * 100, id="whales", metadata={"sea": True})])
    result = filled.query(query(embedding.get_query_embedding("whales sing"), k=2))
    assert [node.ref_doc_id for node in result.nodes] == ["whales", "whales"]
    assert len(set(result.ids)) == 2
    (node,) = filled.get_nodes(["whales"])
    assert (node.text, node.metadata) == ("Whales sing. " * 100, {"sea": True})
    filled.delete("whales")
    assert memory.get(["whales"]) == []
    assert len(filled.get_nodes()) == 7


def test_namespaces_do_not_mix(memory: MemoryIndex, make_node, embedding) -> None:
    one = HierarchicalMemoryVectorStore(memory, namespace=("users", "1"))
    two = HierarchicalMemoryVectorStore(memory, namespace="two")
    one.add([make_node("cats", id_="n", ref_doc_id="d")])
    two.add([make_node("dogs", id_="n", ref_doc_id="d")])
    assert [node.text for node in one.query(query(embedding.get_query_embedding("dogs"))).nodes] == ["cats"]
    one.delete("d")
    assert (one.get_nodes(), [node.text for node in two.get_nodes()]) == ([], ["dogs"])
    one.clear()
    assert len(two.get_nodes()) == 1
