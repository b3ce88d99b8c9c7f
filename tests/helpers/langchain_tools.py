"""A deterministic encoder that can be pickled."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class WordHashEncoder:
    """Sums one fixed random vector per word."""

    dim = 16
    fingerprint = "word-hash:16"

    def encode_documents(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], None]:
        return self.encode_queries(texts), None

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.stack([self._vector(text) for text in texts])

    def _vector(self, text: str) -> NDArray[np.float32]:
        words = re.findall(r"\w+", text.lower()) or [text]
        vectors = [np.random.default_rng(zlib.crc32(word.encode())).normal(size=self.dim) for word in words]
        return np.sum(vectors, axis=0).astype(np.float32)
