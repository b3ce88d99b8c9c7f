"""The retriever: what a node carries, every option, async, and how it works with the rest of LlamaIndex."""

from __future__ import annotations

import asyncio

import pytest
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.schema import MetadataMode, ObjectType, QueryBundle
from llama_index.core.vector_stores import FilterOperator, MetadataFilter, MetadataFilters
from llama_index_mllm import HierarchicalMemoryRetriever, HierarchicalMemoryVectorStore

from mllm_plugin import Document, FilterError, InvalidInputError, MemoryConfig, MemoryIndex, TreeConfig

CATS = "  Cats sleep all day.\nThey hunt mice at night – „quietly“ 🐈. " * 12


@pytest.fixture
def filled(memory: MemoryIndex) -> MemoryIndex:
    memory.add(
        [
            Document(CATS, id="cats", metadata={"animal": "cat", "year": 2020}),
            Document("Dogs bark at strangers.", id="dogs", metadata={"animal": "dog", "year": 2021}),
            Document("Horses run fast.", id="horses", metadata={"animal": "horse"}, labels=("draft",)),
        ]
    )
    memory.add(
        [Document("Cats of user one.", id="cats", metadata={"animal": "cat"})], namespace=("users", "1")
    )
    return memory


def test_node_carries_the_stored_chunk(filled: MemoryIndex) -> None:
    hits = filled.search("cats hunt mice", k=20)
    nodes = HierarchicalMemoryRetriever(filled, k=20).retrieve("cats hunt mice")
    assert len(nodes) == len(hits) > 3
    for hit, scored in zip(hits, nodes, strict=True):
        node = scored.node
        assert node.text == hit.text
        assert scored.score == hit.relevance
        assert node.ref_doc_id == hit.document_id
        assert node.source_node.node_type == ObjectType.DOCUMENT
        assert (node.start_char_idx, node.end_char_idx) == (hit.start, hit.end)
        assert node.metadata == hit.metadata
        if hit.document_id == "cats":
            assert CATS[node.start_char_idx : node.end_char_idx] == node.text
    scores = [node.score for node in nodes]
    assert scores == sorted(scores, reverse=True)


def test_node_ids_are_unique_and_outlive_a_rebuild(filled: MemoryIndex) -> None:
    retriever = HierarchicalMemoryRetriever(filled, k=20, prefix=True)
    before = {node.node_id: (node.ref_doc_id, node.text) for node in _nodes(retriever, "cats")}
    assert len(before) == filled.stats().chunks
    filled.remove(["cats"])
    filled.add([Document(CATS, id="cats", metadata={"animal": "cat", "year": 2020})])
    assert {node.node_id: (node.ref_doc_id, node.text) for node in _nodes(retriever, "cats")} == before


def test_path_is_kept_from_prompts(tmp_path, encoder) -> None:
    config = MemoryConfig(tree=TreeConfig(fan_out=4))
    with MemoryIndex.open(tmp_path / "deep", encoder=encoder, config=config) as memory:
        memory.add(
            [
                Document(f"fact number {number}", id=str(number), metadata={"n": number})
                for number in range(60)
            ]
        )
        scored = HierarchicalMemoryRetriever(memory, k=1, include_path=True).retrieve("fact number 17")[0]
        (hit,) = memory.search("fact number 17", k=1)
    node = scored.node
    assert node.metadata["path"] == [step._asdict() for step in hit.path]
    assert len(node.metadata["path"]) > 1
    assert (node.metadata["score"], node.metadata["relevance"]) == (hit.score, hit.relevance)
    for mode in (MetadataMode.LLM, MetadataMode.EMBED):
        assert node.get_content(mode) == f"n: {hit.metadata['n']}\n\n{hit.text}"


def test_without_path_nothing_is_added(filled: MemoryIndex) -> None:
    (scored,) = HierarchicalMemoryRetriever(filled, k=1).retrieve("dogs bark")
    assert scored.node.metadata == {"animal": "dog", "year": 2021}
    assert scored.node.excluded_llm_metadata_keys == []


