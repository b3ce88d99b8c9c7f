"""Items of an agent memory in the shapes that mem0 gives."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mem0_mllm.checks import ENTITIES, metadata_given
from mllm_plugin.agent import Memory as Item

ABOUT, METADATA = "mem0", "metadata"  # keys of an item's metadata: what mem0 says of it, what the caller does
PROMOTED = (*ENTITIES, "actor_id", "role", "expiration_date")  # beside `metadata` in results
_FIXED = (*ENTITIES, "actor_id")  # an item keeps them
_log = logging.getLogger("mem0_mllm")


def stored(about: Mapping[str, Any], metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """The metadata of an item; ids of user, agent and run come from `about` alone."""
    given = metadata_given(metadata)
    for name in _FIXED:
        if name in given and given.pop(name) != about.get(name):
            _log.warning("metadata[%r] is ignored: it cannot be set through metadata", name)
    known = {name: value for name, value in about.items() if value is not None}
    return {ABOUT: known, METADATA: given}


def about_of(item: Item) -> dict[str, Any]:
    """What mem0 says of an item."""
    return dict(item.metadata.get(ABOUT, {}))


def metadata_of(item: Item) -> dict[str, Any]:
    """What the caller says of it."""
    return dict(item.metadata.get(METADATA, {}))


def result(item: Item, *, scored: bool = True, explain: bool = False) -> dict[str, Any]:
    """An item as `get` and `search` give it, or without a score, as `get_all` does."""
    about = about_of(item)
    found: dict[str, Any] = {
        "id": item.id,
        "memory": item.text,
        "hash": hashlib.md5(item.text.encode("utf-8"), usedforsecurity=False).hexdigest(),
        "metadata": metadata_of(item) or None,
    }
    found |= {"score": None if item.relevance is None else score_of(item.relevance)} if scored else {}
    found |= {"created_at": item.created_at.isoformat(), "updated_at": item.updated_at.isoformat()}
    found |= {name: about[name] for name in PROMOTED if name in about}
    return found | ({"score_details": {"score": item.score, "relevance": item.relevance}} if explain else {})


def score_of(relevance: float) -> float:
    """A relevance on the scale of a cosine, for which the thresholds of scripts were chosen."""
    return math.sqrt(max(0.0, relevance))


def relevance_of(score: float) -> float:
    """The relevance that has a score."""
    return score**2


def added(item_id: str, text: str, said: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """One result of `add`; with the message that it is, where it is one."""
    told = {} if said is None else {"actor_id": said.get("name"), "role": said["role"]}
    return {"id": item_id, "memory": text, "event": "ADD", **told}


def changes(versions: Sequence[Item]) -> list[dict[str, Any]]:
    """The rows of `history`, the oldest first."""
    rows, before = [], None
    for item in versions:
        about = about_of(item)
        rows.append(
            {
                "id": f"{item.id}@{item.version}",
                "memory_id": item.id,
                "old_memory": before,
                "new_memory": item.text,
                "event": "ADD" if before is None else "UPDATE",
                "created_at": item.created_at.isoformat(),
                "updated_at": item.updated_at.isoformat(),
                "is_deleted": False,
                "actor_id": about.get("actor_id"),
                "role": about.get("role"),
            }
        )
        before = item.text
    return rows
