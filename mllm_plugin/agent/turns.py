"""The messages of a session in order: which comes next, and what its neighbours say for a hit.

A message is short and leans on those around it: "Really? Where?" answers nothing by itself. So each message
of a recall's pool counts some of the best score among its neighbours, less with distance.
"""

from __future__ import annotations

from collections.abc import Mapping

from mllm_plugin.agent.naming import FIELD, own, place_of
from mllm_plugin.memory import MemoryIndex
from mllm_plugin.types import Hit, Namespace

REACH = 2  # messages before and after
SHARE = 0.6  # of the best neighbour's score
DECAY = 0.3  # a neighbour at distance d counts 1 / (1 + DECAY (d - 1)) of its score

Place = tuple[Namespace, int]


class Turns:
    """Numbers the messages of each session, in the order they are written."""

    def __init__(self, memory: MemoryIndex) -> None:
        self._memory = memory
        self._last: dict[tuple[Namespace, str], int] = {}

    def next(self, namespace: Namespace, session: str) -> int:
        """The place of a session's next message; looks whether another process has written some."""
        key = (namespace, session)
        last = self._last.get(key)
        if last is None:
            last = self._read(namespace, session)
        while self._memory.count({f"{FIELD}.place": last + 1}, namespace=namespace):
            last += 1
        self._last[key] = last + 1
        return last + 1

    def forget(self) -> None:
        """Reads anew from the memory from now on."""
        self._last.clear()

    def _read(self, namespace: Namespace, session: str) -> int:
        written = self._memory.documents(namespace=namespace, filter={f"{FIELD}.session": session})
        places = [own(document.metadata).get("place", 0) for document in written]
        return max(places, default=0) or place_of(session, 0)


def place(hit: Hit) -> Place | None:
    """Where a hit stands in its session; None outside of one."""
    found = own(hit.metadata).get("place")
    return None if found is None else (hit.namespace, found)


def around(where: Place) -> list[tuple[Place, int]]:
    """The places of the neighbours, and how far they are."""
    namespace, at = where
    return [((namespace, at + side * far), far) for far in range(1, REACH + 1) for side in (-1, 1)]


def evidence(where: Place, scores: Mapping[Place, float], unseen: float | None) -> float:
    """What the neighbours of a place add to its score.

    Args:
        where: The place.
        scores: Of what the pool holds.
        unseen: Counts for a neighbour that the pool does not hold; None where it holds everything.
    """
    near = [(scores.get(place, unseen), far) for place, far in around(where)]
    found = [score / (1 + DECAY * (far - 1)) for score, far in near if score is not None]
    return SHARE * max(0.0, max(found, default=0.0))