def test_stored_key_wins_over_ours(memory: MemoryIndex) -> None:
    memory.add([Document("a file", id="f", metadata={"path": "/tmp/f", "score": 7})])
    (scored,) = HierarchicalMemoryRetriever(memory, include_path=True).retrieve("file")
    assert scored.node.metadata["path"] == "/tmp/f"
    assert scored.node.metadata["score"] == 7
    assert scored.node.get_content(MetadataMode.LLM) == "path: /tmp/f\nscore: 7\n\na file"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({"k": 1}, {"cats"}, id="k"),
        pytest.param({"filter": {"year": {"$gte": 2021}}}, {"dogs"}, id="memory-filter"),
        pytest.param(
            {"filter": MetadataFilters(filters=[MetadataFilter(key="animal", value="dog")])},
            {"dogs"},
            id="filters",
        ),
        pytest.param({"exclude_labels": ["draft"]}, {"cats", "dogs"}, id="exclude-labels"),
        pytest.param(
            {"exact": True, "unique_documents": True}, {"cats", "dogs", "horses"}, id="unique-documents"
        ),
        pytest.param({"namespace": ("users", "1")}, {"cats"}, id="namespace"),
        pytest.param({"namespace": "users"}, set(), id="no-such-namespace"),
        pytest.param({"namespace": "users", "prefix": True}, {"cats"}, id="prefix"),
        pytest.param({"beam_width": 1}, {"cats", "dogs", "horses"}, id="beam-width"),
    ],
)
def test_options(filled: MemoryIndex, options: dict, expected: set[str]) -> None:
    retriever = HierarchicalMemoryRetriever(filled, **{"k": 30, **options})
    assert {node.ref_doc_id for node in _nodes(retriever, "cats hunt mice")} == expected


def test_options_may_change_between_calls(filled: MemoryIndex) -> None:
    retriever = HierarchicalMemoryRetriever(filled, k=1)
    retriever.k, retriever.filter = 2, {"animal": {"$ne": "cat"}}
    assert {node.ref_doc_id for node in _nodes(retriever, "cats")} == {"dogs", "horses"}


def test_embedding_of_the_bundle_is_used(filled: MemoryIndex, encoder, embedding) -> None:
    encoder.encoded.clear()
    vector = embedding.get_query_embedding("dogs bark at strangers")
    retriever = HierarchicalMemoryRetriever(filled, k=1)
    for bundle in (QueryBundle("a question", embedding=vector), QueryBundle("", embedding=vector)):
        assert retriever.retrieve(bundle)[0].node.ref_doc_id == "dogs"
    assert encoder.encoded == []


def test_texts_of_a_query_transform_are_embedded(filled: MemoryIndex, encoder) -> None:
    encoder.encoded.clear()
    bundle = QueryBundle("who guards?", custom_embedding_strs=["Dogs bark at strangers.", "who guards?"])
    assert HierarchicalMemoryRetriever(filled, k=1).retrieve(bundle)[0].node.ref_doc_id == "dogs"
    assert encoder.encoded == bundle.custom_embedding_strs
    assert (
        asyncio.run(HierarchicalMemoryRetriever(filled, k=1).aretrieve(bundle))[0].node.ref_doc_id == "dogs"
    )


@pytest.mark.parametrize("include_path", [False, True])
def test_async_equals_sync(filled: MemoryIndex, include_path: bool) -> None:
    retriever = HierarchicalMemoryRetriever(filled, k=4, include_path=include_path)
    assert asyncio.run(retriever.aretrieve("cats hunt mice")) == retriever.retrieve("cats hunt mice")


def test_async_leaves_the_loop_free(filled: MemoryIndex, encoder, gate) -> None:
    encoder.before = gate.hold
    retriever = HierarchicalMemoryRetriever(filled, k=1)
    bundle = QueryBundle("cats", custom_embedding_strs=["cats sleep"])
    assert len(asyncio.run(gate.passed_by(retriever.aretrieve("cats")))) == 1
    assert len(asyncio.run(gate.passed_by(retriever.aretrieve(bundle)))) == 1


