"""Small memories with a search image."""

from __future__ import annotations

import random

from mllm_plugin import Document

_WORDS = [f"word{place}" for place in range(60)]


def documents(count: int, seed: int = 0, prefix: str = "d") -> list[Document]:
    """Documents of nine words out of sixty, and a year out of twenty each."""
    rng = random.Random(seed)
    return [
        Document(
            id=f"{prefix}{place}", text=" ".join(rng.choices(_WORDS, k=9)), metadata={"year": place % 20}
        )
        for place in range(count)
    ]
