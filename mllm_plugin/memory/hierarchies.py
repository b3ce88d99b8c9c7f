"""Which hierarchy a memory works with: the one asked for, checked against its encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mllm_plugin.config import LeafConfig
from mllm_plugin.errors import EncoderMismatchError, InvalidInputError, InvalidTypeError
from mllm_plugin.hierarchy import IDENTITY, Hierarchy, LeafRanker, read_weights, shipped_weights

DEFAULT: Literal["default"] = "default"


def choose_hierarchy(given: str | Path | Hierarchy, encoder: str, leaf: LeafConfig, *, dim: int) -> Hierarchy:
    """Builds the hierarchy that a caller names, and checks that it fits.

    Args:
        given: "default" for the package's trained weights (identity when it has none for the encoder),
            "identity", a folder with trained weights, or a `Hierarchy`.
        encoder: Fingerprint of the memory's encoder.
        leaf: Settings of the leaf ranker.
        dim: Width of the memory's embeddings.

    Raises:
        DimensionMismatchError: A module is for embeddings of another width.
        EncoderMismatchError: The weights were trained for another encoder.
        InvalidInputError: The weights are damaged, or a module fails on such embeddings.
        InvalidTypeError: It is none of these.
        NotFoundError: The folder holds no weights.
    """
    if isinstance(given, Hierarchy):
        _check_encoder(given, encoder)
        given.check(dim)
        return given
    if not isinstance(given, str | Path):
        raise InvalidTypeError(
            f"hierarchy must be 'default', 'identity', a folder or a Hierarchy, got {type(given).__name__}"
        )
    weights = None
    if given == DEFAULT:
        weights = shipped_weights(encoder)
    elif given != IDENTITY:
        weights = read_weights(given)
    if weights is None:
        return Hierarchy(leaf_ranker=LeafRanker(leaf))
    chosen = Hierarchy.from_weights(weights, leaf=leaf)
    _check_encoder(chosen, encoder)
    chosen.check(dim)
    return chosen


def reopening(hierarchy: Hierarchy) -> str | Hierarchy:
    """What opens a memory with this hierarchy again: "default", but for modules that no file can hold."""
    if hierarchy.fingerprint == IDENTITY:
        return DEFAULT
    if hierarchy.weights is None:
        return hierarchy
    try:
        Hierarchy.from_weights(hierarchy.weights)
    except InvalidInputError:  # modules of the caller's own classes
        return hierarchy
    return DEFAULT


def _check_encoder(hierarchy: Hierarchy, encoder: str) -> None:
    weights = hierarchy.weights
    if weights is not None and weights.config.encoder != encoder:
        raise EncoderMismatchError(
            f"the hierarchy was trained for encoder {weights.config.encoder!r}, the memory has {encoder!r}; "
            f"train one for it with `mllm train`, or use hierarchy='identity'"
        )
