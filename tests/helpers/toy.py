"""A deterministic encoder for tests that need speed: the direction of a text is the sum of its words'."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from mllm_plugin.protocols import TextEncoder


@lru_cache(maxsize=100_000)
def word_vector(word: str, dim: int) -> np.ndarray:
    seed = int.from_bytes(hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest(), "little")
    return np.random.default_rng(seed).normal(size=dim)


class ToyEncoder(TextEncoder):
    """Pooled vector of all words, one window for each four words; counts the texts that it has seen."""

    def __init__(self, dim: int = 16, windows: bool = True) -> None:
        self.dim = dim
        self.fingerprint = f"toy:{dim}:{int(windows)}"
        self.windows = windows
        self.encoded: list[str] = []

    def encode_documents(self, texts: Sequence[str]):
        self.encoded += texts
        windows = [self._windows(text) for text in texts] if self.windows else None
        return np.array([self._vector(text.split()) for text in texts], dtype=np.float32), windows

    def encode_queries(self, texts: Sequence[str]):
        return np.array([self._vector(text.split()) for text in texts], dtype=np.float32)

    def _windows(self, text: str) -> np.ndarray:
        words = text.split()
        return np.array(
            [self._vector(words[at : at + 4]) for at in range(0, len(words), 4)] or np.zeros((0, self.dim)),
            dtype=np.float32,
        )

    def _vector(self, words: Sequence[str]) -> np.ndarray:
        total = np.sum([word_vector(word.lower(), self.dim) for word in words] or [np.ones(self.dim)], axis=0)
        return total / np.linalg.norm(total)
