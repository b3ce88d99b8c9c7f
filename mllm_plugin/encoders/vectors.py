"""Vectors and lists as callers and encoders give them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.errors import DimensionMismatchError, InvalidInputError, InvalidTypeError

_NUMBERS = "fiu"  # numpy's kinds: floats and integers; no booleans, no complex numbers, no digits as text


def listed(name: str, values: Any) -> list[Any]:
    """Any iterable but a string as a list.

    Raises:
        InvalidTypeError: It is none.
    """
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise InvalidTypeError(f"{name} takes a list, got {type(values).__name__}")
    return list(values)


def as_vectors(values: Any, dim: int) -> NDArray[np.float32]:
    """One vector [d] or several [m, d] as unit float32 [m, d]; a vector of zeros has no direction and stays.

    Raises:
        InvalidTypeError: They are no real numbers.
        DimensionMismatchError: They have another width than `dim`.
        InvalidInputError: They hold NaN or infinity.
    """
    array = _numbers(values, f"text or a vector of {dim} numbers")
    if array.ndim == 0:
        raise InvalidTypeError(f"expected text or a vector of {dim} numbers, got {type(values).__name__}")
    if array.ndim == 2 and not len(array):
        raise InvalidInputError(f"expected at least one vector of {dim} numbers, got none")
    if array.ndim > 2 or array.shape[-1] != dim:
        raise DimensionMismatchError(
            f"expected vectors of {dim} dimensions, got shape {array.shape}; the memory's encoder made {dim}"
        )
    if not np.isfinite(array).all():
        raise InvalidInputError("a vector holds NaN or infinity")
    return unit(array.reshape(-1, dim))


def as_windows(values: Any, dim: int) -> NDArray[np.float32]:
    """Windows [w, d] of one text, as an encoder gives them.

    Raises:
        InvalidTypeError: They are no real numbers.
        InvalidInputError: They have another shape, or hold NaN or infinity.
    """
    array = _numbers(values, f"windows [w, {dim}] from the encoder").astype(np.float32)
    if array.ndim != 2 or array.shape[1] != dim or not np.isfinite(array).all():
        raise InvalidInputError(
            f"the encoder returned windows {array.shape}, expected finite ones [w, {dim}]"
        )
    return array


def unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Scales rows of [..., d] to unit length; zero rows stay zero."""
    vectors = np.asarray(vectors, dtype=np.float64)
    peaks = np.abs(vectors).max(axis=-1, keepdims=True, initial=0.0)
    vectors = vectors / np.where(peaks > 0, peaks, 1.0)  # so that squares stay within range
    norms = np.sqrt((vectors * vectors).sum(axis=-1, keepdims=True))
    return (vectors / np.where(norms > 0, norms, 1.0)).astype(np.float32)


def _numbers(values: Any, expected: str) -> NDArray[np.float64]:
    """An array of real numbers; numpy alone would also read digits in strings and drop imaginary parts."""
    try:
        array = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise InvalidTypeError(f"expected {expected}, got {type(values).__name__}") from error
    if array.dtype.kind not in _NUMBERS:
        kind = (
            type(values).__name__ if array.dtype.kind == "O" else f"{type(values).__name__} of {array.dtype}"
        )
        raise InvalidTypeError(f"expected {expected}, got {kind}")
    return array.astype(np.float64)
