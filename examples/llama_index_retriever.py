"""LlamaIndex answers from a memory: `HierarchicalMemoryRetriever` in a query engine.

Runs offline: `python examples/llama_index_retriever.py`. `MockLLM` repeats its prompt: what a real LLM would
read. Put your own LLM in its place.
"""

from pydoc_data.topics import topics
from tempfile import TemporaryDirectory

from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index_mllm import HierarchicalMemoryRetriever

from mllm_plugin import Document, MemoryIndex

TOPICS = ("assert", "break", "lambda", "numbers", "pass", "with")


def main() -> None:
    """Fills a memory with a few topics of the Python reference and asks one question, twice."""
    with TemporaryDirectory() as folder, MemoryIndex.open(folder) as memory:
        memory.add([Document(topics[name], id=name, metadata={"topic": name}) for name in TOPICS])

        retriever = HierarchicalMemoryRetriever(memory, k=2, include_path=True)
        engine = RetrieverQueryEngine.from_args(retriever, llm=MockLLM())
        response = engine.query("How do I make a small anonymous function?")
        for scored in response.source_nodes:
            node = scored.node
            print(f"{scored.score:.2f} {node.ref_doc_id} [{node.start_char_idx}:{node.end_char_idx}]")
            print("     path:", " > ".join(f"level {step['level']}" for step in node.metadata["path"]))
        print(f"\nThe prompt:\n{response}\n")

        memory.mask(["lambda"])
        found = retriever.retrieve("How do I make a small anonymous function?")
        print("While 'lambda' is masked:", [scored.node.ref_doc_id for scored in found])


if __name__ == "__main__":
    main()
