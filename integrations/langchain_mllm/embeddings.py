"""The memory's Encoder 1 as LangChain `Embeddings`."""

from __future__ import annotations

from typing import Any

from langchain_core.embeddings import Embeddings
from typing_extensions import Self

from langchain_mllm.copies import picklable
from mllm_plugin.protocols import TextEncoder


class MemoryEmbeddings(Embeddings):
    """Embeds with the encoder that a memory was written with; the async twins run in a thread.

    Args:
        encoder: `memory.encoder`, or any other `TextEncoder`.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        self.encoder = encoder

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Embeddings by the same encoder."""
        return type(self)(self.encoder)

    def __getstate__(self) -> dict[str, Any]:
        """The encoder, if it can be pickled."""
        return {**vars(self), "encoder": picklable(self.encoder)}

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Returns one pooled embedding per text."""
        return self.encoder.encode_documents(texts)[0].tolist() if texts else []

    def embed_query(self, text: str) -> list[float]:
        """Returns the embedding of a query."""
        return self.encoder.encode_queries([text])[0].tolist()
