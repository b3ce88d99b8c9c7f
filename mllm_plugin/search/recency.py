"""Recency as evidence: what is newer scores higher, by a weight that halves with age.

Shapes: n chunks.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np

from mllm_plugin.errors import InvalidInputError, InvalidTypeError
from mllm_plugin.shapes import Float64, Int64
from mllm_plugin.store.snapshot import Snapshot


@dataclass(frozen=True)
class Recency:
    """How much newness counts.

    A chunk's score gets `weight * 0.5 ** (age / half_life)` added. Its age is the time since its document's
    `valid_from`, or since its `created_at` where it has none; what has neither, or lies ahead, counts as
    infinitely old or as new.

    Args:
        half_life: A timedelta, or seconds.
        weight: What something of this moment gets; a cosine counts for up to 1 beside it.

    Raises:
        InvalidTypeError: One is no number.
        InvalidInputError: The half-life is not above 0, or the weight below 0.
    """

    half_life: timedelta | float
    weight: float = 0.1

    def __post_init__(self) -> None:
        seconds = self.seconds
        for name, value in (("half_life", seconds), ("weight", self.weight)):
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise InvalidTypeError(f"recency: {name} must be a number, got {value!r}")
        if not 0 < seconds < float("inf") or not 0 <= self.weight < float("inf"):
            raise InvalidInputError(
                f"recency: half_life must be above 0 and weight not below 0, got {self!r}"
            )

    @property
    def seconds(self) -> float:
        """The half-life."""
        return self.half_life.total_seconds() if isinstance(self.half_life, timedelta) else self.half_life

    def added(self, snapshot: Snapshot, chunk_ids: Int64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """What is added to the score of each chunk."""
        begins = snapshot.begins(chunk_ids.tolist())
        ages = [
            (snapshot.now - begins[chunk_id]) / 1e6 if chunk_id in begins else np.inf
            for chunk_id in chunk_ids.tolist()
        ]
        return self.weight * np.exp2(-np.maximum(ages, 0.0) / self.seconds)


def recency_of(given: Any) -> Recency | None:
    """Recency as a caller may give it: None, a half-life, or both numbers.

    Raises:
        InvalidTypeError: It is something else.
    """
    if given is None or isinstance(given, Recency):
        return given
    if isinstance(given, timedelta) or (isinstance(given, int | float) and not isinstance(given, bool)):
        return Recency(given)
    raise InvalidTypeError(f"recency is a half-life (timedelta or seconds) or a Recency, got {given!r}")
