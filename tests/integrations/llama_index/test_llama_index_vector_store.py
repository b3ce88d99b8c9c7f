"""The vector store as a whole: async calls, errors, opening, what LlamaIndex expects of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from llama_index.core.schema import (
    Document as LlamaDocument,
)
from llama_index.core.vector_stores import MetadataFilters, VectorStoreQuery
from llama_index.core.vector_stores.types import BasePydanticVectorStore
from llama_index.core.vector_stores.types import VectorStoreQueryMode as Mode
from llama_index_mllm import HierarchicalMemoryVectorStore

from mllm_plugin import (
    DimensionMismatchError,
    EncoderMismatchError,
    InvalidDocumentError,
    InvalidInputError,
    MemoryIndex,
)


def query(vector: list[float] | None, k: int = 10, **fields: object) -> VectorStoreQuery:
    return VectorStoreQuery(query_embedding=vector, similarity_top_k=k, **fields)


def test_async_equals_sync(filled: HierarchicalMemoryVectorStore, embedding) -> None:
    asked = query(embedding.get_query_embedding("dogs"), query_str="dogs")
    assert asyncio.run(filled.aquery(asked)) == filled.query(asked)


@pytest.mark.parametrize("call", ["async_add", "aquery", "aget_nodes", "adelete", "adelete_nodes", "aclear"])
def test_async_leaves_the_loop_free(
    filled: HierarchicalMemoryVectorStore, nodes, embedding, monkeypatch, gate, call: str
) -> None:
    for name in ("add", "search", "get", "remove"):
        monkeypatch.setattr(MemoryIndex, name, _held(getattr(MemoryIndex, name), gate))
    arguments = {
        "async_add": (nodes,),
        "aquery": (query(embedding.get_query_embedding("dogs")),),
        "aget_nodes": (["n0"],),
        "adelete": ("doc0",),
        "adelete_nodes": (["n5"],),
        "aclear": (),
    }[call]
    asyncio.run(gate.passed_by(getattr(filled, call)(*arguments)))


def _held(method, gate):
    def held(*args, **kwargs):
        gate.hold()
        return method(*args, **kwargs)

    return held


@pytest.mark.parametrize("mode", [Mode.SEMANTIC_HYBRID, Mode.SVM, Mode.LINEAR_REGRESSION])
def test_modes_without_counterpart_are_refused(filled, embedding, mode: Mode) -> None:
    asked = query(embedding.get_query_embedding("dogs"), query_str="dogs", mode=mode)
    with pytest.raises(InvalidInputError, match=f"query mode '{mode.value}' has no counterpart in a memory"):
        filled.query(asked)
    with pytest.raises(InvalidInputError, match="expected one of 'default', 'hybrid', 'sparse', 'text_s"):
        asyncio.run(filled.aquery(asked))


@pytest.mark.parametrize(
    ("mode", "fields", "options", "match"),
    [
        (
            Mode.DEFAULT,
            {"alpha": 0.5},
            {},
            "alpha=0.5 has no .* in mode 'default'; it counts in mode 'hybrid'",
        ),
        (Mode.MMR, {"sparse_top_k": 3}, {}, "sparse_top_k=3 has no .*; it counts in mode 'hybrid', 'sparse'"),
        (Mode.HYBRID, {"mmr_threshold": 0.5}, {}, "mmr_threshold=0.5 has no .*; it counts in mode 'mmr'"),
        (Mode.DEFAULT, {}, {"mmr_prefetch_k": 9}, "mmr_prefetch_k counts in mode 'mmr' only, got mode 'def"),
        (Mode.DEFAULT, {"output_fields": ["a"]}, {}, "output_fields=.* has no .*; leave it out"),
        (
            Mode.DEFAULT,
            {"embedding_field": "b"},
            {},
            "embedding_field='b' has no .*; leave it out",
        ),
        (Mode.MMR, {}, {"unique_documents": True}, "unique_documents has no counterpart in mode 'mmr'"),
        (Mode.HYBRID, {"alpha": 1.5}, {}, "alpha must be from 0 to 1, got 1.5"),
        (Mode.MMR, {}, {"mmr_threshold": -1}, "mmr_threshold must be from 0 to 1, got -1"),
    ],
)
def test_settings_without_counterpart_are_refused(
    filled, embedding, mode, fields, options, match: str
) -> None:
    asked = query(embedding.get_query_embedding("dogs"), query_str="dogs", mode=mode, **fields)
    with pytest.raises(InvalidInputError, match=match):
        filled.query(asked, **options)


def test_clear_errors(store: HierarchicalMemoryVectorStore, make_node, embedding) -> None:
    node = make_node("text", id_="n")
    with pytest.raises(
        InvalidInputError, match="node 'n' has no embedding; add nodes through VectorStoreIndex"
    ):
        store.add([node.model_copy(update={"embedding": None})])
    with pytest.raises(DimensionMismatchError, match="node 'n': expected an embedding of 16 numbers, got 2"):
        store.add([make_node("good"), node.model_copy(update={"embedding": [1.0, 2.0]})])
    with pytest.raises(InvalidInputError, match="node 'n': its embedding holds NaN"):
        store.add([make_node("good"), node.model_copy(update={"embedding": [float("nan")] * 16})])
    with pytest.raises(DimensionMismatchError, match="16"):
        store.query(query([1.0, 2.0]))
    with pytest.raises(InvalidInputError, match="k must be at least 1"):
        store.query(query(node.embedding, k=0))
    with pytest.raises(InvalidDocumentError, match="'n' comes twice"):
        store.add([node, node])
    with pytest.raises(TypeError, match="splitt"):
        store.add([node], splitt=True)
    assert store.get_nodes() == []


@pytest.mark.parametrize("filters", [None, MetadataFilters(filters=[])], ids=["nothing", "empty-filter"])
def test_delete_nodes_must_be_told_which(filled: HierarchicalMemoryVectorStore, filters) -> None:
    with pytest.raises(InvalidInputError, match="got neither; clear\\(\\) erases everything"):
        filled.delete_nodes(filters=filters)
    assert len(filled.get_nodes()) == 7


def test_from_params(tmp_path: Path, embedding, make_node) -> None:
    with pytest.raises(InvalidInputError, match="got both"):
        HierarchicalMemoryVectorStore.from_params(tmp_path / "a", embed_model=embedding, dim=16)
    with pytest.raises(InvalidInputError, match="a new one needs an encoder"):
        HierarchicalMemoryVectorStore.from_params(tmp_path / "a")
    store = HierarchicalMemoryVectorStore.from_params(tmp_path / "a", embed_model=embedding)
    store.add([make_node("dogs bark", id_="n")])
    assert store.query(query(None, k=1, query_str="dogs")).ids == ["n"]
    store.client.close()
    with pytest.raises(EncoderMismatchError):
        HierarchicalMemoryVectorStore.from_params(tmp_path / "a", dim=16)


def test_it_overrides_everything_a_vector_store_has(
    store: HierarchicalMemoryVectorStore, tmp_path: Path
) -> None:
    for name, base in vars(BasePydanticVectorStore).items():
        if callable(base) and not name.startswith("_"):
            assert getattr(HierarchicalMemoryVectorStore, name) is not base, name
    assert (store.stores_text, store.is_embedding_query) == (True, True)
    assert store.class_name() == "HierarchicalMemoryVectorStore"
    store.persist(str(tmp_path / "file.json"))
    assert not (tmp_path / "file.json").exists()


def test_it_serialises_without_the_memory(memory: MemoryIndex) -> None:
    store = HierarchicalMemoryVectorStore(memory, namespace=("a", "b"))
    assert store.client is memory
    assert store.to_dict() == {
        "stores_text": True,
        "is_embedding_query": True,
        "namespace": ("a", "b"),
        "class_name": "HierarchicalMemoryVectorStore",
    }


def test_a_whole_document_may_be_a_node(store: HierarchicalMemoryVectorStore, embedding) -> None:
    """LlamaIndex gives every `Document` back as a `TextNode`, in this store as in others."""
    document = LlamaDocument(text="an unsplit document", id_="d", metadata={"a": 1})
    store.add([document.model_copy(update={"embedding": embedding.get_text_embedding(document.text)})])
    (node,) = store.get_nodes()
    assert (node.node_id, node.text, node.metadata) == ("d", document.text, {"a": 1})
    store.delete("d")
    assert store.get_nodes() == []