def test_masked_and_removed_are_out(filled: MemoryIndex) -> None:
    retriever = HierarchicalMemoryRetriever(filled, k=30)
    filled.mask(["cats"])
    filled.remove(["dogs"])
    assert {node.ref_doc_id for node in _nodes(retriever, "cats and dogs")} == {"horses"}


def test_nodes_of_the_vector_store_come_back_whole(memory: MemoryIndex, make_node) -> None:
    node = make_node("Cats sleep.", id_="n1", ref_doc_id="cats", metadata={"year": 2020}, start_char_idx=3)
    HierarchicalMemoryVectorStore(memory).add([node])
    (scored,) = HierarchicalMemoryRetriever(memory, k=1).retrieve("cats sleep")
    node.embedding = None
    assert scored.node == node


def test_fusion_recognises_a_chunk_found_twice(filled: MemoryIndex, llm) -> None:
    parts = [HierarchicalMemoryRetriever(filled, k=30), HierarchicalMemoryRetriever(filled, k=30, exact=True)]
    fusion = QueryFusionRetriever(
        parts, llm=llm, num_queries=1, mode="reciprocal_rerank", similarity_top_k=99, use_async=False
    )
    nodes = fusion.retrieve("cats hunt mice")
    texts = [node.text for node in nodes]
    assert len(texts) == len(set(texts))


def test_scores_work_with_a_cutoff(filled: MemoryIndex, llm) -> None:
    best, second = filled.search("Dogs bark at strangers", k=2)
    cutoff = (best.relevance + second.relevance) / 2
    engine = RetrieverQueryEngine.from_args(
        HierarchicalMemoryRetriever(filled, k=30, include_path=True),
        llm=llm,
        node_postprocessors=[SimilarityPostprocessor(similarity_cutoff=cutoff)],
    )
    response = engine.query("Dogs bark at strangers")
    assert str(response) == "noted"
    assert {node.node.ref_doc_id for node in response.source_nodes} == {"dogs"}
    assert "Dogs bark at strangers." in llm.prompts[0]
    assert "animal: dog" in llm.prompts[0]
    assert "relevance" not in llm.prompts[0]
    assert "path" not in llm.prompts[0]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        pytest.param({"k": 0}, InvalidInputError, "k must be at least 1", id="k"),
        pytest.param(
            {"filter": {"year": {"$near": 1}}}, FilterError, "unknown filter operator", id="operator"
        ),
        pytest.param(
            {
                "filter": MetadataFilters(
                    filters=[
                        MetadataFilter(key="a", value="b", operator=FilterOperator.TEXT_MATCH_INSENSITIVE)
                    ]
                )
            },
            FilterError,
            "text_match_insensitive",
            id="no-counterpart",
        ),
    ],
)
def test_errors_are_those_of_the_memory(
    filled: MemoryIndex, options: dict, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        HierarchicalMemoryRetriever(filled, **options).retrieve("cats")
    with pytest.raises(error, match=match):
        asyncio.run(HierarchicalMemoryRetriever(filled, **options).aretrieve("cats"))


@pytest.mark.parametrize("blank", ["", " \n", QueryBundle(" ", custom_embedding_strs=["", " "])], ids=repr)
def test_a_blank_question_finds_what_matches(filled: MemoryIndex, encoder, blank: str | QueryBundle) -> None:
    encoder.encoded.clear()
    filled.mask(["dogs"])
    retriever = HierarchicalMemoryRetriever(filled, k=30)
    for found in (retriever.retrieve(blank), asyncio.run(retriever.aretrieve(blank))):
        assert {one.node.ref_doc_id for one in found} == {"cats", "horses"}
        assert {one.score for one in found} == {None}
    retriever.filter = {"animal": "cat"}
    assert {node.ref_doc_id for node in _nodes(retriever, blank)} == {"cats"}
    retriever.k, retriever.filter, retriever.exclude_labels = 2, None, ("draft",)
    assert [node.ref_doc_id for node in _nodes(retriever, blank)] == ["cats", "cats"]
    assert encoder.encoded == []


def _nodes(retriever: HierarchicalMemoryRetriever, question: str) -> list:
    return [scored.node for scored in retriever.retrieve(question)]
