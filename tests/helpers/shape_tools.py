"""Which annotations are checked while tests run: those of arrays; pyright looks after the others."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any

import jaxtyping
from beartype import beartype
from jaxtyping import jaxtyped

_ARRAY = re.compile(r"\b(Bool|Float|Shaped|U?Int)\d*\[")


def arrays_only(function: Callable[..., Any]) -> Callable[..., Any]:
    """What jaxtyping takes for a type checker: beartype, blind to all but shapes."""
    function.__annotations__ = _arrays_of(function)
    return beartype(function)


def _jaxtyped_where_arrays_are(*, typechecker: Any) -> Callable[[Any], Any]:
    """A decorator that leaves alone what names no array: what is wrapped is slow, checked or not."""

    def decorate(given: Any) -> Any:
        if inspect.isclass(given):
            if is_dataclass(given) and _arrays_of(given):
                given.__init__ = decorate(given.__init__)
            return given
        inner = getattr(given, "fget", None) or getattr(given, "__func__", given)
        hints, arrays = inner.__annotations__, _arrays_of(inner)
        if not arrays:
            return given
        inner.__annotations__ = arrays  # without a return, arguments are checked once, not once more with it
        wrapped = jaxtyped(given, typechecker=typechecker)
        inner.__annotations__ = hints
        return wrapped

    return decorate


def _arrays_of(given: Any) -> dict[str, Any]:
    hints = getattr(given, "__annotations__", {})
    return {name: hint for name, hint in hints.items() if _ARRAY.search(str(hint))}


jaxtyping.jaxtyped = _jaxtyped_where_arrays_are  # the import hook decorates with what has this name
