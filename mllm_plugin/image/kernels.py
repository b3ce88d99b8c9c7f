"""Chooses the kernels: compiled where numba is installed (extra [fast]), else numpy with the same results."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
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


class _Loading:
    """Whether the kernels of this process were used before, so that the next use takes no time."""

    def __init__(self) -> None:
        self._lock, self.done, self.broken = threading.Lock(), False, False

    def once(self, use: Callable[[], object]) -> bool:
        """Uses them for the first time, which loads or compiles them: seconds, not for who waits."""
        with self._lock:
            if not self.done and not self.broken:
                use()
                self.done = True
        return self.done

    def after_fork(self) -> None:
        """A process that was forked while they were loaded never gets them: what compiles them is locked."""
        self.broken = not self.done and self._lock.locked()
        self._lock = threading.Lock()


loading = _Loading()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=loading.after_fork)
