"""Recalling: a search of the scope and of those around it, with what neighbours say for a message."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mllm_plugin.agent import turns
from mllm_plugin.agent.items import Memory
from mllm_plugin.agent.naming import FIELD, memory_of, names_in, namespace_of, outer_namespaces, own
from mllm_plugin.agent.turns import Place
from mllm_plugin.errors import InvalidInputError
from mllm_plugin.memory.checks import positive
from mllm_plugin.types import Hit, Namespace, StoredDocument

if TYPE_CHECKING:
    from mllm_plugin.agent.shared import Shared

_POOL = 100  # hits whose neighbours are looked at


@dataclass(frozen=True)
class Found:
    """A hit or a neighbour of one, before it is an item."""

    id: str
    namespace: Namespace
    score: float
    relevance: float


@dataclass(frozen=True)
class Wanted:
    """What a recall is asked for; see `AgentScope.recall`."""

    k: int
    within: Sequence[str] | None
    condition: Mapping[str, Any] | None
    min_relevance: float | None
    budget_tokens: int | None
    neighbours: int
    options: Mapping[str, Any]


def condition_of(
    filter: Mapping[str, Any] | None, kind: str | Iterable[str] | None
) -> Mapping[str, Any] | None:
    """The caller's filter and kinds as one filter."""
    if kind is None:
        return filter
    kinds = {f"{FIELD}.kind": {"$in": list(names_in("kind", kind))}}
    return kinds if filter is None else {"$and": [kinds, filter]}


def levels(namespace: Namespace, within: Iterable[str] | None) -> list[tuple[Namespace, bool]]:
    """Where a recall looks: the scope with everything below it, then what lies around it, the nearest first.

    Raises:
        InvalidInputError: `within` names none of the scope's own keys.
    """
    around = [(one, False) for one in outer_namespaces(namespace, within)]
    if within is None or not namespace or namespace[-1].partition(":")[0] in set(within):
        return [(namespace, True), *around]
    if not around:
        raise InvalidInputError(f"within={list(within)!r} names no part of the scope {namespace!r}")
    return around


def recall(shared: Shared, namespace: Namespace, query: str, wanted: Wanted) -> list[Memory]:
    """The best items, best first."""
    pool = max(_POOL, 4 * positive("k", wanted.k))
    places = levels(namespace, wanted.within)
    hits = [hit for place in places for hit in _searched(shared, query, place, pool, wanted)]
    found = _ranked(shared, query, hits, wanted, full=len(hits) >= pool)
    if wanted.min_relevance is not None:
        found = [one for one in found if one.relevance >= wanted.min_relevance]
    items = _items(shared, found[: wanted.k])
    if wanted.budget_tokens is not None:
        items = within_budget(shared, items, wanted.budget_tokens)
    if wanted.neighbours:
        items = [with_neighbours(shared, item, wanted.neighbours) for item in items]
    shared.audit.note("recall", namespace, [item.id for item in items])
    return items


def within_budget(shared: Shared, items: Sequence[Memory], budget: int) -> list[Memory]:
    """The first items whose lines come to at most so many tokens together."""
    kept, spent = [], 0
    for item in items:
        spent += len(shared.memory.encoder.token_offsets(item.line()))
        if spent > budget:
            break
        kept.append(item)
    return kept


def _searched(
    shared: Shared, query: str, place: tuple[Namespace, bool], pool: int, wanted: Wanted
) -> list[Hit]:
    namespace, prefix = place
    return shared.memory.search(
        query,
        k=pool,
        namespace=namespace,
        prefix=prefix,
        filter=wanted.condition,
        unique_documents=True,
        **wanted.options,
    )


