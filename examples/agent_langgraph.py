"""A LangGraph agent that remembers across threads, and forgets on request.

Runs offline: a scripted model stands in for a chat model that calls tools; put any other in its place.
"""

import tempfile
from typing import Annotated, Any

from langchain.agents import create_agent
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, ToolCall, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.prebuilt import InjectedStore
from langgraph.store.base import BaseStore
from langgraph_mllm import HierarchicalMemoryStore

NOTES = ("users", "ann", "notes")


@tool
def remember(key: str, text: str, store: Annotated[BaseStore, InjectedStore()]) -> str:
    """Note something for later; an old note under the same key is replaced."""
    store.put(NOTES, key, {"text": text})
    return f"Noted as {key}."


@tool
def recall(query: str, store: Annotated[BaseStore, InjectedStore()]) -> str:
    """Look something up."""
    found = store.search(NOTES, query=query, limit=1)
    return "; ".join(item.value["text"] for item in found) or "There is no note."


@tool
def forget(key: str, store: Annotated[BaseStore, InjectedStore()]) -> str:
    """Forget a note for good."""
    store.delete(NOTES, key)
    return f"Forgotten: {key}."


class ScriptedModel(GenericFakeChatModel):
    """Plays a fixed conversation whatever the tools are."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> "ScriptedModel":
        """Returns the model itself: the script names the tool."""
        return self


def converse(store: BaseStore, thread: str, question: str, name: str, **arguments: str) -> None:
    """A conversation in a thread of its own, in which the model calls one tool."""
    call = ToolCall(name=name, args=arguments, id="call-1")
    model = ScriptedModel(messages=iter([AIMessage("", tool_calls=[call]), AIMessage("Done.")]))
    agent = create_agent(model, [remember, recall, forget], store=store, checkpointer=InMemorySaver())
    asked: Any = {"messages": [("user", question)]}
    result = agent.invoke(asked, {"configurable": {"thread_id": thread}})
    (given,) = [message.text for message in result["messages"] if isinstance(message, ToolMessage)]
    print(f"{thread}: {question}\n  -> {given}")


def main(folder: str) -> None:
    """Four threads, each with the store opened anew, as after a restart."""
    index: Any = {"fields": ["text"]}
    for thread, question, name, arguments in (
        (
            "monday",
            "I cannot eat peanuts.",
            "remember",
            {"key": "food", "text": "Ann is allergic to peanuts."},
        ),
        ("tuesday", "Which cake may I have?", "recall", {"query": "What is Ann allergic to?"}),
        ("wednesday", "Forget that.", "forget", {"key": "food"}),
        ("thursday", "Which cake may I have?", "recall", {"query": "What is Ann allergic to?"}),
    ):
        with HierarchicalMemoryStore.open(folder, index=index) as store:
            converse(store, thread, question, name, **arguments)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(scratch)
