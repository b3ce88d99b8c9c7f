"""The kernels in torch, for arrays on a device; results equal those of `plain` to the bit.

Products of codes are whole numbers that float32 adds exactly in whatever order, and all else is done in the
same order of operations. The queries of a batch walk side by side: what each has is filled up to the longest.
Shapes: as in `plain`, but w ranges of a query, t rows of a query; k of these that are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mllm_plugin.image.plain import LANES, LONGEST
from mllm_plugin.shapes import Bool, Float, Float16, Float32, Float64, Int8, Int64, Shaped

_LOWEST = torch.iinfo(torch.int64).min  # the key of what is not kept
_STEP = 1 << 28  # products that are added up at once


class Streamed:
    """Rows of which the first lie on a device; the others go there when they are read.

    Args:
        array: All rows, in memory or in a mapped file.
        device: Where to.
        many: How many of them lie there.
    """

    def __init__(self, array: Shaped[np.ndarray, "R d"], device: torch.device, many: int) -> None:
        self._there, self._rest = torch.tensor(array[:many], device=device), array[many:]
        self.device, self.shape = device, torch.Size(array.shape)

    def __getitem__(self, rows: Int64[Tensor, "*n"]) -> Shaped[Tensor, "*n d"]:
        """Some rows, as a tensor on the device."""
        many = len(self._there)
        found = self._there[rows.clamp(max=many - 1)]
        away = rows >= many
        wanted, places = torch.unique(rows[away], return_inverse=True)  # queries of a batch meet in them
        if len(wanted):
            fetched = torch.from_numpy(self._rest[wanted.cpu().numpy() - many]).to(self.device)
            found[away] = fetched[places]
        return found


class Tree(NamedTuple):
    """What a walk reads, on the device: `Space.codes`, `.scales`, and counts below each row."""

    codes: Int8[Tensor, "R d"] | Streamed
    scales: Float32[Tensor, " R"]
    live: Int64[Tensor, " R"]


class Reached(NamedTuple):
    """Rows that each query compares.

    Attributes:
        rows: Their numbers, range after range.
        owners: Which of its ranges each comes from.
        real: False for those that only fill up.
    """

    rows: Int64[Tensor, "b t"]
    owners: Int64[Tensor, "b t"]
    real: Bool[Tensor, "b t"]

    @classmethod
    def of(cls, starts: Int64[Tensor, "b w"], ends: Int64[Tensor, "b w"]) -> Reached:
        """All rows of ranges, one range after another; those that only fill up are empty."""
        sizes = ends - starts
        lasts = sizes.cumsum(1)
        places = torch.arange(int(lasts[:, -1].max()), device=starts.device)
        places = places.expand(len(starts), -1).contiguous()
        owners = torch.searchsorted(lasts, places, right=True).clamp(max=sizes.shape[1] - 1)
        real = places < lasts[:, -1:]
        rows = (starts - (lasts - sizes)).gather(1, owners) + places
        return cls(torch.where(real, rows, 0), owners, real)


def descend(
    codes: Int8[Tensor, "R d"] | Streamed,
    scales: Float32[Tensor, " R"],
    live: Int64[Tensor, " R"],
    first: Int64[Tensor, " _"],
    bounds: Int64[np.ndarray, " _"],
    queries: Int8[np.ndarray, "b l m d"],
    worth: Float32[np.ndarray, "b l m"],
    paths: Float32[np.ndarray, " L"],
    beams: Int64[np.ndarray, " L-1"],
    need: int,
) -> tuple[
    Int64[np.ndarray, " w"],
    Int64[np.ndarray, " w"],
    Int64[np.ndarray, " b"],
    Int64[np.ndarray, " b"],
    Int64[np.ndarray, " b"],
]:
    """As `plain.descend`."""
    asked = _asked(queries, worth, codes.device)
    found = _descend(Tree(codes, scales, live), first, bounds, *asked, paths, beams, need)
    starts, ends, sizes, scored, visited = (one.cpu().numpy() for one in found)
    kept = np.arange(starts.shape[1]) < sizes[:, None]
    return starts[kept], ends[kept], sizes, scored, visited


def score(
    codes: Int8[Tensor, "R d"] | Streamed,
    scales: Float32[Tensor, " R"],
    live: Int64[Tensor, " R"],
    starts: Int64[np.ndarray, " w"],
    ends: Int64[np.ndarray, " w"],
    sizes: Int64[np.ndarray, " b"],
    queries: Int8[np.ndarray, "b l m d"],
    worth: Float32[np.ndarray, "b l m"],
) -> tuple[
    Int64[np.ndarray, " n"], Float32[np.ndarray, " n"], Int64[np.ndarray, " b"], Int64[np.ndarray, " b"]
]:
    """As `plain.score`."""
    tree, device = Tree(codes, scales, live), codes.device
    asked, value = _asked(queries, worth, device)
    many, widest = len(sizes), max(1, int(sizes.max(initial=0)))
    filled = np.zeros((2, many, widest), np.int64)
    filled[:, np.arange(widest) < sizes[:, None]] = starts, ends
    lower, upper = torch.from_numpy(filled).to(device)
    if widest == 1 and (filled == filled[:, :1]).all():  # all of them compare the same rows
        rows = torch.arange(int(starts[0]), int(ends[0]), device=device)
        rows = rows[live[rows] > 0]
        parts = [_of_all(tree, part, asked[:, -1], value[:, -1]) for part in rows.split(_many(tree, many))]
        scores = torch.cat([*parts, value.new_zeros(many, 0)], dim=1).cpu().numpy().reshape(-1)
        shared = np.full(many, len(rows), np.int64)
        return np.tile(rows.cpu().numpy(), many), scores, shared, ends - starts
    reached = Reached.of(lower, upper)
    scores = _scores(tree, reached.rows, asked[:, -1], value[:, -1])
    wanted = reached.real & (live[reached.rows] > 0)
    counts = wanted.sum(1), reached.real.sum(1)
    results = (reached.rows[wanted], scores[wanted], *counts)
    rows, found, lengths, compared = (one.cpu().numpy() for one in results)
    return rows, found, lengths, compared


def nearest(
    codes: Int8[Tensor, "R d"] | Streamed,
    scales: Float32[Tensor, " R"],
    live: Int64[Tensor, " R"],
    first: Int64[Tensor, " _"],
    bounds: Int64[np.ndarray, " _"],
    queries: Int8[np.ndarray, "b l m d"],
    worth: Float32[np.ndarray, "b l m"],
    paths: Float32[np.ndarray, " L"],
    beams: Int64[np.ndarray, " L-1"],
    need: int,
    most: int,
) -> tuple[Int64[np.ndarray, "b {most}"], Int64[np.ndarray, " b"]]:
    """As `plain.nearest`."""
    tree = Tree(codes, scales, live)
    asked, value = _asked(queries, worth, codes.device)
    starts, ends, _, scored, _ = _descend(tree, first, bounds, asked, value, paths, beams, need)
    reached = Reached.of(starts, ends)
    found = _scores(tree, reached.rows, asked[:, -1], value[:, -1])
    kept, rows, _ = _best(tree, reached, found, most)
    best = np.full((len(queries), most), -1, np.int64)
    best[:, : kept.shape[1]] = torch.where(kept, rows, -1).cpu().numpy()
    return best, (scored + reached.real.sum(1)).cpu().numpy()


def exact(
    vectors: Float16[Tensor, "c d"] | Streamed,
    chunks: Int64[Tensor, "b n"],
    queries: Float32[Tensor, "b m d"],
) -> Float64[Tensor, "b n"]:
    """As `plain.exact`, for a batch.

    Args:
        vectors: Embeddings as stored.
        chunks: Which of them, for each query.
        queries: Their vectors.

    Returns:
        The best inner product of each chunk with the vectors of its query.
    """
    padding = (0, -vectors.shape[1] % LANES)
    values = torch.nn.functional.pad(vectors[chunks].double(), padding).unflatten(-1, (-1, LANES))
    asked = torch.nn.functional.pad(queries.double(), padding).unflatten(-1, (-1, LANES))
    lanes = _added(
        values[:, :, None, step] * asked[:, None, :, step] for step in range(values.shape[-2])
    )  # [b, n, m, LANES]
    return _added(lanes.unbind(-1)).amax(-1)


def _added(parts: Iterator[Tensor] | tuple[Tensor, ...]) -> Float64[Tensor, "*n"]:
    """Their sum, from the first to the last."""
    rest = iter(parts)
    total = next(rest)
    for part in rest:
        total = total + part
    return total


def _asked(
    queries: Int8[np.ndarray, "b l m d"], worth: Float32[np.ndarray, "b l m"], device: torch.device
) -> tuple[Float[Tensor, "b l m d"], Float32[Tensor, "b l m"]]:
    wide = torch.float32 if queries.shape[-1] <= LONGEST else torch.float64
    return torch.from_numpy(queries).to(device).to(wide), torch.from_numpy(worth).to(device)


def _descend(
    tree: Tree,
    first: Int64[Tensor, " _"],
    bounds: Int64[np.ndarray, " _"],
    queries: Float[Tensor, "b l m d"],
    worth: Float32[Tensor, "b l m"],
    paths: Float32[np.ndarray, " L"],
    beams: Int64[np.ndarray, " L-1"],
    need: int,
) -> tuple[
    Int64[Tensor, "b w"], Int64[Tensor, "b w"], Int64[Tensor, " b"], Int64[Tensor, " b"], Int64[Tensor, " b"]
]:
    """Ranges of chunks, how many each query has, embeddings compared and nodes gone into."""
    many, device = len(queries), queries.device
    starts = torch.zeros((many, 1), dtype=torch.int64, device=device)
    ends, sizes = torch.full_like(starts, int(bounds[1])), torch.ones_like(starts[:, 0])
    above = torch.zeros((many, 1), device=device)
    scored, visited = torch.zeros_like(sizes), torch.zeros_like(sizes)
    for level, width in enumerate(beams.tolist()):
        reached, place = Reached.of(starts, ends), min(level, queries.shape[1] - 1)
        found = _scores(tree, reached.rows, queries[:, place], worth[:, place])
        found = found + float(paths[level]) * above.gather(1, reached.owners)
        scored, visited = scored + reached.real.sum(1), visited + sizes
        kept, rows, above = _best(tree, reached, found, width, need)
        sizes = kept.sum(1)
        starts, ends = (torch.where(kept, first[one], 0) for one in (rows, rows + 1))
    return starts, ends, sizes, scored, visited + sizes


def _best(
    tree: Tree, reached: Reached, found: Float32[Tensor, "b t"], width: int, need: int = 0
) -> tuple[Bool[Tensor, "b k"], Int64[Tensor, "b k"], Float32[Tensor, "b k"]]:
    """Which are kept, the `width` best rows with something live below, and their scores.

    Best first, lower rows first on ties; more of them until `need` is held.
    """
    held = torch.where(reached.real, tree.live[reached.rows], 0)
    keys = torch.where(held > 0, _keys(found, reached.rows), _LOWEST)
    widest = width
    while True:
        widest = min(widest, keys.shape[1])
        values, places = keys.topk(widest, dim=1)
        below = held.gather(1, places).cumsum(1)
        if widest == keys.shape[1] or bool((below[:, -1] >= need).all()):
            break
        widest *= 2
    least = (below < need).sum(1, keepdim=True) + 1
    kept = torch.arange(widest, device=keys.device) < least.clamp(min=width)
    return kept & (values > _LOWEST), reached.rows.gather(1, places), found.gather(1, places)


def _keys(scores: Float32[Tensor, "b t"], rows: Int64[Tensor, "b t"]) -> Int64[Tensor, "b t"]:
    """Whole numbers in the order of scores, lower rows first where these are equal."""
    bits = (scores + 0.0).view(torch.int32).long()  # of -0.0 too, 0.0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered << 32) + (0xFFFFFFFF - rows)


def _many(tree: Tree, vectors: int) -> int:
    """Rows for which so many vectors are compared at once."""
    return max(1, _STEP // (4 * max(vectors, tree.codes.shape[1])))


def _scores(
    tree: Tree,
    rows: Int64[Tensor, "b t"],
    queries: Float[Tensor, "b m d"],
    worth: Float32[Tensor, "b m"],
) -> Float32[Tensor, "b t"]:
    """The best score of each row for the vectors of its query."""
    step = max(1, _many(tree, 1) // max(1, rows.shape[1]))
    parts = zip(rows.split(step), queries.split(step), worth.split(step), strict=True)
    return torch.cat(
        [
            _weighed(torch.bmm(tree.codes[some].to(asked.dtype), asked.mT), tree.scales[some], value)
            for some, asked, value in parts
        ]
    )


def _of_all(
    tree: Tree, rows: Int64[Tensor, " t"], queries: Float[Tensor, "b m d"], worth: Float32[Tensor, "b m"]
) -> Float32[Tensor, "b t"]:
    """The best score of rows for the vectors of every query."""
    dots = tree.codes[rows].to(queries.dtype) @ queries.flatten(0, 1).T
    return _weighed(dots.unflatten(1, queries.shape[:2]).transpose(0, 1), tree.scales[rows], worth)


def _weighed(
    dots: Float[Tensor, "b t m"], scales: Float32[Tensor, "... t"], worth: Float32[Tensor, "b m"]
) -> Float32[Tensor, "b t"]:
    """Dots of codes as scores, the best of each row's."""
    return (dots.float() * scales[..., None] * worth[:, None]).amax(-1)
