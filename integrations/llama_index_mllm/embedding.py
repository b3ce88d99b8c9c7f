"""The memory's Encoder 1 as an embedding model of LlamaIndex."""

from __future__ import annotations

import asyncio
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from pydantic import PrivateAttr
from typing_extensions import Self

from llama_index_mllm.copies import check_picklable, restore, sharing, state_of
from mllm_plugin.protocols import TextEncoder

Embedding = list[float]


class MemoryEmbedding(BaseEmbedding):
    """Embeds with the encoder that a memory was written with, so that one model serves both.

    A copy shares the encoder; a pickle, which workers of an `IngestionPipeline` get, holds it as it pickles.

    Args:
        encoder: `memory.encoder`, or any other `TextEncoder`.
        **options: More fields of `BaseEmbedding`, such as `embed_batch_size`.
    """

    _encoder: TextEncoder = PrivateAttr()

    def __init__(self, encoder: TextEncoder, **options: Any) -> None:
        super().__init__(**{"model_name": encoder.fingerprint, **options})
        self._encoder = encoder

    @classmethod
    def class_name(cls) -> str:
        """The name LlamaIndex knows it by."""
        return "MemoryEmbedding"

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return super().__deepcopy__(sharing(memo, self._encoder, self.callback_manager))

    def __getstate__(self) -> dict[str, Any]:
        check_picklable(self._encoder)
        return state_of(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        restore(self, state)

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return self._encoder.encode_documents(texts)[0].tolist()

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> Embedding:
        return self._encoder.encode_queries([query])[0].tolist()

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)

    async def _aget_text_embedding(self, text: str) -> Embedding:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_query_embedding(self, query: str) -> Embedding:
        return await asyncio.to_thread(self._get_query_embedding, query)
