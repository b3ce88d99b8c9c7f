"""Checks of what callers pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mllm_plugin.errors import InvalidInputError, InvalidTypeError
from mllm_plugin.types import Mode

_MODES = ("auto", "beam", "flat", "exact")


def positive(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidTypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < 1:
        raise InvalidInputError(f"{name} must be at least 1, got {value}")
    return value


def mode_of(mode: str) -> Mode:
    if mode not in _MODES:
        raise InvalidInputError(f"unknown mode {mode!r}; expected one of {', '.join(_MODES)}")
    return mode  # type: ignore[return-value]


def labels_of(labels: Sequence[str]) -> tuple[str, ...]:
    if isinstance(labels, str) or not all(isinstance(label, str) for label in labels):
        raise InvalidTypeError(f"exclude_labels takes a list of strings, got {labels!r}")
    return tuple(labels)


def ids_of(ids: Iterable[str] | str | None) -> list[str] | None:
    if ids is None:
        return None
    found = [ids] if isinstance(ids, str) else list(ids)
    for one in found:
        if not isinstance(one, str):
            raise InvalidTypeError(f"ids are strings, got {type(one).__name__} {one!r}")
    return found
