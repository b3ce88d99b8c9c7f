"""What a reader reads of a recall: vectors that the model wrote of the hits' texts, kept until they go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.errors import InvalidInputError
from mllm_plugin.llm import LoadedLLM, MemoryReader
from mllm_plugin.llm.reader import Written
from mllm_plugin.memory import MemoryIndex
from mllm_plugin.memory_llm.block import CHUNK, WINDOW
from mllm_plugin.memory_llm.config import MemoryLLMConfig
from mllm_plugin.memory_llm.nodes import choose_nodes
from mllm_plugin.store.cache import EmbeddingCache, hash_text
from mllm_plugin.types import Hit, MemoryEmbedding, Namespace, Recall

_SPANS = np.dtype("<i4")
_VECTORS = np.dtype("<f2")
Chunk = tuple[Namespace, str]


@dataclass(frozen=True)
class Writer:
    """Writes chunks for a reader, each once: what is written is kept in the memory's folder.

    Every removal empties that cache, as it does for embeddings.

    Args:
        memory: Whose chunks.
        llm: Writes.
        reader: How.
    """

    memory: MemoryIndex
    llm: LoadedLLM
    reader: MemoryReader

    def read(self, recalls: Sequence[Recall], config: MemoryLLMConfig) -> list[Recall]:
        """Recalls with written vectors in place of Encoder 1's; what is spelled out whole is left out."""
        spelled = 0
        if config.mode == "both" and not config.repeat and config.text_tokens is None:
            spelled = config.spelled(embeddings=True)
        kept = [recall.hits[spelled:] for recall in recalls]
        nodes = [choose_nodes(recall, config.nodes) for recall in recalls]
        faces = [face for chosen in nodes for node in chosen for face in node.faces]
        chunks = [*faces, *(hit for hits in kept for hit in hits)]
        written = self.written({(chunk.namespace, chunk.text): chunk.chunk_id for chunk in chunks})
        return [
            replace(recall, levels=_upper(chosen, written) | dict(_levels(hits, written)))
            for recall, chosen, hits in zip(recalls, nodes, kept, strict=True)
        ]

    def written(self, chunks: Mapping[Chunk, int]) -> dict[Chunk, Written]:
        """Chunks, by namespace and text, as the reader reads them; with the id of each."""
        cache = self._cache()
        found = {chunk: kept for chunk in chunks if (kept := self._kept(cache, chunk)) is not None}
        return found | self._write(cache, {chunk: chunks[chunk] for chunk in chunks.keys() - found.keys()})

    def ahead(self, chunks: Mapping[Chunk, int]) -> int:
        """Writes chunks that are not written yet, and keeps them; returns how many there were.

        Raises:
            InvalidInputError: The memory keeps nothing.
        """
        cache = self._cache()
        if cache is None:
            raise InvalidInputError(
                f"the memory at {self.memory.path} keeps no reading vectors; open it without read_only, and "
                f"with MemoryConfig.embedding_cache"
            )
        missing = {chunk: row for chunk, row in chunks.items() if self._kept(cache, chunk) is None}
        return len(self._write(cache, missing))

    def _write(self, cache: EmbeddingCache | None, chunks: Mapping[Chunk, int]) -> dict[Chunk, Written]:
        if not chunks:
            return {}
        ordered = sorted(chunks)
        new = dict(zip(ordered, self.reader.write(self.llm, [text for _, text in ordered]), strict=True))
        if cache is not None:
            entries = {
                chunks[chunk]: (hash_text(*chunk), _mean(written), _bytes(written))
                for chunk, written in new.items()
            }
            self.memory.keep_vectors(cache, entries)
        return new

    def _cache(self) -> EmbeddingCache | None:
        return self.memory.vector_cache(self.reader.fingerprint, self.reader.config.hidden)

    def _kept(self, cache: EmbeddingCache | None, chunk: Chunk) -> Written | None:
        entry = cache.get(hash_text(*chunk)) if cache is not None else None
        width = self.reader.config.hidden
        return None if entry is None else _written(entry[1], width)


def _upper(
    nodes: Sequence[MemoryEmbedding], written: Mapping[Chunk, Written]
) -> dict[int, tuple[MemoryEmbedding, ...]]:
    """Nodes as the means of what is written of their most central chunks."""
    found: dict[int, tuple[MemoryEmbedding, ...]] = {}
    for node in nodes:
        means = [_mean(written[face.namespace, face.text]) for face in node.faces]
        if means:
            vector = np.stack(means).mean(axis=0, dtype=np.float64).astype(np.float32)
            found[node.level] = (*found.get(node.level, ()), replace(node, vectors=vector[None]))
    return found


def _levels(
    hits: Sequence[Hit], written: Mapping[Chunk, Written]
) -> Iterator[tuple[int, tuple[MemoryEmbedding, ...]]]:
    pairs = [(hit, written[hit.namespace, hit.text]) for hit in hits]
    pairs = [(hit, written) for hit, written in pairs if len(written.vectors)]
    yield (
        WINDOW,
        tuple(
            _embedding(WINDOW, hit, vector, hit.start + int(span[0]), hit.start + int(span[1]))
            for hit, written in pairs
            for vector, span in zip(written.vectors, written.spans, strict=True)
        ),
    )
    yield CHUNK, tuple(_embedding(CHUNK, hit, _mean(written), hit.start, hit.end) for hit, written in pairs)


def _embedding(level: int, hit: Hit, vector: NDArray[np.float32], start: int, end: int) -> MemoryEmbedding:
    return MemoryEmbedding(
        level, vector[None], hit.score, hit.chunk_id, hit.document_id, start, end, hit.namespace
    )


def _mean(written: Written) -> NDArray[np.float32]:
    """Level 1: the mean of its windows."""
    return (
        written.vectors.mean(axis=0)
        if len(written.vectors)
        else np.zeros(written.vectors.shape[1], np.float32)
    )


def _bytes(written: Written) -> bytes:
    return written.spans.astype(_SPANS).tobytes() + written.vectors.astype(_VECTORS).tobytes()


def _written(data: bytes, width: int) -> Written | None:
    """What `_bytes` wrote; None where it cannot be that."""
    each = 2 * _SPANS.itemsize + width * _VECTORS.itemsize
    count, rest = divmod(len(data), each)
    if rest:
        return None
    edge = count * 2 * _SPANS.itemsize
    spans = np.frombuffer(data[:edge], _SPANS).reshape(-1, 2).astype(np.int64)
    vectors = np.frombuffer(data[edge:], _VECTORS).reshape(-1, width).astype(np.float32)
    return Written(vectors, spans) if np.isfinite(vectors).all() else None
