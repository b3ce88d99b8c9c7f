"""Calls a minute, counted over all workers."""

from __future__ import annotations

import time
from pathlib import Path

from diskcache import Cache

_BURST = 10.0  # seconds of calls that may come at once


class Rate:
    """A bucket for each caller that fills evenly; the workers of a server share it through a folder.

    Args:
        folder: Temporary, the same for all workers.
    """

    def __init__(self, folder: Path) -> None:
        self._times = Cache(str(folder), timeout=5)

    def wait(self, caller: str, a_minute: int) -> float:
        """Counts a call; seconds until it would be allowed, 0 when it is.

        Args:
            caller: Whose.
            a_minute: Calls allowed to it.
        """
        each, now = 60.0 / a_minute, time.time()
        with self._times.transact(retry=True):
            free = max(float(self._times.get(caller, 0.0)), now)  # type: ignore[arg-type]
            early = free - now - max(_BURST, each) + each
            if early > 1e-9:
                return early
            self._times.set(caller, free + each)
        return 0.0

    def close(self) -> None:
        """Closes the files."""
        self._times.close()
