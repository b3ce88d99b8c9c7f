"""A tiny deterministic encoder, for the memory and for LlamaIndex, and memories that use it."""

from __future__ import annotations

import asyncio
import hashlib
import re
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.llms.types import CompletionResponse, CompletionResponseGen, LLMMetadata
from llama_index.core.llms import CustomLLM
from numpy.typing import NDArray
from pydantic import PrivateAttr

DIM = 16


def embed(text: str) -> NDArray[np.float32]:
    """The sum of one random direction per word: texts that share words are near each other."""
    vector = np.full(DIM, 1e-3, dtype=np.float32)
    for word in re.findall(r"\w+", text.lower()):
        seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest(), "little")
        vector += np.random.default_rng(seed).standard_normal(DIM, dtype=np.float32)
    return vector / np.linalg.norm(vector)


class WordEncoder:
    """A `TextEncoder` that keeps the texts it has seen, and calls `before` first."""

    dim = DIM
    fingerprint = "words:16"

    def __init__(self) -> None:
        self.encoded: list[str] = []
        self.before: Callable[[], object] = dict

    def encode_documents(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], None]:
        self._see(texts)
        return np.stack([embed(text) for text in texts]), None

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self._see(texts)
        return np.stack([embed(text) for text in texts])

    def _see(self, texts: Sequence[str]) -> None:
        self.before()
        self.encoded.extend(texts)


class WordEmbedding(BaseEmbedding):
    """The same embeddings for LlamaIndex; keeps the texts it has seen."""

    _embedded: list[str] = PrivateAttr(default_factory=list)

    @property
    def embedded(self) -> list[str]:
        return self._embedded

    def _get_text_embedding(self, text: str) -> list[float]:
        self._embedded.append(text)
        return embed(text).tolist()

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


class RecordingLLM(CustomLLM):
    """A scripted LLM: keeps every prompt and answers with the same words."""

    _prompts: list[str] = PrivateAttr(default_factory=list)

    @property
    def prompts(self) -> list[str]:
        return self._prompts

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="recording")

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        self._prompts.append(prompt)
        return CompletionResponse(text="noted")

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        yield self.complete(prompt, formatted, **kwargs)


class Gate:
    """Shows that an event loop runs on: `hold` waits, in another thread, until the loop comes round."""

    def __init__(self) -> None:
        self._entered, self._released = threading.Event(), threading.Event()

    def hold(self) -> None:
        self._entered.set()
        if not self._released.wait(timeout=10):
            raise TimeoutError("the event loop is blocked")

    async def passed_by(self, awaitable: Awaitable[Any]) -> Any:
        task = asyncio.ensure_future(awaitable)
        while not self._entered.is_set():
            await asyncio.sleep(0.001)
        self._released.set()
        return await task
