"""A memory under `VectorStoreIndex`: a query engine with a metadata filter, an update, a deletion.

Runs offline: `python examples/llama_index_vector_store.py`. `MockLLM` repeats its prompt; put your own LLM in
its place. The memory's encoder serves as embedding model; any other one of LlamaIndex does, too.
"""

from tempfile import TemporaryDirectory

from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.llms import MockLLM
from llama_index.core.vector_stores import FilterOperator, MetadataFilter, MetadataFilters
from llama_index_mllm import HierarchicalMemoryVectorStore, MemoryEmbedding

from mllm_plugin import MemoryIndex

DOCUMENTS = [
    Document(id_="office", text="The office opens at nine and closes at five.", metadata={"year": 2023}),
    Document(id_="lab", text="The laboratory is open all night to key holders.", metadata={"year": 2024}),
    Document(id_="canteen", text="The canteen serves lunch from noon until two.", metadata={"year": 2024}),
]


def main() -> None:
    """Builds an index, asks with a filter, then changes one document and deletes another."""
    with TemporaryDirectory() as folder, MemoryIndex.open(folder) as memory:
        store = HierarchicalMemoryVectorStore(memory, namespace="house rules")
        index = VectorStoreIndex.from_documents(
            DOCUMENTS,
            storage_context=StorageContext.from_defaults(vector_store=store),
            embed_model=MemoryEmbedding(memory.encoder),
        )

        recent = MetadataFilter(key="year", operator=FilterOperator.GTE, value=2024)
        filters = MetadataFilters(filters=[recent])
        engine = index.as_query_engine(llm=MockLLM(), similarity_top_k=1, filters=filters)
        print(engine.query("When can I get in?"), "\n")

        index.update_ref_doc(Document(id_="office", text="The office opens at ten.", metadata={"year": 2025}))
        index.delete_ref_doc("canteen")
        found = index.as_retriever(similarity_top_k=9).retrieve("When does the office open?")
        for scored in found:
            print(f"{scored.score:.2f} {scored.node.ref_doc_id}: {scored.text}")


if __name__ == "__main__":
    main()
