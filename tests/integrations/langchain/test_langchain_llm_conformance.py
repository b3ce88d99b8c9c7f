"""LangChain's own tests of chat models. What is skipped needs tools, structured output or other media."""

from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_mllm import ChatMemoryLLM
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests


class _OverTheMemory:
    """The model under test."""

    @pytest.fixture(autouse=True)
    def _use_reader(self, reader: Any) -> None:
        self.reader = reader

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatMemoryLLM

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"llm": self.reader}

    @property
    def has_tool_calling(self) -> bool:
        return False

    @property
    def has_structured_output(self) -> bool:
        return False

    @property
    def supports_model_override(self) -> bool:
        return False  # the model is loaded


class TestChatModelUnitConformance(_OverTheMemory, ChatModelUnitTests):
    pass


class TestChatModelConformance(_OverTheMemory, ChatModelIntegrationTests):
    pass
