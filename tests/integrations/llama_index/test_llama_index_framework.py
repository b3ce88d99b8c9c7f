"""The vector store under the parts of LlamaIndex that use one: index, query engine, pipeline, memory."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest
from llama_index.core import StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.indices.query.query_transform import HyDEQueryTransform
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.memory import Memory, VectorMemoryBlock
from llama_index.core.node_parser import SentenceSplitter, SentenceWindowNodeParser
from llama_index.core.postprocessor import MetadataReplacementPostProcessor
from llama_index.core.query_engine import RetrieverQueryEngine, TransformQueryEngine
from llama_index.core.schema import Document, IndexNode, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from llama_index_mllm import HierarchicalMemoryRetriever, HierarchicalMemoryVectorStore, MemoryEmbedding
from sqlalchemy.ext.asyncio import create_async_engine

from mllm_plugin import Document as MemoryDocument
from mllm_plugin import MemoryIndex

SPLITTER = SentenceSplitter(chunk_size=24, chunk_overlap=4)
TEXTS = {
    "cats": "Cats sleep most of the day. At night cats hunt mice in the barn. A cat purrs when content.",
    "dogs": "Dogs bark at strangers. Dogs guard the house at night. A dog wags its tail when it is glad.",
    "bees": "Bees dance to show where flowers are. A queen bee lays all the eggs of the hive.",
}


@pytest.fixture
def documents() -> list[Document]:
    return [
        Document(text=text, id_=name, metadata={"animal": name, "legs": 6 if name == "bees" else 4})
        for name, text in TEXTS.items()
    ]


@pytest.fixture
def index(store: HierarchicalMemoryVectorStore, embedding, documents: list[Document]) -> VectorStoreIndex:
    return VectorStoreIndex.from_documents(
        documents,
        storage_context=StorageContext.from_defaults(vector_store=store),
        embed_model=embedding,
        transformations=[SPLITTER],
    )


def sources(nodes: list) -> set[str]:
    return {node.node.ref_doc_id for node in nodes}


def found(index: VectorStoreIndex, question: str = "animals", **options: object) -> set[str]:
    return sources(index.as_retriever(similarity_top_k=50, **options).retrieve(question))


def test_query_engine_with_filters(index: VectorStoreIndex, llm, encoder) -> None:
    filters = MetadataFilters(
        filters=[
            MetadataFilter(key="legs", value=4),
            MetadataFilters(
                filters=[MetadataFilter(key="animal", value="cats")], condition=FilterCondition.NOT
            ),
        ]
    )
    engine = index.as_query_engine(llm=llm, similarity_top_k=2, filters=filters)
    for response in (engine.query("Who hunts at night?"), asyncio.run(engine.aquery("Who hunts at night?"))):
        assert str(response) == "noted"
        assert sources(response.source_nodes) == {"dogs"}
    for prompt in llm.prompts:
        assert "animal: dogs\nlegs: 4\n\nDogs bark at strangers." in prompt
        assert "_node" not in prompt
        assert "doc_id" not in prompt
        assert "mice" not in prompt
    assert encoder.encoded == []


def test_pieces_are_those_of_the_splitter(index: VectorStoreIndex, store, embedding, documents) -> None:
    pieces = {node.text: node for document in documents for node in SPLITTER([document])}
    stored = store.get_nodes()
    assert sorted(node.text for node in stored) == sorted(pieces)
    for node in stored:
        piece = pieces[node.text]
        assert node.metadata == piece.metadata
        assert (node.start_char_idx, node.end_char_idx) == (piece.start_char_idx, piece.end_char_idx)
        assert TEXTS[node.ref_doc_id][node.start_char_idx : node.end_char_idx] == node.text
    assert len(embedding.embedded) == len(stored)


def test_reopened_by_from_vector_store(index: VectorStoreIndex, store, embedding) -> None:
    again = VectorStoreIndex.from_vector_store(store, embed_model=embedding)
    question = "Who shows where flowers are?"
    assert again.as_retriever().retrieve(question) == index.as_retriever().retrieve(question)


def test_reopened_from_storage(index: VectorStoreIndex, store, embedding, tmp_path: Path) -> None:
    index.storage_context.persist(str(tmp_path / "storage"))
    assert not list((tmp_path / "storage").glob("default__vector_store*"))
    context = StorageContext.from_defaults(vector_store=store, persist_dir=str(tmp_path / "storage"))
    again = load_index_from_storage(context, embed_model=embedding)
    assert again.as_retriever().retrieve("bees") == index.as_retriever().retrieve("bees")
    assert again.refresh_ref_docs([Document(text="changed", id_="bees")]) == [True]
    assert (
        found(again, filters=MetadataFilters(filters=[MetadataFilter(key="animal", value="bees")])) == set()
    )


def test_insert_update_refresh_delete(index: VectorStoreIndex, documents: list[Document], store) -> None:
    index.insert(Document(text="Ants carry leaves.", id_="ants"))
    assert found(index) == {"cats", "dogs", "bees", "ants"}

    index.update_ref_doc(Document(text="Ants build hills.", id_="ants"))
    assert [node.text for node in store.get_nodes() if node.ref_doc_id == "ants"] == ["Ants build hills."]

    documents[0] = Document(text="Cats changed.", id_="cats", metadata={"animal": "cats"})
    assert index.refresh_ref_docs(documents) == [True, False, False]
    assert [node.text for node in store.get_nodes() if node.ref_doc_id == "cats"] == ["Cats changed."]
    assert index.refresh_ref_docs(documents) == [False, False, False]

    index.delete_ref_doc("dogs", delete_from_docstore=True)
    assert found(index) == {"cats", "bees", "ants"}
    asyncio.run(index.adelete_ref_doc("bees"))
    assert found(index) == {"cats", "ants"}


def test_insert_and_delete_nodes(index: VectorStoreIndex, store) -> None:
    index.insert_nodes([TextNode(text="a loose node", id_="loose")])
    asyncio.run(index.ainsert_nodes([TextNode(text="another", id_="other")]))
    assert len(store.get_nodes(["loose", "other"])) == 2
    index.delete_nodes(["loose"])
    asyncio.run(index.adelete_nodes(["other"]))
    assert store.get_nodes(["loose", "other"]) == []


def test_built_asynchronously(
    store: HierarchicalMemoryVectorStore, embedding, documents: list[Document]
) -> None:
    index = VectorStoreIndex.from_documents(
        documents,
        storage_context=StorageContext.from_defaults(vector_store=store),
        embed_model=embedding,
        transformations=[SPLITTER],
        use_async=True,
    )
    assert found(index) == set(TEXTS)
    assert sources(asyncio.run(index.as_retriever(similarity_top_k=50).aretrieve("x"))) == set(TEXTS)


def test_an_empty_page_does_not_stop_the_others(store: HierarchicalMemoryVectorStore, embedding) -> None:
    pages = [
        Document(text=text, metadata={"page": page}) for page, text in enumerate(["one", "", "  \n", "four"])
    ]
    context = StorageContext.from_defaults(vector_store=store)
    VectorStoreIndex.from_documents(pages, storage_context=context, embed_model=embedding)
    pages = {node.metadata["page"]: node.text.strip() for node in store.get_nodes()}
    assert (pages[0], pages[3]) == ("one", "four")


def test_options_of_the_memory_pass_through_the_index(index: VectorStoreIndex, memory: MemoryIndex) -> None:
    assert found(index, vector_store_kwargs={"exact": True}) == set(TEXTS)
    memory.add([MemoryDocument("Ants carry leaves.", id="ants", labels=("draft",))])
    assert found(index) == {*TEXTS, "ants"}
    assert found(index, vector_store_kwargs={"exclude_labels": ["draft"]}) == set(TEXTS)


def test_hybrid_mode_and_doc_ids(index: VectorStoreIndex) -> None:
    assert found(index, doc_ids=["cats", "bees"], vector_store_query_mode="hybrid") == {"cats", "bees"}


def test_index_nodes_lead_on(store: HierarchicalMemoryVectorStore, embedding) -> None:
    inner = TextNode(text="the whole story of cats", id_="story")
    node = IndexNode(text="cats in short", id_="short", index_id="story", obj=inner)
    context = StorageContext.from_defaults(vector_store=store)
    index = VectorStoreIndex(objects=[node], storage_context=context, embed_model=embedding)
    assert [scored.node.node_id for scored in index.as_retriever().retrieve("cats in short")] == ["story"]


def test_sentence_windows(store: HierarchicalMemoryVectorStore, embedding, documents, llm) -> None:
    index = VectorStoreIndex(
        SentenceWindowNodeParser.from_defaults(window_size=1).get_nodes_from_documents(documents),
        storage_context=StorageContext.from_defaults(vector_store=store),
        embed_model=embedding,
    )
    engine = index.as_query_engine(
        llm=llm,
        similarity_top_k=1,
        node_postprocessors=[MetadataReplacementPostProcessor(target_metadata_key="window")],
    )
    engine.query("Dogs guard the house at night.")
    assert TEXTS["dogs"] in " ".join(llm.prompts[0].split())
    assert "original_text" not in llm.prompts[0]


def test_hyde_with_the_retriever(memory: MemoryIndex, encoder, llm) -> None:
    memory.add([MemoryDocument(text, id=name) for name, text in TEXTS.items()])
    encoder.encoded.clear()
    engine = RetrieverQueryEngine.from_args(HierarchicalMemoryRetriever(memory, k=1), llm=llm)
    response = TransformQueryEngine(engine, HyDEQueryTransform(llm=llm)).query("Dogs bark at strangers")
    assert sources(response.source_nodes) == {"dogs"}
    assert encoder.encoded == ["noted", "Dogs bark at strangers"]


# An `IngestionPipeline` upserts by deleting and adding.


def pipeline(store, embedding, strategy: DocstoreStrategy) -> IngestionPipeline:
    return IngestionPipeline(
        transformations=[SPLITTER, embedding],
        docstore=SimpleDocumentStore(),
        docstore_strategy=strategy,
        vector_store=store,
    )


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("strategy", [DocstoreStrategy.UPSERTS, DocstoreStrategy.UPSERTS_AND_DELETE])
def test_ingestion_upserts(
    store: HierarchicalMemoryVectorStore, embedding, encoder, documents, strategy, asynchronous: bool
) -> None:
    ingest = pipeline(store, embedding, strategy)

    def run(batch: list[Document]) -> int:
        return len(asyncio.run(ingest.arun(documents=batch)) if asynchronous else ingest.run(documents=batch))

    def texts(source: str) -> str:
        return " ".join(node.text for node in store.get_nodes() if node.ref_doc_id == source)

    assert run(documents) == len(store.get_nodes()) > 3
    assert run(documents) == 0

    changed = Document(text="Cats were replaced.", id_="cats", metadata={"animal": "cats"})
    assert run([changed, *documents[1:]]) == 1
    assert texts("cats") == "Cats were replaced."

    run([changed])
    gone = strategy is DocstoreStrategy.UPSERTS_AND_DELETE
    assert {node.ref_doc_id for node in store.get_nodes()} == ({"cats"} if gone else {"cats", "dogs", "bees"})
    assert encoder.encoded == []


def test_ingestion_of_unsplit_documents(store: HierarchicalMemoryVectorStore, embedding, documents) -> None:
    ingest = pipeline(store, embedding, DocstoreStrategy.UPSERTS_AND_DELETE)
    ingest.transformations = [embedding]
    ingest.run(documents=documents)
    assert {node.node_id for node in store.get_nodes()} == set(TEXTS)
    ingest.run(documents=documents[:1])
    assert {node.node_id for node in store.get_nodes()} == {"cats"}


# `VectorMemoryBlock` keeps what no longer fits into a conversation.


def test_memory_block(store: HierarchicalMemoryVectorStore, embedding) -> None:
    block = VectorMemoryBlock(
        vector_store=store, embed_model=embedding, similarity_top_k=1, retrieval_context_window=2
    )
    engine = create_async_engine("sqlite+aiosqlite:///:memory:")
    memory = Memory.from_defaults(
        session_id="s1",
        token_limit=60,
        token_flush_size=20,
        chat_history_token_ratio=0.5,
        async_engine=engine,
        memory_blocks=[block],
    )

    async def talk() -> list[ChatMessage]:
        for number in range(12):
            await memory.aput(
                ChatMessage(role="user", content=f"My locker {number} has the code {number * 111}.")
            )
        try:
            await memory.aput(ChatMessage(role="user", content="What is the code of locker 3?"))
            return await memory.aget()
        finally:
            await engine.dispose()

    messages = asyncio.run(talk())
    (kept,) = [message.content for message in messages if message.role == "system"]
    assert "My locker 3 has the code 333." in kept
    assert "_node" not in kept
    assert len(store.get_nodes()) > 3


def test_memory_block_keeps_sessions_apart(store: HierarchicalMemoryVectorStore, embedding) -> None:
    def said(session: str, text: str) -> ChatMessage:
        return ChatMessage(role="user", content=text, additional_kwargs={"session_id": session})

    async def ask(session: str) -> str:
        block = VectorMemoryBlock(vector_store=store, embed_model=embedding, similarity_top_k=5)
        return await block.aget([ChatMessage(role="user", content="my name?")], session_id=session)

    async def talk() -> list[str]:
        block = VectorMemoryBlock(vector_store=store, embed_model=embedding)
        await block.aput([said("one", "My name is Ada.")])
        await block.aput([said("two", "My name is Grace.")])
        await block.aput([ChatMessage(role="user", content="no session")])
        return [await ask("one"), await ask("two"), await ask("three")]

    one, two, three = asyncio.run(talk())
    assert ("Ada" in one, "Grace" in one) == (True, False)
    assert ("Ada" in two, "Grace" in two) == (False, True)
    assert three == ""


# The memory's own encoder serves LlamaIndex as an embedding model.


def test_memory_embedding(memory: MemoryIndex, store, encoder, documents) -> None:
    model = MemoryEmbedding(memory.encoder, embed_batch_size=2)
    assert model.model_name == encoder.fingerprint
    index = VectorStoreIndex.from_documents(
        documents, storage_context=StorageContext.from_defaults(vector_store=store), embed_model=model
    )
    assert len(encoder.encoded) == 3
    encoder.encoded.clear()
    question = "Who shows where flowers are?"
    scored = index.as_retriever(similarity_top_k=1).retrieve(question)
    assert sources(scored) == {"bees"}
    assert encoder.encoded == [question]
    hits = memory.search(question, k=1)
    assert [hit.relevance for hit in hits] == pytest.approx([node.score for node in scored])


def test_memory_embedding_leaves_the_loop_free(memory: MemoryIndex, encoder, gate) -> None:
    encoder.before = gate.hold
    model = MemoryEmbedding(memory.encoder)
    one = asyncio.run(gate.passed_by(model.aget_query_embedding("cats")))
    batch = asyncio.run(gate.passed_by(model.aget_text_embedding_batch(["cats", "dogs"])))
    assert one == batch[0] == model.get_text_embedding("cats")


def test_a_cancelled_batch_is_not_embedded_to_its_end(memory: MemoryIndex, encoder) -> None:
    model = MemoryEmbedding(memory.encoder, embed_batch_size=1)
    begun = threading.Event()

    def slowly() -> None:
        begun.set()
        time.sleep(0.05)

    async def cancel() -> None:
        task = asyncio.create_task(model.aget_text_embedding_batch([f"cats {row}" for row in range(400)]))
        await asyncio.to_thread(begun.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    encoder.before = slowly
    asyncio.run(cancel())  # waits for what its threads have begun
    assert 0 < len(encoder.encoded) < 100


def test_filter_operators_reach_the_memory_through_the_index(index: VectorStoreIndex) -> None:
    for operator, value, expected in [
        (FilterOperator.GT, 4, {"bees"}),
        (FilterOperator.NIN, [4], {"bees"}),
        (FilterOperator.LTE, 4, {"cats", "dogs"}),
    ]:
        filters = MetadataFilters(filters=[MetadataFilter(key="legs", operator=operator, value=value)])
        assert found(index, filters=filters) == expected
