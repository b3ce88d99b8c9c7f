"""Level encoders and rankers as they run in a memory: numpy only, and cheap.

Untrained, a node is the normalised mean of its live children and a ranker is the cosine: with them a memory
ranks as the pretrained encoder does, and training is kept only where it does better.

A trained level encoder is a transformer's pooling block: a few learned seeds attend over the children (Lee et
al., Set Transformer, 2019, section 3.2), a feed-forward layer follows, and both are added to the normalised
mean, so that weights of zero give the identity. Seeds in place of self-attention between the children keep a
fold at O(children * seeds), which edits can afford. A trained ranker maps the query and takes the inner
product.

Shapes: c children, r vectors per embedding, h seeds, f hidden units, b queries, m vectors per query,
n embeddings, d dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.errors import DimensionMismatchError, InvalidInputError
from mllm_plugin.folder import check_tensors
from mllm_plugin.hierarchy.base import LevelEncoder, Ranker
from mllm_plugin.shapes import Bool, Float16, Float32, Float64

Tensors = Mapping[str, NDArray[np.float32]]
SPREAD_SCALE = 10.0  # attention logit per unit of cosine distance from the mean
_BLOCK = {
    "seeds": ("h", "d"),
    "spread": ("h",),
    "query": ("h", "d"),
    "gates": ("h", "d"),
    "down": ("f", "d"),
    "up": ("d", "f"),
}
_MAPPED = {"map": ("d", "d"), "scale": (1,), "offset": (1,), "path": (1,), "slack": (1,)}


class MeanLevelEncoder(LevelEncoder):
    """Folds an embedding chunk into the normalised mean of its live children.

    The sum of fp16 values in float64 is exact and `math.fsum` rounds once, so the result is the same to the
    bit on every machine.
    """

    def fold(
        self, children: Float16[np.ndarray, "c r d"], live: Bool[np.ndarray, " c"]
    ) -> Float16[np.ndarray, "1 d"]:
        """Folds children [c, r, d] with live [c] to [1, d]; all zero when nothing is live."""
        total = children[live].astype(np.float64).sum(axis=(0, 1))
        norm = math.sqrt(math.fsum(total * total))
        return (total / norm if norm > 0 else total).astype(np.float16)[None]


class CosineRanker(Ranker):
    """Scores an embedding by its best cosine with any of the query's vectors.

    The slack within which a node may still hold a result is unknown without training, so none is dropped.
    """

    def score(
        self, queries: Float32[np.ndarray, "b m d"], embeddings: Float32[np.ndarray, "n r d"]
    ) -> Float32[np.ndarray, "b n"]:
        """Scores embeddings [n, r, d] for queries [b, m, d]: [b, n], higher is better."""
        b, m, d = queries.shape
        n, r, _ = embeddings.shape
        cosines = queries.reshape(b * m, d) @ embeddings.reshape(n * r, d).T
        return cosines if m == r == 1 else cosines.reshape(b, m, n, r).max(axis=(1, 3))


class AttentionLevelEncoder(LevelEncoder):
    """Encoder k: the mean of the live children plus what trained seeds attend to; one vector per node.

    Args:
        tensors: For every layer i `{i}.seeds` [h, d], `{i}.spread` [h], `{i}.query` [h, d], `{i}.gates`
            [h, d], `{i}.down` [f, d] and `{i}.up` [d, f].

    Raises:
        InvalidInputError: A tensor is missing or unknown, has another shape, or is not finite.
    """

    kind = "attention"

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = {name: np.asarray(value, dtype=np.float32) for name, value in tensors.items()}
        layers = max(1, len(tensors) // len(_BLOCK))
        shapes = {f"{n}.{name}": _numbered(shape, n) for n in range(layers) for name, shape in _BLOCK.items()}
        self.dim = check_tensors(self.tensors, shapes, "a level encoder")["d"]
        self._layers = [
            {name: self.tensors[f"{layer}.{name}"].astype(np.float64) for name in _BLOCK}
            for layer in range(layers)
        ]
        self._mean = MeanLevelEncoder()

    def fold(
        self, children: Float16[np.ndarray, "c r d"], live: Bool[np.ndarray, " c"]
    ) -> Float16[np.ndarray, "1 d"]:
        """Folds children [c, r, d] with live [c] to [1, d]; all zero when nothing is live."""
        mean = self._mean.fold(children, live)[0].astype(np.float64)
        if not mean.any():
            return mean.astype(np.float16)[None]
        alive = children[live][:, 0].astype(np.float64)
        node = mean / np.linalg.norm(mean)
        distance = 1.0 - alive @ node
        for layer in self._layers:
            node = _attend(layer, alive, distance, node)
        return node.astype(np.float16)[None]


def _numbered(shape: tuple[str, ...], layer: int) -> tuple[str, ...]:
    """Every layer has seeds and hidden units of its own."""
    return tuple(size if size == "d" else f"{size}{layer}" for size in shape)


def _attend(
    layer: Mapping[str, NDArray[np.float64]],
    children: Float64[np.ndarray, "c d"],
    distance: Float64[np.ndarray, " c"],
    node: Float64[np.ndarray, " d"],
) -> Float64[np.ndarray, " d"]:
    """One block: seeds, moved by the node so far, attend over the children; then the feed-forward layer."""
    seeds = layer["seeds"] + layer["query"] * node
    logits = children @ seeds.T + SPREAD_SCALE * distance[:, None] * layer["spread"]
    weights = np.exp(logits - logits.max(axis=0))
    seen = (weights / weights.sum(axis=0)).T @ children
    node = _unit(node + (layer["gates"] * seen).sum(axis=0))
    return _unit(node + layer["up"] @ np.tanh(layer["down"] @ node))


def _unit(vector: Float64[np.ndarray, " d"]) -> Float64[np.ndarray, " d"]:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


class MappedRanker(Ranker):
    """Ranker k: the cosine after a trained map of the query, as an estimate of the best cosine below a node.

    Args:
        tensors: `map` [d, d] is added to the identity; `scale` and `offset` [1] calibrate the inner product;
            `path` [1] weighs the parent's score; `slack` [1] is how far a node may fall short of
            the best results seen before it is dropped, infinite where none is.

    Attributes:
        offset: What is added to each inner product.

    Raises:
        InvalidInputError: A tensor is missing or unknown, has another shape, or is not finite.
    """

    kind = "mapped"

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = {name: np.asarray(value, dtype=np.float32) for name, value in tensors.items()}
        self.dim = check_tensors(self.tensors, _MAPPED, "a ranker", unbounded=("slack",))["d"]
        scale, offset, path, slack = (
            float(self.tensors[name][0]) for name in ("scale", "offset", "path", "slack")
        )
        self.path_weight, self.slack = path, slack if np.isfinite(slack) else None
        self.offset = np.float32(offset)
        self._map = (scale * (np.eye(self.dim, dtype=np.float32) + self.tensors["map"])).astype(np.float32)
        self._cosine = CosineRanker()

    def score(
        self, queries: Float32[np.ndarray, "b m d"], embeddings: Float32[np.ndarray, "n r d"]
    ) -> Float32[np.ndarray, "b n"]:
        """Scores embeddings [n, r, d] for queries [b, m, d]: [b, n], higher is better."""
        return self._cosine.score(queries @ self._map, embeddings) + self.offset

    def asked(self, queries: Float32[np.ndarray, "b m d"]) -> Float32[np.ndarray, "b m d"]:
        """Vectors whose best inner product with an embedding is its score, but for a constant."""
        return queries @ self._map


# -- whether modules fit a memory: each is tried before anything is written


def check_level_encoder(module: LevelEncoder, level: int, dim: int) -> None:
    """Folds two embeddings of a memory's width.

    Raises:
        DimensionMismatchError: The module is for another width.
        InvalidInputError: It raises something, or makes no node of finite numbers.
    """
    what = f"the level encoder of level {level} ({type(module).__name__})"
    children = _pair(dim).astype(np.float16)
    found = _tried(lambda: module.fold(children, np.ones(2, dtype=bool)), module, what, dim)
    if found.ndim != 2 or found.shape[1] != dim or not np.isfinite(found).all():
        raise InvalidInputError(
            f"{what} folds embeddings {list(children.shape)} to {_told(found)}, expected finite [r, {dim}]"
        )


def check_ranker(module: Ranker, level: int, dim: int) -> None:
    """Scores two embeddings of a memory's width.

    Raises:
        DimensionMismatchError: The module is for another width.
        InvalidInputError: It raises something, or gives no finite scores.
    """
    what = f"the ranker of level {level} ({type(module).__name__})"
    embeddings = _pair(dim)
    found = _tried(lambda: module.score(embeddings[:1], embeddings), module, what, dim)
    if found.shape != (1, 2) or not np.isfinite(found).all():
        raise InvalidInputError(
            f"{what} scores 2 embeddings for 1 query with {_told(found)}, expected finite [1, 2]"
        )


def _pair(dim: int) -> NDArray[np.float32]:
    """Two embeddings [2, 1, d] of unit length."""
    found = np.zeros((2, 1, dim), dtype=np.float32)
    found[0, 0, 0] = found[1, 0, -1] = 1.0
    return found


def _tried(call: Callable[[], Any], module: Any, what: str, dim: int) -> NDArray[Any]:
    own = getattr(module, "dim", dim)
    if own != dim:
        raise DimensionMismatchError(f"{what} is for embeddings of {own} numbers, the memory's have {dim}")
    try:
        with np.errstate(all="ignore"):
            return np.asarray(call())
    except Exception as error:  # a module of the caller's own may raise anything
        raise InvalidInputError(f"{what} fails on embeddings of {dim} numbers: {error!r}") from error


def _told(found: NDArray[Any]) -> str:
    finite = found.dtype.kind == "f" and bool(np.isfinite(found).all())
    return f"{list(found.shape)}{'' if finite else ', not all of them finite'}"
