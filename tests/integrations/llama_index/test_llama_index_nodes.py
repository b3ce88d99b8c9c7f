"""What goes in comes out: nodes of every kind, with all they carry, and nothing of ours."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pytest
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.schema import (
    ImageNode,
    IndexNode,
    MediaResource,
    MetadataMode,
    Node,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters, VectorStoreQuery
from llama_index_mllm import HierarchicalMemoryVectorStore

from mllm_plugin import Document, InvalidDocumentError, MemoryIndex

METADATA = {
    "year": 2020,
    "price": 1.5,
    "flag": True,
    "nothing": None,
    "empty": "",
    "tags": ["a", "b"],
    "mixed": [1, "x", None, {"deep": [True]}],
    "object": {"a": {"b": 1}},
    "big": 2**80,
    "ünicode 🐈": "„ß“\n\t\x00",
    "doc_id": "mine",
    "document_id": "mine too",
    "ref_doc_id": "and mine",
    "_node_content": "mine as well",
    "_node_id": "not the id",
    "_node_blank": True,
    "_source_id": "not the source",
    "text": "no text",
}


def where(key: str, value: object) -> MetadataFilters:
    return MetadataFilters(filters=[MetadataFilter(key=key, value=value)])


def query(vector: list[float] | None, k: int = 10, **fields: object) -> VectorStoreQuery:
    return VectorStoreQuery(query_embedding=vector, similarity_top_k=k, **fields)


def without_embedding(node: TextNode) -> TextNode:
    return node.model_copy(update={"embedding": None})


def test_node_comes_back_as_it_was(store: HierarchicalMemoryVectorStore, make_node) -> None:
    node = make_node(
        "  Text with blanks around it, {braces} and NUL \x00. \n",
        id_="node 1",
        metadata=METADATA,
        excluded_llm_metadata_keys=["year"],
        excluded_embed_metadata_keys=["price"],
        metadata_template="{key}={value}",
        metadata_separator=" | ",
        text_template="{content} ({metadata_str})",
        start_char_idx=10,
        end_char_idx=55,
        mimetype="text/x",
    )
    node.relationships = {
        NodeRelationship.SOURCE: RelatedNodeInfo(node_id="d", metadata={"m": 1}, hash="h"),
        NodeRelationship.PREVIOUS: RelatedNodeInfo(node_id="node 0"),
        NodeRelationship.CHILD: [RelatedNodeInfo(node_id="c1"), RelatedNodeInfo(node_id="c2")],
    }
    store.add([node])
    result = store.query(query(node.embedding))
    for found in (*result.nodes, *store.get_nodes(["node 1"]), *store.get_nodes()):
        assert found == without_embedding(node)
        assert found.hash == node.hash
        assert list(found.metadata) == list(node.metadata)
        for mode in MetadataMode:
            assert found.get_content(mode) == node.get_content(mode)
    assert result.ids == ["node 1"]


@pytest.mark.parametrize(
    "node",
    [
        Node(id_="n", text_resource=MediaResource(text="plain node"), metadata={"a": 1}),
        IndexNode(id_="n", text="points elsewhere", index_id="other"),
        IndexNode(id_="n", text="holds a node", index_id="other", obj=TextNode(id_="inner", text="inner")),
        ImageNode(id_="n", text="a caption", image_path="/tmp/cat.png"),
        ImageNode(id_="n", image_url="http://localhost/cat.png"),
        TextNode(id_="n", text="", metadata={"file": "empty.pdf"}),
        TextNode(id_="n", text=" \n "),
        Node(id_="n", metadata={"only": "metadata"}),
    ],
    ids=["Node", "IndexNode", "IndexNode-obj", "Image-caption", "Image", "empty", "blank", "Node-empty"],
)
def test_every_kind_of_node(store: HierarchicalMemoryVectorStore, embedding, node) -> None:
    vector = embedding.get_text_embedding("anything")
    store.add([node.model_copy(update={"embedding": vector})])
    (found,) = store.query(query(vector)).nodes
    assert type(found) is type(node)
    assert found == node
    assert store.get_nodes() == [node]


def test_values_that_are_no_json_come_back_as_llama_index_writes_them(
    store: HierarchicalMemoryVectorStore, make_node
) -> None:
    class Model(BaseModel):
        x: int = 1

    node = make_node("dated", id_="n", metadata={"day": date(2024, 1, 2), "pair": (1, 2), "model": Model()})
    store.add([node])
    assert store.get_nodes()[0].metadata == {"day": "2024-01-02", "pair": [1, 2], "model": {"x": 1}}
    assert store.get_nodes(filters=where("day", "2024-01-02"))


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (float("nan"), "'price' cannot be kept: float nan: JSON has no such number"),
        ({"deep": [1.0, float("-inf")]}, "'price' cannot be kept: float -inf"),
        (np.float32(1.5), r"'price' cannot be kept: numpy.float32 .*Unable to serialize"),
        ([np.int64(1)], "'price' cannot be kept: numpy.int64"),
        (np.ones(2), "'price' cannot be kept: numpy.ndarray"),
        (b"\xff", r"'price' cannot be kept: bytes b'\\xff'"),
        ({"a": {object()}}, "'price' cannot be kept: object"),
        ("\ud800", "'price' cannot be kept: str .*surrogates not allowed"),
        ({"\ud800": 1}, "'price' cannot be kept: int 1: .*surrogates not allowed"),
    ],
    ids=lambda part: type(part).__name__,
)
def test_what_cannot_be_kept_is_named(
    store: HierarchicalMemoryVectorStore, make_node, value: object, match: str
) -> None:
    batch = [make_node("fine", id_=f"n{row}", metadata={"row": row, "price": row}) for row in range(3)]
    batch[1].metadata["price"] = value
    with pytest.raises(InvalidDocumentError, match=f"node 'n1': metadata {match}"):
        store.add(batch)
    assert store.get_nodes() == []


def test_what_holds_itself_is_refused(store: HierarchicalMemoryVectorStore, make_node) -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(InvalidDocumentError, match=r"node 'n' cannot be written as JSON: .*recursion"):
        store.add([make_node("text", id_="n", metadata={"a": endless})])


def test_reserved_keys_stay_out_of_prompts(filled: HierarchicalMemoryVectorStore, nodes, embedding) -> None:
    result = filled.query(query(embedding.get_query_embedding("dogs"), k=7))
    for node in result.nodes:
        assert set(node.metadata) <= {"row", "animal"}
        for mode in (MetadataMode.LLM, MetadataMode.EMBED, MetadataMode.ALL):
            assert "_node" not in node.get_content(mode)
            assert "doc_id" not in node.get_content(mode)


def test_documents_that_look_like_nodes_are_documents(memory: MemoryIndex, store, embedding) -> None:
    metadata = {"_node_id": "x", "_node_content": "no JSON", "_node_type": "TextNode", "_source_id": 3}
    memory.add([Document("just a document", id="d", metadata=metadata)])
    (found,) = store.query(query(embedding.get_query_embedding("document"))).nodes
    assert (found.text, found.metadata, found.ref_doc_id) == ("just a document", metadata, "d")
    assert store.get_nodes()[0].metadata == metadata


def test_adding_again_replaces(filled: HierarchicalMemoryVectorStore, nodes, make_node) -> None:
    changed = make_node("cows moo", id_="n0", ref_doc_id="doc9", metadata={"row": 99})
    filled.add([changed])
    assert filled.get_nodes(["n0"]) == [without_embedding(changed)]
    assert len(filled.get_nodes()) == len(nodes)
    assert filled.query(query(changed.embedding, k=1)).ids == ["n0"]


def test_a_new_embedding_alone_is_taken(store: HierarchicalMemoryVectorStore, make_node, embedding) -> None:
    store.add([make_node("same text", id_="a"), make_node("other text", id_="b")])
    vector = embedding.get_text_embedding("something else entirely")
    store.add([make_node("same text", id_="a").model_copy(update={"embedding": vector})])
    assert store.query(query(vector, k=1)).ids == ["a"]


def test_survives_reopening(tmp_path: Path, make_node) -> None:
    node = make_node("kept", id_="n", ref_doc_id="d", metadata={"a": 1})
    store = HierarchicalMemoryVectorStore.from_params(tmp_path / "m", dim=16, namespace="docs")
    store.add([node])
    store.client.close()
    again = HierarchicalMemoryVectorStore.from_params(tmp_path / "m", namespace="docs")
    assert again.get_nodes() == [without_embedding(node)]
    again.client.close()


def test_nothing_is_encoded_again(filled: HierarchicalMemoryVectorStore, encoder, embedding) -> None:
    vector = embedding.get_query_embedding("dogs bark")
    filled.query(query(vector, query_str="dogs bark"))
    filled.query(query(vector))
    assert encoder.encoded == []


def test_adding_nothing(store: HierarchicalMemoryVectorStore) -> None:
    assert store.add([]) == []
