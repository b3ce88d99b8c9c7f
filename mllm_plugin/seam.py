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
    in too: what it has is used, what it leaves out is the seam's.

    Attributes:
        needed: Names of the members that have no default.
    """

    needed: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def fits(cls, given: Any) -> bool:
        """Whether an object has the members that are needed."""
        return all(hasattr(given, name) for name in cls.needed)

    @classmethod
    def of(cls: type[_Kind], given: Any) -> _Kind:
        """An object as one of this seam: itself where it inherits it, else behind the seam's defaults.

        Raises:
            InvalidTypeError: It lacks a member that has no default.
        """
        if not cls.fits(given):
            raise InvalidTypeError(
                f"{type(given).__name__} is no {cls.__name__}; expected an object with "
                f"{', '.join(cls.needed)}"
            )
        return given if isinstance(given, cls) else _stand_in(cls)(given)


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
        return self._seam.of, (self._given,)

    def __repr__(self) -> str:
        return repr(self._given)


@cache
def _stand_in(seam: type[Seam]) -> Any:
    return type(f"{seam.__name__}StandIn", (_StandIn, seam), {"_seam": seam})
