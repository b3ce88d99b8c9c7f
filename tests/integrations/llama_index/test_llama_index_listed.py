"""Images and index nodes among texts: an index lists them in every query, and hides nothing by that."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from pathlib import Path

import pytest
from llama_index.core import StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.indices.vector_store.retrievers import VectorIndexRetriever
from llama_index.core.schema import BaseNode, ImageNode, IndexNode, TextNode
from llama_index.core.vector_stores import VectorStoreQuery
from llama_index.core.vector_stores.simple import SimpleVectorStore
from llama_index.core.vector_stores.types import BasePydanticVectorStore
from llama_index_mllm import HierarchicalMemoryVectorStore

from mllm_plugin import Document, MemoryIndex

LISTED = {
    "index": IndexNode(id_="listed", text="cats in short", index_id="elsewhere"),
    "image": ImageNode(id_="listed", text="a picture of cats", image_path="/tmp/cats.png"),
    "image without text": ImageNode(
        id_="listed", image_url="http://localhost/a.png", metadata={"of": "cats"}
    ),
}
Build = Callable[..., VectorStoreIndex]


@pytest.fixture
def build(embedding) -> Build:
    def make(store: BasePydanticVectorStore, nodes: list[BaseNode], **options: object) -> VectorStoreIndex:
        context = StorageContext.from_defaults(vector_store=store)
        return VectorStoreIndex(nodes, storage_context=context, embed_model=embedding, **options)

    return make


def texts(first: str = "t") -> list[BaseNode]:
    return [TextNode(id_=f"{first}{number}", text=f"cats sleep {number} hours") for number in range(8)]


def found(index: VectorStoreIndex, k: int = 50, **options: object) -> list[str]:
    retriever = index.as_retriever(similarity_top_k=k, **options)
    ids = [one.node.node_id for one in retriever.retrieve("cats in short")]
    assert [one.node.node_id for one in asyncio.run(retriever.aretrieve("cats in short"))] == ids
    return ids


@pytest.fixture(params=LISTED)
def listed(request: pytest.FixtureRequest) -> BaseNode:
    return copy.deepcopy(LISTED[request.param])


def test_one_among_texts_hides_none(store: HierarchicalMemoryVectorStore, build: Build, listed) -> None:
    index = build(store, [*texts(), listed])
    assert len(found(index, k=3)) == 3
    ids = [node.node_id for node in (*texts(), listed)]
    assert (
        sorted(found(index)) == sorted(ids) == sorted(found(build(SimpleVectorStore(), [*texts(), listed])))
    )


def test_inserted_later(store: HierarchicalMemoryVectorStore, build: Build, listed) -> None:
    index = build(store, texts())
    earlier = index.as_retriever(similarity_top_k=50)
    index.insert_nodes([listed])
    between = index.as_retriever(similarity_top_k=50)
    asyncio.run(index.ainsert_nodes([TextNode(id_="late", text="cats"), ImageNode(id_="more", text="cats")]))
    for retriever in (earlier, between, index.as_retriever(similarity_top_k=50)):
        assert len(retriever.retrieve("cats")) == 11
    index.delete_nodes(["more"])
    assert len(found(index)) == 10


def test_persisted_and_reloaded(store, build: Build, listed, embedding, tmp_path: Path) -> None:
    build(store, [*texts(), listed]).storage_context.persist(str(tmp_path))
    context = StorageContext.from_defaults(vector_store=store, persist_dir=str(tmp_path))
    index = load_index_from_storage(context, embed_model=embedding)
    assert len(found(index)) == 9
    assert len(found(VectorStoreIndex.from_vector_store(store, embed_model=embedding))) == 9


def test_objects(store: HierarchicalMemoryVectorStore, build: Build, embedding) -> None:
    inner = VectorStoreIndex([TextNode(id_="story", text="the whole story")], embed_model=embedding)
    node = IndexNode(id_="short", text="cats in short", index_id="story", obj=inner.as_retriever())
    index = build(store, texts(), objects=[node])
    assert found(index, k=1) == ["story"]
    assert set(found(index)) == {"story", *(node.node_id for node in texts())}


def test_a_second_writer(store: HierarchicalMemoryVectorStore, build: Build, memory: MemoryIndex) -> None:
    """`store_nodes_override` makes an index list all that it wrote itself."""
    index = build(store, texts(), store_nodes_override=True)
    retriever = index.as_retriever(similarity_top_k=50)
    build(HierarchicalMemoryVectorStore(memory), texts("second"))
    memory.add([Document("cats of the memory itself", id="own")])
    assert len(retriever.retrieve("cats")) == len(found(index)) == 17
    index.insert_nodes([TextNode(id_="late", text="cats")])
    assert len(retriever.retrieve("cats")) == 18


def test_restrictions_still_hold(store: HierarchicalMemoryVectorStore, build: Build, listed) -> None:
    index = build(store, [*texts(), listed])
    assert found(index, doc_ids=["listed"]) == ["listed"]
    chosen = VectorIndexRetriever(index, node_ids=["t1", "t4", "listed"], similarity_top_k=50)
    assert {one.node.node_id for one in chosen.retrieve("cats")} == {"t1", "t4", "listed"}
    assert {one.node.node_id for one in asyncio.run(chosen.aretrieve("cats"))} == {"t1", "t4", "listed"}
    for ids in (["listed"], ["t1"], ["t1", "unknown"]):
        asked = VectorStoreQuery(query_str="cats", similarity_top_k=50, node_ids=ids)
        assert store.query(asked).ids == [name for name in ids if name != "unknown"]
