"""Gives a LangChain agent the memory as a tool that it may call.

Runs offline: a scripted model stands in for a chat model that calls tools; put any other in its place.
"""

import tempfile
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolCall
from langchain_core.tools import create_retriever_tool
from langchain_mllm import HierarchicalMemoryRetriever, HierarchicalMemoryVectorStore

from mllm_plugin import MemoryIndex

NOTES = [
    "Ann is allergic to peanuts.",
    "Ann's train to Lyon leaves on Friday at 9:40.",
    "Ann prefers a seat by the window.",
    "Ann's library books are due in March.",
]
USER = ("users", "ann")


class ScriptedModel(GenericFakeChatModel):
    """Plays a fixed conversation whatever the tools are."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> "ScriptedModel":
        """Returns the model itself: the script names the tool."""
        return self


def main() -> None:
    """Stores notes in the user's namespace and runs the agent."""
    call = ToolCall(name="search_notes", args={"query": "When does the train leave?"}, id="call-1")
    model = ScriptedModel(
        messages=iter([AIMessage("", tool_calls=[call]), AIMessage("It leaves on Friday at 9:40.")])
    )
    with tempfile.TemporaryDirectory() as folder, MemoryIndex.open(folder) as memory:
        HierarchicalMemoryVectorStore(memory, namespace=USER).add_texts(NOTES)
        tool = create_retriever_tool(
            HierarchicalMemoryRetriever(memory=memory, namespace=USER, k=2),
            name="search_notes",
            description="Finds what the user has told before.",
        )
        agent = create_agent(model, tools=[tool], system_prompt="Look into the notes before you answer.")
        result = agent.invoke({"messages": [HumanMessage("When is my train?")]})
        for message in result["messages"]:
            message.pretty_print()


if __name__ == "__main__":
    main()
