"""What `MemoryLLM` and `ChatMemoryLLM` share: their options, and how a call is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from langchain_core.caches import BaseCache
from pydantic import ConfigDict, Field, model_validator
from typing_extensions import Self

import mllm_plugin.memory_llm
from langchain_mllm.documents import plain
from langchain_mllm.searching import Scoped, check_options
from mllm_plugin import MemoryIndex
from mllm_plugin.errors import InvalidInputError
from mllm_plugin.memory_llm.config import ReadingMode

_HOW = ("mode", "k", "expand", "temperature", "max_tokens", "stop")
_OF_REMOTE_MODELS = ("timeout", "max_retries", "api_key")


class NoToolsError(InvalidInputError, NotImplementedError):
    """A model that reads a memory was asked to call tools, or to answer by a schema."""


class Answering(Scoped):
    """Options of a model that answers from a memory.

    Args:
        llm: An open `mllm_plugin.memory_llm.MemoryLLM`; `from_memory` opens one.
        namespace: Where to search; a string is a namespace of one part.
        prefix: Search every namespace below `namespace` too.
        filter: Condition on the metadata, such as `{"year": {"$gte": 2020}}`.
        exclude_labels: Hide documents with one of these labels.
        mode: "memory", "text", "both", "auto", or "none" for the plain model.
        k: Chunks to find.
        expand: How many of them to spell out.
        temperature: 0 is the same at every run.
        max_tokens: Longest answer.
        stop: Texts before which an answer ends.
        cache: LangChain's cache of answers; they change with the memory.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    llm: mllm_plugin.memory_llm.MemoryLLM
    mode: ReadingMode | None = None
    k: int | None = Field(default=None, ge=1)
    expand: int | None = Field(default=None, ge=0)
    temperature: float | None = Field(default=None, ge=0)
    max_tokens: int | None = Field(default=None, ge=1)
    stop: list[str] | None = None
    cache: BaseCache | bool | None = Field(default=False, exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _without_options_of_remote_models(cls, values: Any) -> Any:
        """LangChain's standard options include some that a model in this process has no use for."""
        return {name: value for name, value in values.items() if name not in _OF_REMOTE_MODELS}

    @classmethod
    def from_memory(cls, memory: MemoryIndex, **options: Any) -> Self:
        """Loads a language model for a memory.

        Args:
            memory: An open memory, with its encoder.
            **options: Fields of this class; all others go to `mllm_plugin.memory_llm.MemoryLLM.open`:
                `model`, `adapter`, `config`, `device`, `dtype`, `progress`.

        Raises:
            InvalidTypeError: An option is unknown.
        """
        own = {name: value for name, value in options.items() if name in cls.model_fields}
        others = {name: value for name, value in options.items() if name not in own}
        check_options(mllm_plugin.memory_llm.MemoryLLM.open, others, *cls.model_fields)
        return cls(llm=mllm_plugin.memory_llm.MemoryLLM.open(memory, **others), **own)

    def with_structured_output(self, schema: dict[str, Any] | type, **kwargs: Any) -> NoReturn:
        """Always raises: it answers in plain text.

        Raises:
            NoToolsError: Always (an `InvalidInputError` and a `NotImplementedError`).
        """
        raise NoToolsError(
            f"{type(self).__name__} answers in plain text, not by a schema; put an output parser behind it, "
            f"or give a HierarchicalMemoryRetriever to a chat model that has structured output"
        )

    @property
    def model_name(self) -> str:
        """Name of the language model."""
        return self.llm.llm.name

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """What makes two of these different, for traces and caches."""
        adapter = self.llm.adapter
        own = self._scope() | {name: getattr(self, name) for name in _HOW}
        return {
            "model_name": self.model_name,
            "model": self.llm.llm.fingerprint,
            "adapter": None if adapter is None else adapter.config.model_dump(),
            "memory": str(self.llm.memory.path),
            "config": self.llm.config.model_dump(),
            **own,
        }

    def _call(self, stop: list[str] | None, given: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of `MemoryLLM.answer`: those of one call, else those of this object."""
        own = {name: getattr(self, name) for name in _HOW}
        call = self._scope()
        call.update({name: value for name, value in own.items() if value is not None})
        call.update({name: value for name, value in given.items() if name not in ("stream", "query")})
        call["filter"] = plain(call["filter"])
        if stop is not None:
            call["stop"] = stop
        if "max_tokens" in call:
            call.setdefault("max_new_tokens", call.pop("max_tokens"))
        return call

    def _traced(self, params: Any) -> Any:
        """LangSmith's parameters with what is not said in this object but in the `MemoryLLM`."""
        config = self.llm.config
        params["ls_provider"] = "mllm"
        params.setdefault("ls_temperature", config.temperature)
        params.setdefault("ls_max_tokens", config.max_new_tokens)
        return params

    def _token_ids(self, text: str) -> list[int]:
        return self.llm.llm.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
