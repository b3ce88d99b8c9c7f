"""Reads the arrays of a namespace from the file, and what was written since they were.

Shapes: R rows of the arrays, N nodes (rows above the chunks), t terms.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from mllm_plugin.image.space import Level, Space, arrange, with_rare_terms, with_windows
from mllm_plugin.shapes import Bool, Int64, UInt32
from mllm_plugin.store.codec import Windows
from mllm_plugin.store.decoded import NodeRef
from mllm_plugin.store.namespaces import NamespaceRow
from mllm_plugin.store.snapshot import MOST_ROUTED, Snapshot
from mllm_plugin.text.lexical import TermCounts
from mllm_plugin.tree.editor import LOWEST_LEVEL
from mllm_plugin.tree.node import EmbeddingChunk

_IN_MEMORY = 1 << 25  # bytes of windows


@dataclass(frozen=True)
class Delta:
    """What a snapshot holds that the arrays do not.

    Attributes:
        version: Of the namespace in that snapshot.
        live: In place of the arrays': nothing of a node that changed or went.
        added: The chunks of the nodes that changed or are new; scored one and all.
        embedding_chunks: The embedding chunks of these nodes.
        chosen: As `Space.chosen`, of the arrays.
    """

    version: int
    live: UInt32[np.ndarray, " R"]
    added: Space | None
    embedding_chunks: Mapping[NodeRef, EmbeddingChunk]
    chosen: WeakKeyDictionary[Any, UInt32[np.ndarray, " R"]] = field(default_factory=WeakKeyDictionary)

    @property
    def size(self) -> int:
        """Chunks that are not in the arrays."""
        return 0 if self.added is None else len(self.added.chunk_ids)


@dataclass(frozen=True)
class Levels:
    """What the arrays of a namespace are made of, read from the file.

    Attributes:
        levels: The top first, the chunks last.
        terms: Of the chunks.
        windows: Of the chunks; none where they stay in the file.
        frequencies: Every term of the namespace, ascending, with its `Frequency`.
        version: Of the namespace.
    """

    levels: Sequence[Level]
    terms: TermCounts
    windows: Windows | None
    frequencies: Int64[np.ndarray, "t 4"]
    version: int

    def space(self) -> Space:
        """The arrays, with all that a search may look up."""
        space = with_rare_terms(arrange(self.levels, self.terms, self.version), MOST_ROUTED)
        names, counts = self.frequencies[:, 0].astype(np.uint32), self.frequencies[:, 1:].astype(np.uint32)
        space = replace(space, vocabulary=names, frequencies=counts)
        return space if self.windows is None else with_windows(space, self.windows)


def read_levels(
    snapshot: Snapshot,
    row: NamespaceRow,
    go_on: Callable[[], bool] = lambda: True,
    *,
    windows: bool = True,
    aside: Path | None = None,
) -> Levels | None:
    """Reads a namespace while `go_on` says so.

    Args:
        snapshot: Of the memory.
        row: The namespace.
        go_on: Asked before each embedding chunk.
        windows: Whether those of the chunks are read, too.
        aside: Folder for a file without a name that holds them where they are many.

    Returns:
        None where it is empty, a node has several vectors, or it was broken off.
    """
    if row.root_id is None:
        return None
    nodes, levels, terms, found = [row.root_id], [], TermCounts.empty(), None
    for depth in range(snapshot.node(row.root_id).level - 1, LOWEST_LEVEL - 2, -1):
        embedding_chunks = [snapshot.children(node) for node in nodes if go_on()]
        if len(embedding_chunks) < len(nodes) or any(
            children.vectors.shape[1] != 1 for children in embedding_chunks
        ):
            return None
        if levels:
            levels[-1] = replace(
                levels[-1], sizes=np.array([len(children) for children in embedding_chunks], np.int64)
            )
        levels.append(_level(embedding_chunks))
        nodes = levels[-1].ids.tolist()
        if depth == LOWEST_LEVEL - 1:
            terms = _terms(embedding_chunks)
            if windows:
                found = _windows(snapshot, embedding_chunks, go_on, aside)
    frequencies = [np.zeros((0, 4), np.int64)]
    frequencies += [some for some in snapshot.all_frequencies(row) if go_on()]
    return Levels(levels, terms, found, np.concatenate(frequencies), row.version) if go_on() else None


def read_space(snapshot: Snapshot, row: NamespaceRow) -> Space | None:
    """The arrays of a namespace; None where it is empty, or a node has several vectors."""
    found = read_levels(snapshot, row)
    return None if found is None else found.space()


def read_delta(snapshot: Snapshot, row: NamespaceRow, space: Space, before: Delta | None = None) -> Delta:
    """What was written between the arrays' version and the snapshot's.

    From the root down, only nodes that a write changed are read: their parents name the write.

    Args:
        snapshot: A later moment than the arrays'.
        row: The namespace there.
        space: The arrays.
        before: Of an earlier moment, to spare reading again what has not changed since.
    """
    if row.version == space.version:
        return Delta(row.version, space.live, None, {})
    whole, changed = _compared(snapshot, row, space)
    first, last = space.lowest
    chosen = np.repeat(whole[first:last], np.diff(space.first[first : last + 1]))
    live = space.counts((space.live[space.nodes :] > 0) & chosen) if last else np.zeros_like(space.live)
    known = {} if before is None else before.embedding_chunks
    embedding_chunks = {ref: known.get(ref) or snapshot.children(ref.node_id) for ref in sorted(changed)}
    if not embedding_chunks:
        return Delta(row.version, live, None, {})
    parts = list(embedding_chunks.values())
    return Delta(row.version, live, arrange([_level(parts)], _terms(parts), row.version), embedding_chunks)


def _compared(
    snapshot: Snapshot, row: NamespaceRow, space: Space
) -> tuple[Bool[np.ndarray, " N"], list[NodeRef]]:
    """Which nodes are with all below them as they were, and the lowest ones that are not."""
    whole, order = np.zeros(space.nodes, bool), np.argsort(space.ids[: space.nodes])
    if row.root_id is None or row.root_version is None:
        return whole, []
    known = space.ids[order]
    changed = [NodeRef(row.root_id, row.root_version)]
    for _ in range(snapshot.node(row.root_id).level, LOWEST_LEVEL, -1):
        embedding_chunks = [snapshot.children(ref.node_id) for ref in changed]
        ids, versions = (
            np.concatenate([getattr(chunk, name) for chunk in embedding_chunks])
            for name in ("ids", "versions")
        )
        same = np.zeros(len(ids), bool)
        if len(known):
            places = order[np.searchsorted(known, ids).clip(max=len(known) - 1)]
            same = (space.ids[places] == ids) & (space.versions[places] == versions)
            whole[places[same]] = True
        changed = list(map(NodeRef, ids[~same].tolist(), versions[~same].tolist()))
    for level in range(len(space.bounds) - 3):  # from the top down: what is below a whole one is whole too
        first, last = space.bounds[level : level + 2]
        below = slice(space.first[first], space.first[last])
        whole[below] |= np.repeat(whole[first:last], np.diff(space.first[first : last + 1]))
    return whole, changed


def _level(embedding_chunks: Sequence[EmbeddingChunk]) -> Level:
    joined = [
        np.concatenate(parts)
        for parts in zip(*((b.ids, b.live, b.versions) for b in embedding_chunks), strict=True)
    ]
    vectors = np.concatenate([children.vectors[:, 0] for children in embedding_chunks])
    return Level(*joined, vectors=vectors, sizes=np.zeros(0, np.int64))


def _windows(
    snapshot: Snapshot,
    embedding_chunks: Sequence[EmbeddingChunk],
    go_on: Callable[[], bool],
    aside: Path | None,
) -> Windows:
    """Windows of the chunks, in memory while they are few and mapped beyond; none further once broken off."""
    scales, sizes = [np.zeros(0, np.float32)], [np.zeros(0, np.int64)]
    with SpooledTemporaryFile(_IN_MEMORY, dir=None if aside is None else str(aside)) as file:
        for children in embedding_chunks:
            if not go_on():
                break
            own = snapshot.windows(children.ids)
            file.write(own.codes.tobytes())
            scales.append(own.scales)
            sizes.append(own.sizes)
        if file.tell() > _IN_MEMORY:
            file.flush()
            held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # keeps the file as long as it is
        else:
            file.seek(0)
            held = file.read()
    codes = np.frombuffer(held, np.int8).reshape(-1, snapshot.dim)
    return Windows(codes, np.concatenate(scales), np.concatenate(sizes))


def _terms(embedding_chunks: Sequence[EmbeddingChunk]) -> TermCounts:
    return TermCounts.concat([children.terms for children in embedding_chunks if children.terms is not None])
