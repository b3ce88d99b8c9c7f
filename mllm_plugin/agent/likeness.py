"""Which items say nearly the same: equal but for case and blanks, or near in meaning.

Texts are compared without their headers, which would make two messages of one day alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.agent.items import Duplicate
from mllm_plugin.agent.naming import MESSAGE, own
from mllm_plugin.encoders.base import as_vectors
from mllm_plugin.lru import LRU
from mllm_plugin.memory import MemoryIndex
from mllm_plugin.memory.batch import Batch
from mllm_plugin.text.lexical import terms_of
from mllm_plugin.types import Namespace

Embed = Callable[[Sequence[str]], NDArray[np.float32]]

_COMPARED = 4  # nearest items of a text
_SHARED = 0.3  # of the words; texts that share fewer are not asked for their meaning
_KEPT = 1024  # vectors of texts that were compared


class Likeness:
    """Finds near-duplicates; keeps the vectors of the last texts."""

    def __init__(self, memory: MemoryIndex, similar: float) -> None:
        self._memory, self._similar = memory, similar
        self._vectors: LRU[str, NDArray[np.float32]] = LRU(_KEPT)

    def duplicates(
        self, texts: Sequence[str], namespace: Namespace, batch: Batch
    ) -> list[tuple[Duplicate, ...]]:
        """Items of a namespace that say nearly the same as each text, the nearest first.

        Args:
            texts: New ones.
            namespace: Where they come to.
            batch: That adds them, and then need not embed them again.
        """
        if not texts or not self._memory.count(namespace=namespace):
            return [() for _ in texts]

        def embed(new: Sequence[str]) -> NDArray[np.float32]:
            return _units(batch.embed(new, namespace=namespace))  # what is stored there is only read

        vectors = self.vectors(texts, embed)
        options = {"k": _COMPARED, "namespace": namespace, "unique_documents": True}
        found = self._memory.search_batch(texts, embeddings=list(vectors), **options)
        return [
            self._alike(text, [(hit.document_id, hit.text, hit.metadata) for hit in hits], embed)
            for text, hits in zip(texts, found, strict=True)
        ]

    def vectors(self, texts: Sequence[str], embed: Embed | None = None) -> NDArray[np.float32]:
        """Unit vectors [n, d] of texts.

        Args:
            texts: Which.
            embed: Makes them; the encoder when left out.
        """
        known = {text: kept for text in texts if (kept := self._vectors.get(text)) is not None}
        missing = list(dict.fromkeys(text for text in texts if text not in known))
        if missing:
            known |= zip(missing, (embed or self._encoded)(missing), strict=True)
            for text in missing:
                self._vectors.put(text, known[text], 1)
        return np.stack([known[text] for text in texts])

    def _encoded(self, texts: Sequence[str]) -> NDArray[np.float32]:
        encoder = self._memory.encoder
        return as_vectors(encoder.encode_documents(texts)[0], encoder.dim)

    def forget(self) -> None:
        """Drops every vector: some may be of what was erased."""
        self._vectors.clear()

    def _alike(
        self, text: str, found: Sequence[tuple[str, str, dict]], embed: Embed
    ) -> tuple[Duplicate, ...]:
        bare = {name: full[own(said).get("head", 0) :] for name, full, said in found if not _is_message(said)}
        near = {name: other for name, other in bare.items() if _shared(text, other) >= _SHARED}
        if not near:
            return ()
        vectors = self.vectors([text, *near.values()], embed)
        cosines = np.clip(vectors[1:] @ vectors[0], -1.0, 1.0).tolist()
        alike = [
            Duplicate(name, other, 1.0 if same(text, other) else float(cosine))
            for (name, other), cosine in zip(near.items(), cosines, strict=True)
        ]
        kept = [one for one in alike if one.similarity >= self._similar]
        return tuple(sorted(kept, key=lambda one: -one.similarity))


def _units(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors of length 1; zeros, of texts without a meaning, stay."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


def same(first: str, second: str) -> bool:
    """Whether two texts are equal but for case and blanks."""
    return first.casefold().split() == second.casefold().split()


def _is_message(metadata: dict) -> bool:
    return own(metadata).get("kind") == MESSAGE


def _shared(first: str, second: str) -> float:
    """The share of words that two texts have in common."""
    if same(first, second):
        return 1.0
    left, right = set(terms_of(first)), set(terms_of(second))
    return len(left & right) / max(1, min(len(left), len(right)))
