"""Chooses the kernels: compiled where numba is installed (extra [fast]), else numpy with the same results."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from types import ModuleType

from mllm_plugin.image import plain


@lru_cache(maxsize=1)
def kernels() -> ModuleType:
    """The fastest kernels that this machine has."""
    if find_spec("numba") is None:
        return plain
    from mllm_plugin.image import jitted

    return jitted
