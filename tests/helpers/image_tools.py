"""Small memories with a search image."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mllm_plugin import Document
from mllm_plugin.image import Plan, Space, compare, exact_order, nearest, walk

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


def all_found(
    space: Space, queries: NDArray[np.float32], plan: Plan, counts: NDArray[np.uint32] | None
) -> tuple[Any, ...]:
    """All that walk, comparison and exact order tell about a space of at least 40 chunks, as values."""
    walked = [
        (one.chunks.tolist(), one.scores.tolist(), one.scored, one.visited)
        for one in walk(space, queries, plan, counts)
    ]
    best, scored = nearest(space, queries, plan, 4, counts)
    some = [np.arange(place, 40) for place in range(len(queries))]
    compared = [(one.chunks.tolist(), one.scores.tolist()) for one in compare(space, queries, some, counts)]
    order = [[part.tolist() for part in one] for one in exact_order(space, queries, some, 40)]
    return walked, [one.tolist() for one in best], scored.tolist(), compared, order
