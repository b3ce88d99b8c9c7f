"""Arrays with their shapes, for annotations: `Float32[np.ndarray, "n d"]`; `" n"` is one dimension.

Annotations are text and cost nothing. A test run reads them: there jaxtyping is loaded and checks every call.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import (
        Bool,
        Float,
        Float16,
        Float32,
        Float64,
        Int,
        Int8,
        Int32,
        Int64,
        Shaped,
        UInt8,
        UInt16,
        UInt32,
    )
else:

    class _Unchecked:
        def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
            return item[0]

    Bool = Float = Float16 = Float32 = Float64 = Shaped = _Unchecked
    Int = Int8 = Int32 = Int64 = UInt8 = UInt16 = UInt32 = _Unchecked

__all__ = [
    "Bool",
    "Float",
    "Float16",
    "Float32",
    "Float64",
    "Int",
    "Int32",
    "Int64",
    "Int8",
    "Shaped",
    "UInt16",
    "UInt32",
    "UInt8",
]
