"""A language model that answers from a memory, as a LangChain chat model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, NoReturn

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import ConfigDict

from langchain_mllm.answering import Answering, NoToolsError
from langchain_mllm.messages import metadata_of, question_of, usage_of
from mllm_plugin.memory_llm import Answer


class ChatMemoryLLM(Answering, BaseChatModel):
    """A chat model that reads the memory by itself: it searches by the user's last message.

    Every option but `llm` can be given for one call too, beside those of `MemoryLLMConfig`, such as `seed`,
    and `query`, what to search by instead: `chat.invoke("question", k=3)`. What is left out is as the
    `MemoryLLM` has it.

    A blank message is answered too: with nothing to search by, any chunk may be read.

    An answer has `usage_metadata`, and in `response_metadata` `sources` (document id, span, level, score,
    whether as text), `mode`, `finish_reason`, `dropped`, `model_name`, `memory_tokens` and `text_tokens`.
    Answers are not cached unless `cache` says so, since they change with the memory.

    Args:
        **options: Those of `Answering`: `llm`, `namespace`, `prefix`, `filter`, `exclude_labels`, `mode`,
            `k`, `expand`, `temperature`, `max_tokens`, `stop`, `cache`.
        streaming: Make answers piece by piece even when they are asked for as a whole.

    Raises:
        pydantic.ValidationError: An option is unknown or has a value out of range (a `ValueError`).
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    streaming: bool = False

    def bind_tools(self, tools: Any, **kwargs: Any) -> NoReturn:
        """Always raises: it searches the memory by itself and calls no tools.

        Raises:
            NoToolsError: Always (an `InvalidInputError` and a `NotImplementedError`).
        """
        raise NoToolsError(
            "ChatMemoryLLM calls no tools: it searches the memory by itself. Give a "
            "HierarchicalMemoryRetriever as a tool (create_retriever_tool) to a chat model that calls tools"
        )

    @property
    def _llm_type(self) -> str:
        return "mllm-chat"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        question = question_of(messages, kwargs.get("query"))
        return self._result(self.llm.answer(question, **self._call(stop, kwargs)))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        question = question_of(messages, kwargs.get("query"))
        return self._result(await self.llm.aanswer(question, **self._call(stop, kwargs)))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        question = question_of(messages, kwargs.get("query"))
        stream = self.llm.stream(question, **self._call(stop, kwargs))
        try:
            for piece in stream:
                chunk = _chunk(piece)
                if run_manager:
                    run_manager.on_llm_new_token(piece, chunk=chunk)
                yield chunk
            yield self._last_chunk(stream.answer)
        finally:
            stream.close()

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        question = question_of(messages, kwargs.get("query"))
        stream = self.llm.astream(question, **self._call(stop, kwargs))
        try:
            async for piece in stream:
                chunk = _chunk(piece)
                if run_manager:
                    await run_manager.on_llm_new_token(piece, chunk=chunk)
                yield chunk
            yield self._last_chunk(await stream.answer())
        finally:
            await stream.aclose()

    def _result(self, answer: Answer) -> ChatResult:
        message = AIMessage(
            content=answer.text,
            response_metadata=metadata_of(answer, self.model_name),
            usage_metadata=usage_of(answer),
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _last_chunk(self, answer: Answer) -> ChatGenerationChunk:
        message = AIMessageChunk(
            content="",
            response_metadata=metadata_of(answer, self.model_name),
            usage_metadata=usage_of(answer),
            chunk_position="last",
        )
        return ChatGenerationChunk(message=message)

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return self._traced(super()._get_ls_params(stop=stop, **kwargs))

    def get_token_ids(self, text: str) -> list[int]:
        """The model's own tokens of a text."""
        return self._token_ids(text)


def _chunk(piece: str) -> ChatGenerationChunk:
    return ChatGenerationChunk(message=AIMessageChunk(content=piece))