def _ranked(shared: Shared, query: str, hits: Sequence[Hit], wanted: Wanted, *, full: bool) -> list[Found]:
    """Hits by their own evidence and that of their neighbours; neighbours beyond the pool with them.

    A message that the pool does not hold has at most the score of the last that it does, and counts so:
    were it left out, a hit with unseen neighbours would lose to one whose neighbours are hits too.
    """
    hits = sorted(hits, key=lambda hit: -hit.score)
    places = [turns.place(hit) for hit in hits]
    speakers = [own(hit.metadata).get("speaker") for hit in hits]
    asked_of = turns.named(query, {speaker for speaker in speakers if speaker is not None})
    scores = {place: hit.score for hit, place in zip(hits, places, strict=True) if place is not None}
    unseen = hits[-1].score if full else None
    totals = turns.in_context([hit.score for hit in hits], places, unseen)
    found = [
        Found(hit.document_id, hit.namespace, turns.weighed(total, speaker, asked_of), hit.relevance)
        for hit, total, speaker in zip(hits, totals, speakers, strict=True)
    ]
    found.sort(key=lambda one: -one.score)
    if full and scores:
        beyond = _beyond(shared, hits[-1], scores, wanted, found[: wanted.k][-1].score, asked_of)
        found = sorted([*found, *beyond], key=lambda one: -one.score)
    return found


def _beyond(
    shared: Shared,
    last: Hit,
    scores: Mapping[Place, float],
    wanted: Wanted,
    least: float,
    asked_of: str | None,
) -> list[Found]:
    """Neighbours of hits that are none themselves, and might score above `least`."""
    unknown = {near for place in scores for near, _ in turns.around(place) if near not in scores}
    worth = {near: last.score + (turns.evidence(near, scores, last.score) or 0.0) for near in unknown}
    worth = {near: score for near, score in worth.items() if score > least}
    beyond = []
    for namespace in {namespace for namespace, _ in worth}:
        condition = {f"{FIELD}.place": {"$in": [at for name, at in worth if name == namespace]}}
        if wanted.condition is not None:
            condition = {"$and": [condition, wanted.condition]}
        for document in shared.memory.documents(namespace=namespace, filter=condition, masked=False):
            said = own(document.metadata)
            score = turns.weighed(worth[namespace, said["place"]], said.get("speaker"), asked_of)
            beyond.append(Found(document.id, namespace, score, last.relevance))
    return beyond


def _items(shared: Shared, found: Sequence[Found]) -> list[Memory]:
    """Items of what was found, in its order; what was removed meanwhile is left out."""
    by_place: dict[Namespace, list[str]] = {}
    for one in found:
        by_place.setdefault(one.namespace, []).append(one.id)
    documents: dict[tuple[Namespace, str], StoredDocument] = {
        (namespace, document.id): document
        for namespace, ids in by_place.items()
        for document in shared.memory.get(ids, namespace=namespace)
    }
    return [
        memory_of(documents[one.namespace, one.id], score=one.score, relevance=one.relevance)
        for one in found
        if (one.namespace, one.id) in documents
    ]


def with_neighbours(shared: Shared, item: Memory, reach: int) -> Memory:
    """The item with the texts of so many messages before and after it in its session."""
    namespace = namespace_of(item.scope)
    found = shared.memory.get(item.id, namespace=namespace)
    at = found[0].metadata.get(FIELD, {}).get("place") if found else None
    if at is None:
        return item
    near = [at + side for side in range(-reach, reach + 1) if side]
    condition = {f"{FIELD}.place": {"$in": near}}
    around = {
        document.metadata[FIELD]["place"]: memory_of(document)
        for document in shared.memory.documents(namespace=namespace, filter=condition, masked=False)
    }
    said = {place: _said(one) for place, one in sorted(around.items()) if one.session == item.session}
    return replace(
        item,
        before=tuple(text for place, text in said.items() if place < at),
        after=tuple(text for place, text in said.items() if place > at),
    )


def _said(item: Memory) -> str:
    return f"{item.speaker}: {item.text}" if item.speaker else item.text


def by_time(items: Iterable[Memory]) -> list[Memory]:
    """Items in the order in which they were said."""
    return sorted(items, key=_time)


def _time(item: Memory) -> datetime:
    return item.at
