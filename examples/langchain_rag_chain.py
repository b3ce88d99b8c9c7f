"""Answers questions with a LangChain chain over a memory, masks what it read, and asks again.

Runs offline: a scripted model stands in for the chat model; put any other in its place.
"""

import tempfile

from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnablePassthrough
from langchain_mllm import HierarchicalMemoryRetriever

from mllm_plugin import Document as MemoryDocument
from mllm_plugin import MemoryIndex

HANDBOOK = {
    "lamp": "The lamp is lit half an hour before sunset and put out at sunrise.",
    "fog": "In fog the horn sounds for four seconds once every minute, day and night.",
    "stores": "A boat brings oil, water and food to the rock on the first Monday of the month.",
    "log": "The keeper writes wind, visibility and passing ships into the log every three hours.",
    "storm": "In a storm the gallery door stays locked and nobody goes out on the balcony.",
}
PROMPT = ChatPromptTemplate.from_template(
    "Answer from the handbook alone.\n\nHandbook:\n{context}\n\nQuestion: {question}"
)


def main() -> None:
    """Builds the memory in a temporary folder and asks the chain."""
    model = FakeListChatModel(
        responses=["For four seconds, once every minute.", "The handbook does not say."]
    )
    with tempfile.TemporaryDirectory() as folder, MemoryIndex.open(folder) as memory:
        memory.add([MemoryDocument(text, id=name) for name, text in HANDBOOK.items()])
        chain = make_chain(HierarchicalMemoryRetriever(memory=memory, k=2, include_path=True), model)
        question = "How often does the fog horn sound?"
        show(question, chain.invoke(question))

        memory.mask(["fog"])
        show("The same question, with 'fog' masked", chain.invoke(question))


def make_chain(retriever: Runnable, model: Runnable) -> Runnable:
    """A chain from a question to its answer and the documents it was read from."""
    answer = (
        RunnablePassthrough.assign(context=lambda inputs: as_text(inputs["documents"]))
        | PROMPT
        | model
        | StrOutputParser()
    )
    return {"documents": retriever, "question": RunnablePassthrough()} | RunnablePassthrough.assign(
        answer=answer
    )


def as_text(documents: list[Document]) -> str:
    """The documents' texts as a list for the prompt."""
    return "\n".join(f"- {document.page_content}" for document in documents)


def show(title: str, result: dict) -> None:
    """Prints an answer and its sources."""
    print(f"{title}\n  {result['answer']}")
    for document in result["documents"]:
        print(f"  [{document.id}, relevance {document.metadata['relevance']:.2f}] {document.page_content}")


if __name__ == "__main__":
    main()
