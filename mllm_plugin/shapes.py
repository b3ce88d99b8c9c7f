"""Arrays with their shapes, for annotations: `Float32[np.ndarray, "n d"]`; `" n"` is one dimension.

Annotations are text and cost nothing. A test run reads them: there jaxtyping is loaded and checks every call.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Bool, Float, Float16, Float32, Float64, Int, Int64
else:

    class _Unchecked:
        def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
            return item[0]

    Bool = Float = Float16 = Float32 = Float64 = Int = Int64 = _Unchecked

__all__ = ["Bool", "Float", "Float16", "Float32", "Float64", "Int", "Int64"]
