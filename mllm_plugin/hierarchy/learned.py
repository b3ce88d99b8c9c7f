"""Trained level encoders and rankers, as they run in a memory: numpy only, and cheap.

A level encoder is a transformer's pooling block: a few learned seeds attend over the children (Lee et al.,
Set Transformer, 2019, section 3.2), a feed-forward layer follows, and both are added to the normalised mean,
so that weights of zero give the identity. Seeds in place of self-attention between the children keep a fold
at O(children * seeds), which edits can afford. A ranker maps the query and takes the inner product.

Shapes: c children, r vectors per embedding, h seeds, f hidden units, b queries, m vectors per query,
n embeddings, d dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.hierarchy.base import LevelEncoder, Ranker
from mllm_plugin.hierarchy.identity import CosineRanker, MeanLevelEncoder

Tensors = Mapping[str, NDArray[np.float32]]
SPREAD_SCALE = 10.0  # attention logit per unit of cosine distance from the mean


class AttentionLevelEncoder(LevelEncoder):
    """Encoder k: the mean of the live children plus what trained seeds attend to; one vector per node.

    Args:
        tensors: For every layer i `{i}.seeds` [h, d], `{i}.spread` [h], `{i}.query` [h, d], `{i}.gates`
            [h, d], `{i}.down` [f, d] and `{i}.up` [d, f].
    """

    kind = "attention"

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = {name: np.asarray(value, dtype=np.float32) for name, value in tensors.items()}
        layers = 1 + max(int(name.split(".")[0]) for name in tensors)
        self._layers = [
            {
                name.split(".")[1]: value.astype(np.float64)
                for name, value in self.tensors.items()
                if name.startswith(f"{layer}.")
            }
            for layer in range(layers)
        ]
        self._mean = MeanLevelEncoder()

    def fold(self, children: NDArray[np.float16], live: NDArray[np.bool_]) -> NDArray[np.float16]:
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


def _attend(
    layer: Mapping[str, NDArray[np.float64]],
    children: NDArray[np.float64],
    distance: NDArray[np.float64],
    node: NDArray[np.float64],
) -> NDArray[np.float64]:
    """One block: seeds, moved by the node so far, attend over the children; then the feed-forward layer."""
    seeds = layer["seeds"] + layer["query"] * node
    logits = children @ seeds.T + SPREAD_SCALE * distance[:, None] * layer["spread"]
    weights = np.exp(logits - logits.max(axis=0))
    seen = (weights / weights.sum(axis=0)).T @ children
    node = _unit(node + (layer["gates"] * seen).sum(axis=0))
    return _unit(node + layer["up"] @ np.tanh(layer["down"] @ node))


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


class MappedRanker(Ranker):
    """Ranker k: the cosine after a trained map of the query, as an estimate of the best cosine below a node.

    Args:
        tensors: `map` [d, d] is added to the identity; `scale` and `offset` [1] calibrate the inner product;
            `path` [1] weighs the parent's score; `slack` [1] is the margin by which a node may fall short of
            the best results seen before it is dropped.
    """

    kind = "mapped"

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = {name: np.asarray(value, dtype=np.float32) for name, value in tensors.items()}
        scale, offset, path, slack = (
            float(self.tensors[name][0]) for name in ("scale", "offset", "path", "slack")
        )
        self.path_weight, self.slack = path, slack if np.isfinite(slack) else None
        self._offset = np.float32(offset)
        dim = len(self.tensors["map"])
        self._map = (scale * (np.eye(dim, dtype=np.float32) + self.tensors["map"])).astype(np.float32)
        self._cosine = CosineRanker()

    def score(self, queries: NDArray[np.float32], embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores embeddings [n, r, d] for queries [b, m, d]: [b, n], higher is better."""
        return self._cosine.score(queries @ self._map, embeddings) + self._offset
