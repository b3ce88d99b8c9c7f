"""What a caller can swap for something of their own."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from typing import Any, ClassVar, TypeVar

from mllm_plugin.errors import InvalidTypeError

_Kind = TypeVar("_Kind", bound="Seam")


class Seam:
    """Base of what can be swapped.

    Whoever inherits a seam writes what it needs and gets the rest. An object that inherits nothing can stand
    in too, see `adopted`: what it has is used, what it leaves out is the seam's.
    """

    _needed: ClassVar[tuple[str, ...]] = ()  # members without a default


def fits(seam: type[Seam], given: Any) -> bool:
    """Whether an object has the members of a seam that have no default."""
    return all(hasattr(given, name) for name in seam._needed)


def adopted(seam: type[_Kind], given: Any) -> _Kind:
    """An object as one of a seam: itself where it inherits it, else with the seam's defaults behind it.

    Raises:
        InvalidTypeError: It lacks a member that has no default.
    """
    if not fits(seam, given):
        raise InvalidTypeError(
            f"{type(given).__name__} is no {seam.__name__}; expected an object with {', '.join(seam._needed)}"
        )
    return given if isinstance(given, seam) else _stand_in(seam)(given)


class _StandIn:
    """Has every member of the object that it stands in for."""

    _seam: ClassVar[type[Seam]]

    def __init__(self, given: Any) -> None:
        self._given = given

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_"):
            with suppress(AttributeError):
                return getattr(object.__getattribute__(self, "_given"), name)
        return object.__getattribute__(self, name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_given":
            raise AttributeError(name)
        return getattr(self._given, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return adopted, (self._seam, self._given)

    def __repr__(self) -> str:
        return repr(self._given)


@cache
def _stand_in(seam: type[Seam]) -> Any:
    return type(f"{seam.__name__}StandIn", (_StandIn, seam), {"_seam": seam})
