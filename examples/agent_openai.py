"""An agent of the OpenAI Agents SDK that remembers across sessions, and forgets on request.

Runs offline: a scripted model stands in for OpenAI's; leave `model=` out to use that.
"""

import json
from collections.abc import AsyncIterator, Callable
from tempfile import TemporaryDirectory
from typing import Any

from agents import Agent, ModelResponse, RunConfig, Runner, Usage
from agents.models.interface import Model
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText
from openai_agents_mllm import HierarchicalMemorySession, memory_tools

from mllm_plugin import AgentMemory
from mllm_plugin.agent import AgentScope

CHAT = RunConfig(tracing_disabled=True)


class ScriptedModel(Model):
    """Calls one tool, then says what the tool gave; without a tool it reads the conversation out."""

    def __init__(self, tool: str = "", argument: Callable[[], dict[str, Any]] = dict) -> None:
        self.tool, self.argument = tool, argument

    async def get_response(
        self, system_instructions: Any, input: Any, *rest: Any, **more: Any
    ) -> ModelResponse:
        """The whole answer."""
        if not self.tool:
            output: Any = self.says(
                " / ".join(item["content"] for item in input if item.get("role") == "user")
            )
        elif input[-1].get("type") == "function_call_output":
            output = self.says(input[-1]["output"])
        else:
            arguments = json.dumps(self.argument())
            output = ResponseFunctionToolCall(
                call_id="call-1", type="function_call", name=self.tool, arguments=arguments
            )
        return ModelResponse(output=[output], usage=Usage(), response_id=None)

    def says(self, text: str) -> ResponseOutputMessage:
        """A message with one text."""
        part = ResponseOutputText(text=text, type="output_text", annotations=[])
        return ResponseOutputMessage(
            id="message-1", type="message", role="assistant", content=[part], status="completed"
        )

    def stream_response(self, *rest: Any, **more: Any) -> AsyncIterator[Any]:
        """Not used here."""
        raise NotImplementedError


def converse(ann: AgentScope, session: str, question: str, model: Model) -> None:
    """A turn of a conversation."""
    agent = Agent(name="Notes", model=model, tools=[*memory_tools(ann, kind="fact")])
    history = HierarchicalMemorySession(session, ann)
    answer = Runner.run_sync(agent, question, session=history, run_config=CHAT)
    print(f"{session}: {question}\n  -> {answer.final_output}")


def main(ann: AgentScope) -> None:
    """Two conversations; the second knows what was noted in the first."""
    fact = "Ann is allergic to peanuts."
    converse(ann, "monday", "I cannot eat peanuts.", ScriptedModel("remember", lambda: {"text": fact}))
    converse(ann, "monday", "What did I say?", ScriptedModel())
    converse(ann, "tuesday", "What am I allergic to?", ScriptedModel("recall", lambda: {"query": "allergy"}))
    noted = ann.recall("allergy", kind="fact")[0].id
    converse(ann, "tuesday", "Forget my allergy.", ScriptedModel("forget", lambda: {"id": noted}))
    converse(ann, "tuesday", "What am I allergic to?", ScriptedModel("recall", lambda: {"query": "allergy"}))


if __name__ == "__main__":
    with TemporaryDirectory() as folder, AgentMemory.open(folder) as memory:
        main(memory.scope(user="ann"))
