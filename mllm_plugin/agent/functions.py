"""The verbs of a scope as plain functions that a language model may call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mllm_plugin.agent.items import Remembered
from mllm_plugin.agent.scope import AgentScope


def memory_functions(scope: AgentScope, *, k: int = 5, **options: Any) -> list[Callable[..., str]]:
    """Functions `remember`, `recall` and `forget` with names, docstrings and types for a model's tools.

    LangChain's `create_agent(tools=...)` and LlamaIndex's `FunctionAgent(tools=...)` take them as they are;
    whatever a model asks, they stay inside of the scope.

    Args:
        scope: What they act on.
        k: Most items of a recall.
        **options: Further arguments of `AgentScope.recall`, such as `kind="fact"` to leave out what was said.

    Returns:
        The three functions; each gives text.
    """

    def remember(text: str) -> str:
        """Remember a fact for later conversations.

        Args:
            text: The fact, as one or two sentences that say by themselves whom and what they are about.
        """
        return _told(scope.remember(text))

    def recall(query: str) -> str:
        """Look up what is remembered; every line begins with the id that forget takes.

        Args:
            query: What to look for, as a question or a few words.
        """
        lines = [f"{item.id} {item.line()}" for item in scope.recall(query, k=k, **options)]
        return "\n".join(lines) or "Nothing is remembered about that."

    def forget(id: str) -> str:
        """Forget an item for good.

        Args:
            id: Its id, as recall gives it.
        """
        report = scope.forget(id)
        if report.missing:
            return f"Nothing forgotten: there is no item {id}. Recall it first, and take the id from there."
        return "Forgotten." if report.erased else f"Forgotten, but not erased yet: {report.reason}"

    return [remember, recall, forget]


def _told(report: Remembered) -> str:
    if report.merged:
        return f"Known already, as {report.id}."
    near = "".join(f" Nearly the same as {one.id}: {one.text}" for one in report.duplicates)
    return f"Remembered as {report.id}.{near}"
