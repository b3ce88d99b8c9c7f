"""A language model that answers from a memory, as a LangChain LLM: text in, text out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.llms import BaseLLM
from langchain_core.messages import HumanMessage
from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from pydantic import ConfigDict

from langchain_mllm.answering import Answering
from langchain_mllm.messages import metadata_of, question_of, usage_of
from mllm_plugin.memory_llm import Answer


class MemoryLLM(Answering, BaseLLM):
    """An LLM that reads the memory by itself: it searches by the prompt.

    The options are those of `ChatMemoryLLM`, without `streaming`, and can be given for one call too. Prompts
    of a batch are searched and answered together. `generate` gives the sources with each answer, as
    `generation_info`. For messages, or a system line of one's own, use `ChatMemoryLLM`.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    @property
    def _llm_type(self) -> str:
        return "mllm"

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        questions = [question_of([HumanMessage(prompt)], kwargs.get("query")) for prompt in prompts]
        return self._result(self.llm.answer_batch(questions, **self._call(stop, kwargs)))

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        questions = [question_of([HumanMessage(prompt)], kwargs.get("query")) for prompt in prompts]
        return self._result(await self.llm.aanswer_batch(questions, **self._call(stop, kwargs)))

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        stream = self.llm.stream(
            question_of([HumanMessage(prompt)], kwargs.get("query")), **self._call(stop, kwargs)
        )
        try:
            for piece in stream:
                chunk = GenerationChunk(text=piece)
                if run_manager:
                    run_manager.on_llm_new_token(piece, chunk=chunk)
                yield chunk
            yield GenerationChunk(text="", generation_info=self._info(stream.answer))
        finally:
            stream.close()

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        stream = self.llm.astream(
            question_of([HumanMessage(prompt)], kwargs.get("query")), **self._call(stop, kwargs)
        )
        try:
            async for piece in stream:
                chunk = GenerationChunk(text=piece)
                if run_manager:
                    await run_manager.on_llm_new_token(piece, chunk=chunk)
                yield chunk
            yield GenerationChunk(text="", generation_info=self._info(await stream.answer()))
        finally:
            await stream.aclose()

    def _result(self, answers: Sequence[Answer]) -> LLMResult:
        generations = [
            [Generation(text=answer.text, generation_info=self._info(answer))] for answer in answers
        ]
        return LLMResult(generations=generations, llm_output={"model_name": self.model_name})

    def _info(self, answer: Answer) -> dict[str, Any]:
        return {**metadata_of(answer, self.model_name), "usage_metadata": usage_of(answer)}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return self._traced(super()._get_ls_params(stop=stop, **kwargs))

    def get_token_ids(self, text: str) -> list[int]:
        """The model's own tokens of a text."""
        return self._token_ids(text)
