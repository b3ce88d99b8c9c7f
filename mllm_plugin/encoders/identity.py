"""What tells an encoder whose name says too little: the vectors that it makes of a few texts."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.encoders.base import TextEncoder
from mllm_plugin.errors import InvalidInputError

PROBE_TEXTS = (
    "The keeper of the lighthouse writes down the height of the tide.",
    "def area(radius): return 3.14159 * radius ** 2",
    "Der Brief aus Köln kam am 12. März 1998 an.",
)
AGREEMENT = 0.99  # bfloat16 for float32 leaves .998, a prefix put before the texts .97 or less


class Sample(NamedTuple):
    """Texts and what an encoder made of them.

    Attributes:
        texts: n texts.
        documents: Their vectors as documents [n, d].
        queries: The vectors of the first m of them as queries [m, d]; m may be 0.
    """

    texts: tuple[str, ...]
    documents: NDArray[np.float32]
    queries: NDArray[np.float32]

    def to_json(self) -> str:
        """For the memory's file."""
        vectors = {"documents": _packed(self.documents), "queries": _packed(self.queries)}
        return json.dumps({"texts": self.texts, **vectors}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, dim: int) -> Sample:
        """Reads what `to_json` wrote."""
        found = json.loads(text)
        documents, queries = (_unpacked(found[name], dim) for name in ("documents", "queries"))
        return cls(tuple(found["texts"]), documents, queries)


def is_anonymous(encoder: TextEncoder) -> bool:
    """Whether the fingerprint is a guess, so that vectors must tell."""
    return bool(encoder.anonymous)


def sample_of(encoder: TextEncoder, texts: Sequence[str] = PROBE_TEXTS, queries: int = 1) -> Sample:
    """What an encoder makes of some texts, the first of them also as queries.

    Raises:
        InvalidInputError: It gives something else than a finite vector of `dim` numbers for each.
    """
    documents = encoder.encode_documents(list(texts))
    pooled = documents[0] if isinstance(documents, tuple) else documents
    asked = encoder.encode_queries(list(texts[:queries])) if queries else np.zeros((0, encoder.dim))
    found = Sample(tuple(texts), np.asarray(pooled, np.float32), np.asarray(asked, np.float32))
    for vectors, count in ((found.documents, len(texts)), (found.queries, queries)):
        if vectors.shape != (count, encoder.dim) or not np.isfinite(vectors).all():
            raise InvalidInputError(
                f"the encoder {encoder.fingerprint} returned vectors {vectors.shape} for {count} texts; "
                f"expected finite ones {(count, encoder.dim)}"
            )
    return found


def agreement(encoder: TextEncoder, stored: Sample) -> float:
    """The cosine of what an encoder makes of texts with what was made of them; the same model's is near 1."""
    found = sample_of(encoder, stored.texts, len(stored.queries))
    pairs = ((found.documents, stored.documents), (found.queries, stored.queries))
    return min(float(np.median(_cosines(new, old))) for new, old in pairs if len(old))


def _cosines(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return (left * right).sum(axis=1) / np.maximum(norms, np.finfo(np.float32).tiny)


def _packed(vectors: NDArray[np.float32]) -> str:
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return base64.b64encode(units.astype("<f2").tobytes()).decode()


def _unpacked(packed: str, dim: int) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(packed), "<f2").reshape(-1, dim).astype(np.float32)
