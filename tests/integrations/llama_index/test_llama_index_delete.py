"""Reading nodes back and deleting them: by source, by id, by filter, all of them."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters, VectorStoreQuery
from llama_index_mllm import HierarchicalMemoryVectorStore

from mllm_plugin import (
    MemoryIndex,
    RemoveReport,
)


def where(key: str, value: object) -> MetadataFilters:
    return MetadataFilters(filters=[MetadataFilter(key=key, value=value)])


def query(vector: list[float] | None, k: int = 10, **fields: object) -> VectorStoreQuery:
    return VectorStoreQuery(query_embedding=vector, similarity_top_k=k, **fields)


@pytest.mark.parametrize(
    ("ids", "filters", "expected"),
    [
        (None, None, ["alone", "n0", "n1", "n2", "n3", "n4", "n5"]),
        (["n1", "n3", "unknown"], None, ["n1", "n3"]),
        ([], None, []),
        (None, where("animal", "dogs"), ["n2", "n3"]),
        (["n3", "n1"], where("animal", "dogs"), ["n3"]),
        ([], where("animal", "dogs"), []),
    ],
)
def test_get_nodes(filled: HierarchicalMemoryVectorStore, ids, filters, expected: list[str]) -> None:
    assert sorted(node.node_id for node in filled.get_nodes(ids, filters)) == expected
    assert sorted(node.node_id for node in asyncio.run(filled.aget_nodes(ids, filters))) == expected


def test_get_nodes_keeps_the_order_of_ids(filled: HierarchicalMemoryVectorStore) -> None:
    assert [node.node_id for node in filled.get_nodes(["n3", "alone", "n1"])] == ["n3", "alone", "n1"]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(
    ("ids", "filters", "left"),
    [
        (["n0", "unknown"], None, ["alone", "n1", "n2", "n3", "n4", "n5"]),
        (None, where("animal", "dogs"), ["alone", "n0", "n1", "n4", "n5"]),
        (["n2", "n0"], where("animal", "dogs"), ["alone", "n0", "n1", "n3", "n4", "n5"]),
        ([], None, ["alone", "n0", "n1", "n2", "n3", "n4", "n5"]),
    ],
)
def test_delete_nodes(filled: HierarchicalMemoryVectorStore, ids, filters, left, asynchronous: bool) -> None:
    if asynchronous:
        asyncio.run(filled.adelete_nodes(ids, filters))
    else:
        filled.delete_nodes(ids, filters)
    assert sorted(node.node_id for node in filled.get_nodes()) == left


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_delete_reaches_every_row(
    store: HierarchicalMemoryVectorStore, memory: MemoryIndex, make_node, tmp_path: Path, asynchronous: bool
) -> None:
    secret = "xylophone"
    store.add([make_node(f"{secret} {row}", ref_doc_id="gone") for row in range(300)])
    store.add([make_node(f"{secret} itself", id_="gone"), make_node("kept", id_="kept", ref_doc_id="stays")])
    asyncio.run(store.adelete("gone")) if asynchronous else store.delete("gone")
    assert [node.node_id for node in store.get_nodes()] == ["kept"]
    assert memory.stats().chunks == 1
    held = [path.name for path in (tmp_path / "memory").rglob("*") if path.is_file()]
    assert held
    for path in (tmp_path / "memory").rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes()


def test_delete_takes_nobody_else(filled: HierarchicalMemoryVectorStore) -> None:
    for unknown in ("None", "", "doc", "n0"):
        filled.delete(unknown)
    assert len(filled.get_nodes()) == 7
    filled.delete("doc1")
    assert {node.node_id for node in filled.get_nodes()} == {"n0", "n1", "n4", "n5", "alone"}
    filled.delete("alone")
    assert len(filled.get_nodes()) == 4


def test_clear(filled: HierarchicalMemoryVectorStore, nodes, embedding) -> None:
    filled.clear()
    assert filled.get_nodes() == []
    assert filled.query(query(embedding.get_query_embedding("dogs"))).ids == []
    asyncio.run(filled.async_add(nodes))
    asyncio.run(filled.aclear())
    assert filled.get_nodes() == []


def test_what_is_not_erased_yet_is_logged(filled: HierarchicalMemoryVectorStore, monkeypatch, caplog) -> None:
    report = RemoveReport(2, 2, erased=False, reason="a reader held old pages")
    monkeypatch.setattr(MemoryIndex, "remove", lambda *_, **__: report)
    with caplog.at_level(logging.WARNING):
        filled.delete("doc0")
    assert "not erased from every file yet: a reader held old pages" in caplog.text


def test_masks_hide_nodes(filled: HierarchicalMemoryVectorStore, memory: MemoryIndex, embedding) -> None:
    memory.mask(filter={"animal": "dogs"})
    found = filled.query(query(embedding.get_query_embedding("dogs bark")))
    assert not {"n2", "n3"} & set(found.ids)
    memory.unmask()
    assert filled.query(query(embedding.get_query_embedding("dogs bark"), k=1)).ids == ["n2"]
