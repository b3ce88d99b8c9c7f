"""A language model that answers from a memory, as an LLM of LlamaIndex."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
)
from llama_index.core.llms import CustomLLM
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.prompts import BasePromptTemplate
from pydantic import ConfigDict, Field
from typing_extensions import Self

import mllm_plugin.memory_llm
from llama_index_mllm.copies import sharing
from llama_index_mllm.filters import memory_filter
from llama_index_mllm.messages import (
    chat_response_of,
    completion_of,
    has_context,
    marked,
    prompt_of,
    question_of,
)
from mllm_plugin import MemoryIndex
from mllm_plugin.errors import InvalidTypeError
from mllm_plugin.memory.checks import SCOPE
from mllm_plugin.memory_llm.config import ReadingMode

_HOW = ("mode", "k", "expand", "temperature", "max_tokens", "stop")


class MemoryLLM(CustomLLM):
    """An LLM that reads the memory by itself: it searches by the prompt, or by a chat's last message.

    Where a query engine or another prompt template of LlamaIndex asks, it searches by the question
    (`query_str`) alone, and does not spell chunks out once more where the template holds retrieved text
    already (`context_str`), unless `expand` is set. With `mode="none"` it does not search at all.

    Every option but `llm` can be given for one call too, beside those of `MemoryLLMConfig`, such as `seed`,
    and `query`, what to search by instead: `llm.complete("question", k=3)`. What is left out is as the
    `MemoryLLM` given has it.

    A response has in `additional_kwargs` `sources` (document id, span, level, score, whether as text),
    `mode`, `finish_reason`, `dropped` and tokens, and the whole answer as `raw`; of a stream, the last one.

    A blank message is answered too: with nothing to search by, any chunk may be read. A copy shares the
    model; pickling is refused.

    Args:
        llm: An open `mllm_plugin.memory_llm.MemoryLLM`; `from_memory` opens one.
        namespace: Where to search; a string is a namespace of one part.
        prefix: Search every namespace below `namespace` too.
        filter: A filter of the memory, or `MetadataFilters`.
        exclude_labels: Labels whose documents are hidden.
        mode: "memory", "text", "both", "auto", or "none" for the plain model.
        k: Chunks to find.
        expand: How many of them to spell out.
        temperature: 0 is the same at every run.
        max_tokens: Longest answer.
        stop: Texts before which an answer ends.
        **options: Fields of LlamaIndex's `LLM`, such as `system_prompt` and `callback_manager`.

    Raises:
        pydantic.ValidationError: An option is unknown or has a value out of range (a `ValueError`).
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    llm: mllm_plugin.memory_llm.MemoryLLM = Field(exclude=True)
    namespace: tuple[str, ...] | str = ()
    prefix: bool = False
    filter: Any = None
    exclude_labels: tuple[str, ...] = ()
    mode: ReadingMode | None = None
    k: int | None = Field(default=None, ge=1)
    expand: int | None = Field(default=None, ge=0)
    temperature: float | None = Field(default=None, ge=0)
    max_tokens: int | None = Field(default=None, ge=1)
    stop: list[str] | None = None

    @classmethod
    def class_name(cls) -> str:
        """The name LlamaIndex knows it by."""
        return "MemoryLLM"

    @classmethod
    def from_memory(cls, memory: MemoryIndex, **options: Any) -> Self:
        """Loads a language model for a memory.

        Args:
            memory: An open memory, with its encoder.
            **options: Fields of this class; all others go to `mllm_plugin.memory_llm.MemoryLLM.open`:
                `model`, `adapter`, `config`, `device`, `dtype`, `progress`.
        """
        own = {name: value for name, value in options.items() if name in cls.model_fields}
        others = {name: value for name, value in options.items() if name not in own}
        return cls(llm=mllm_plugin.memory_llm.MemoryLLM.open(memory, **others), **own)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return super().__deepcopy__(sharing(memo, self.llm, self.callback_manager))

    def __getstate__(self) -> dict[str, Any]:
        """LlamaIndex's own would take `llm` out of this very object."""
        raise InvalidTypeError(
            "a MemoryLLM holds an open language model and cannot be pickled; open one in each process, with "
            "MemoryLLM.from_memory"
        )

    @property
    def metadata(self) -> LLMMetadata:
        """What LlamaIndex wants to know of the model."""
        return LLMMetadata(
            context_window=self.llm.llm.context,
            num_output=self.max_tokens or self.llm.config.max_new_tokens,
            is_chat_model=True,
            model_name=self.llm.llm.name,
        )

    # -- whole answers

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answers a prompt."""
        answer = self.llm.answer(self._prompt(prompt, formatted, kwargs), **self._call(kwargs))
        return completion_of(answer.text, answer)

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """`complete` without blocking the event loop."""
        answer = await self.llm.aanswer(self._prompt(prompt, formatted, kwargs), **self._call(kwargs))
        return completion_of(answer.text, answer)

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answers the last message of a chat."""
        question = question_of(messages, kwargs.get("query"))
        answer = self.llm.answer(question, **self._call(kwargs, messages))
        return chat_response_of(answer.text, answer)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """`chat` without blocking the event loop."""
        question = question_of(messages, kwargs.get("query"))
        answer = await self.llm.aanswer(question, **self._call(kwargs, messages))
        return chat_response_of(answer.text, answer)

    # -- piece by piece

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """Answers a prompt piece by piece."""
        return self._stream(completion_of, self._prompt(prompt, formatted, kwargs), self._call(kwargs))

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """`stream_complete` without blocking the event loop."""
        return self._astream(completion_of, self._prompt(prompt, formatted, kwargs), self._call(kwargs))

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answers the last message of a chat piece by piece."""
        question = question_of(messages, kwargs.get("query"))
        return self._stream(chat_response_of, question, self._call(kwargs, messages))

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """`stream_chat` without blocking the event loop."""
        question = question_of(messages, kwargs.get("query"))
        return self._astream(chat_response_of, question, self._call(kwargs, messages))

    def _stream(
        self, respond: Callable[..., Any], question: Any, call: Mapping[str, Any]
    ) -> Generator[Any, None, None]:
        """Responses with the text so far; the last one adds nothing but what is known of the answer."""
        stream, text = self.llm.stream(question, **call), ""
        try:
            for piece in stream:
                text += piece
                yield respond(text, None, piece)
            yield respond(text, stream.answer, "")
        finally:
            stream.close()

    async def _astream(
        self, respond: Callable[..., Any], question: Any, call: Mapping[str, Any]
    ) -> AsyncGenerator[Any, None]:
        stream, text = self.llm.astream(question, **call), ""
        try:
            async for piece in stream:
                text += piece
                yield respond(text, None, piece)
            yield respond(text, await stream.answer(), "")
        finally:
            await stream.aclose()

    # -- what is asked, and how

    def _get_messages(self, prompt: BasePromptTemplate, **prompt_args: Any) -> list[ChatMessage]:
        messages = super()._get_messages(prompt, **prompt_args)
        marked(messages, prompt, prompt_args)
        return messages

    def _prompt(self, prompt: str, formatted: bool, given: Mapping[str, Any]) -> Any:
        if not formatted and self.completion_to_prompt is not None:
            prompt = self.completion_to_prompt(prompt)
        return prompt_of(prompt, given.get("query"))

    def _call(self, given: Mapping[str, Any], messages: Sequence[ChatMessage] = ()) -> dict[str, Any]:
        """Arguments of `MemoryLLM.answer`: those of one call, else those of this object."""
        own = {name: getattr(self, name) for name in _HOW}
        call: dict[str, Any] = {"expand": 0} if has_context(messages) else {}
        call.update({name: getattr(self, name) for name in SCOPE})
        call.update({name: value for name, value in own.items() if value is not None})
        call.update({name: value for name, value in given.items() if name != "query"})
        call["filter"] = memory_filter(call["filter"])
        if "max_tokens" in call:
            call.setdefault("max_new_tokens", call.pop("max_tokens"))
        return call
