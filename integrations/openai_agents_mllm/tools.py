"""A scope's verbs as function tools."""

from __future__ import annotations

from typing import Any

from agents import FunctionTool, RunContextWrapper, function_tool

from mllm_plugin.agent import AgentScope, memory_functions


def memory_tools(scope: AgentScope, *, k: int = 5, **options: Any) -> list[FunctionTool]:
    """Tools `remember`, `recall` and `forget` for `Agent(tools=...)`; they stay inside of the scope.

    Args:
        scope: What they act on.
        k: Most items of a recall.
        **options: Further arguments of `AgentScope.recall`, such as `kind="fact"` to leave out what was said.
    """
    return [
        function_tool(call, failure_error_function=_told) for call in memory_functions(scope, k=k, **options)
    ]


def _told(_: RunContextWrapper[Any], error: Exception) -> str:
    """What a model is told of an error: what was wrong, so that it can try again."""
    return f"That failed: {error}"
