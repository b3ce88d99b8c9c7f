"""The messages of a session in order: which comes next, and what its neighbours say for a hit.

A message is short and leans on those around it: "Really? Where?" answers nothing by itself. So each message
of a recall's pool counts some of the best score among its neighbours, less with distance. What stands alone,
a fact or the one message of a session, gains by the same part as the best message does, or any message with
a good neighbour would come before a fact that answers better.

A question that names one of those who speak is mostly about what that one says, so the messages of the others
count a little less.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence

from mllm_plugin.agent.naming import FIELD, own, place_of
from mllm_plugin.memory import MemoryIndex
from mllm_plugin.text.lexical import terms_of
from mllm_plugin.types import Hit, Namespace

REACH = 2  # messages before and after
SHARE = 0.6  # of the best neighbour's score
DECAY = 0.3  # a neighbour at distance d counts 1 / (1 + DECAY (d - 1)) of its score
OTHERS = 0.95  # of its score counts a message whose speaker is not the one that a question names

Place = tuple[Namespace, int]


class Turns:
    """Numbers the messages of each session, in the order they are written."""

    def __init__(self, memory: MemoryIndex) -> None:
        self._memory = memory
        self._last: dict[tuple[Namespace, str], int] = {}
        self._lock = threading.Lock()

    def next(self, namespace: Namespace, session: str) -> int:
        """The place of a session's next message; looks whether another process has written some."""
        key = (namespace, session)
        with self._lock:
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


def evidence(where: Place, scores: Mapping[Place, float], unseen: float | None) -> float | None:
    """What the neighbours of a place add to its score; None where it has none.

    Args:
        where: The place.
        scores: Of what the pool holds.
        unseen: Counts for a neighbour that the pool does not hold; None where it holds everything.
    """
    near = [(scores.get(place, unseen), far) for place, far in around(where)]
    found = [score / (1 + DECAY * (far - 1)) for score, far in near if score is not None]
    return SHARE * max(0.0, max(found)) if found else None


def in_context(scores: Sequence[float], places: Sequence[Place | None], unseen: float | None) -> list[float]:
    """The scores of a pool's hits, best first, with what the context of each adds."""
    by_place = {place: score for place, score in zip(places, scores, strict=True) if place is not None}
    added = [None if place is None else evidence(place, by_place, unseen) for place in places]
    gains = [
        more / score for score, more in zip(scores, added, strict=True) if more is not None and score > 0
    ]
    gain = gains[0] if gains else 0.0
    return [
        score + (gain * max(0.0, score) if more is None else more)
        for score, more in zip(scores, added, strict=True)
    ]


def named(query: str, speakers: Iterable[str]) -> str | None:
    """The one of the speakers whom a query names, by the first word of the name; None for none or several."""
    asked = set(terms_of(query))
    found = [one for one in speakers if _is_named(terms_of(one), asked)]
    return found[0] if len(found) == 1 else None


def weighed(score: float, speaker: str | None, asked_of: str | None) -> float:
    """A message's score, by who says it and whom the query names."""
    return OTHERS * score if score > 0 and asked_of is not None and speaker not in (None, asked_of) else score


def _is_named(name: Sequence[str], asked: set[str]) -> bool:
    return bool(name) and name[0] in asked
