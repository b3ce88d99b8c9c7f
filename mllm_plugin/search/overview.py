"""What a memory is about: some of its nodes, each with a label and its most central chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mllm_plugin.search.engine import Request, Searcher
from mllm_plugin.search.hits import stored_chunks
from mllm_plugin.search.labels import Below
from mllm_plugin.search.query import Query, View
from mllm_plugin.search.recall import best_nodes
from mllm_plugin.store.decoded import NodeRef
from mllm_plugin.tree.editor import LOWEST_LEVEL
from mllm_plugin.types import Topic


@dataclass(frozen=True)
class _Part:
    """A node that may be shown, and how many chunks that may be shown are below it."""

    view: View
    ref: NodeRef
    level: int
    chunks: int


def overview(
    searcher: Searcher,
    views: Sequence[View],
    query: Query | None,
    request: Request,
    *,
    nodes: int,
    words: int,
    faces: int,
) -> list[Topic]:
    """Describes nodes of a snapshot.

    Args:
        searcher: Of the memory.
        views: Namespaces of one snapshot, as the searcher gives them.
        query: What the nodes are to be about; None for what all is about.
        request: How nodes are found for a query.
        nodes: Most topics.
        words: Of each label.
        faces: Chunks shown of each.
    """
    views = [view for view in views if view.answers]
    parts = _parts(views, nodes) if query is None else _near(views, query, request, nodes)
    return [_topic(searcher, part, words, faces) for part in parts]


def _topic(searcher: Searcher, part: _Part, words: int, faces: int) -> Topic:
    below = Below.of(part.view, part.ref)
    return Topic(
        node_id=part.ref.node_id,
        level=part.level,
        words=searcher.labeller.label(part.view, part.ref, words, below) if words else (),
        chunks=part.chunks,
        faces=tuple(stored_chunks(part.view, below.central(faces))),
        namespace=part.view.row.namespace,
    )


# -- which nodes


def _parts(views: Sequence[View], most: int) -> list[_Part]:
    """The largest nodes, none within another: of all chunks, or where those are too many, of most of them.

    The largest is divided as long as that gives at most `most` nodes, or there are less than half as many.
    """
    done: list[_Part] = []
    waiting = [_root(view) for view in views]
    while waiting:
        waiting.sort(key=_order)
        largest = waiting.pop(0)
        children = _children(largest) if largest.level > LOWEST_LEVEL else []
        others = len(done) + len(waiting)
        if children and (others + len(children) <= most or 2 * (others + 1) < most):
            waiting += children
        else:
            done.append(largest)
    return sorted(done, key=_order)[:most]


def _near(views: Sequence[View], query: Query, request: Request, most: int) -> list[_Part]:
    """The lowest nodes that are nearest to a query, nearest first; roots that are lowest nodes come last."""
    by_name = {view.row.namespace: view for view in views}
    roots = [part for part in map(_root, views) if part.level == LOWEST_LEVEL]
    found = best_nodes(views, query, request, most)
    versions = views[0].snapshot.versions(node.node_id for node in found) if views else {}
    parts = []
    for node in found:
        ref = NodeRef(node.node_id, versions[node.node_id])
        parts.append(_sized(by_name[node.namespace], ref, LOWEST_LEVEL))
    return [*parts, *sorted(roots, key=_order)][:most]


def _sized(view: View, ref: NodeRef, level: int) -> _Part:
    """A lowest node."""
    children = view.children(ref)
    return _Part(view, ref, level, int(view.admitted(children.live > 0, children.ids).sum()))


def _root(view: View) -> _Part:
    return _Part(view, view.root(), view.root_level(), view.answers)


def _children(part: _Part) -> list[_Part]:
    """The nodes right below."""
    children = part.view.children(part.ref)
    counts = part.view.below(children.live, children.ids)
    rows = zip(children.ids.tolist(), children.versions.tolist(), counts.tolist(), strict=True)
    return [
        _Part(part.view, NodeRef(node_id, version), part.level - 1, count)
        for node_id, version, count in rows
        if count
    ]


def _order(part: _Part) -> tuple[int, int]:
    return (-part.chunks, part.ref.node_id)
