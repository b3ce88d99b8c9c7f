"""Hits that touch each other as one passage."""

from __future__ import annotations

from dataclasses import replace

from mllm_plugin.types import Hit, Hits


def merged(hits: Hits) -> Hits:
    """Hits of one document that overlap or touch, with the text around them, as one: the best of them.

    The first to come names score, chunk and path; `text` spans all of them, `before` and `after` lie around.
    """
    kept: list[Hit] = []
    for hit in hits:
        touching = [one for one in kept if _touch(one, hit)]
        for one in touching:
            hit = _joined(one, hit)
        place = kept.index(touching[0]) if touching else len(kept)
        kept = [one for one in kept if one not in touching]
        kept.insert(place, hit)
    return hits.replaced(kept)


def _touch(one: Hit, other: Hit) -> bool:
    if (one.namespace, one.document_id) != (other.namespace, other.document_id):
        return False
    first, second = sorted((one, other), key=_first)
    return _first(second) <= _last(first)


def _joined(best: Hit, other: Hit) -> Hit:
    """Both as one; where they touch they have the same text."""
    first, second = sorted((best, other), key=_first)
    whole, begin = _whole(first), _first(first)
    whole += _whole(second)[max(0, _last(first) - _first(second)) :]
    start, end = min(best.start, other.start), max(best.end, other.end)
    return replace(
        best,
        text=whole[start - begin : end - begin],
        start=start,
        end=end,
        before=whole[: start - begin],
        after=whole[end - begin :],
    )


def _whole(hit: Hit) -> str:
    return hit.before + hit.text + hit.after


def _first(hit: Hit) -> int:
    return hit.start - len(hit.before)


def _last(hit: Hit) -> int:
    return hit.end + len(hit.after)
