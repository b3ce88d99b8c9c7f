"""Whether modules fit a memory: each is tried on a small embedding chunk before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.errors import DimensionMismatchError, InvalidInputError
from mllm_plugin.hierarchy.base import LevelEncoder, Ranker


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
