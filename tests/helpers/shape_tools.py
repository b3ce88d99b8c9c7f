"""Which annotations are checked while tests run: those of arrays; pyright looks after the others."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from beartype import beartype

_ARRAY = re.compile(r"\b(Bool|Float|Int)\d*\[")


def arrays_only(function: Callable[..., Any]) -> Callable[..., Any]:
    """What jaxtyping takes for a type checker: beartype, blind to all but shapes."""
    hints = function.__annotations__
    function.__annotations__ = {name: hint for name, hint in hints.items() if _ARRAY.search(str(hint))}
    return beartype(function)
